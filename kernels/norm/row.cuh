// How the threads of a block share rows of W elements, forward and backward.
//
// A row belongs to ROW_THREADS threads: one warp, or the whole block; or SLICES blocks share it, and each has COLUMNS
// columns, which it counts from 0. Each thread has a vector of VECTOR elements in every STRIDE columns. Between the passes
// over a row its vectors wait on chip: the first IN_REGISTERS of each thread in registers, the next IN_SHARED in shared
// memory, 16 bytes beside the next thread's. What is left, of a row that no multiprocessor holds, is read again, by the
// thread that just read or wrote it, from L2.
//
// constants.cuh: Element; Weight; W; SLICES; COLUMNS, W / SLICES rounded up to a multiple of VECTOR; VECTOR, the
// elements of 16 bytes if W is a multiple of them and all rows are aligned, else 1; THREADS; ROW_THREADS, which is THREADS
// if SLICES is not 1; IN_REGISTERS, IN_SHARED; UNROLL, of the vectors that are not in registers; SHARES_COLUMNS; LAYER,
// whether rows are centred (layer norm) or not (RMSNorm); HAS_WEIGHT, HAS_BIAS.

#pragma once

#include "common/element.cuh"
#include "common/memory.cuh"
#include "common/philox.cuh"
#include "common/reduce.cuh"

using Vector = Vec<Element, VECTOR>;

constexpr int ROWS = THREADS / ROW_THREADS;               // that a block works on at a time
constexpr int STRIDE = ROW_THREADS * VECTOR;              // columns from one of a thread's vectors to its next
constexpr int VECTORS = (COLUMNS + STRIDE - 1) / STRIDE;  // of a thread
constexpr int HELD = IN_REGISTERS + IN_SHARED;

enum Place { REGISTERS, SHARED, MEMORY };

// One of a thread's vectors, and where it waits.
template <Place PLACE_> struct At {
    static constexpr Place PLACE = PLACE_;
    int i;
    int column;
};

// Neighbouring blocks have the slices of the same rows.
inline int first_of_slice() { return SLICES > 1 ? static_cast<int>(blockIdx.x % SLICES) * COLUMNS : 0; }
inline long long part() { return blockIdx.x / SLICES; }
inline int first_column() { return threadIdx.x % ROW_THREADS * VECTOR; }
inline long long first_row() { return part() * ROWS + threadIdx.x / ROW_THREADS; }
inline long long next_rows() { return static_cast<long long>(gridDim.x / SLICES) * ROWS; }

// Only the last of a thread's vectors may lie past the slice, and the one before it past the last slice, which is up to
// SLICES * VECTOR columns shorter than the others.
inline bool is_past(int i, int column) {
    constexpr bool IS_EVEN = COLUMNS % STRIDE == 0 && COLUMNS * SLICES == W;
    constexpr int LAST = SLICES > 1 ? 2 : 1;
    return !IS_EVEN && i >= VECTORS - LAST && column >= min(COLUMNS, W - first_of_slice());
}

// Calls f(At<..>) for each of this thread's vectors, TOGETHER of them interleaved where they are not in registers.
template <int TOGETHER = UNROLL, class F> void for_vectors(F f) {
#pragma unroll
    for (int i = 0; i < IN_REGISTERS; ++i) {
        const int column = first_column() + i * STRIDE;
        if (!is_past(i, column)) f(At<REGISTERS>{i, column});
    }
#pragma unroll TOGETHER
    for (int i = IN_REGISTERS; i < HELD; ++i) {
        const int column = first_column() + i * STRIDE;
        if (!is_past(i, column)) f(At<SHARED>{i, column});
    }
#pragma unroll TOGETHER
    for (int i = HELD; i < VECTORS; ++i) {
        const int column = first_column() + i * STRIDE;
        if (!is_past(i, column)) f(At<MEMORY>{i, column});
    }
}

extern __shared__ uint4 shared_rows[];

constexpr bool COPIES = IN_SHARED > 0 && sizeof(Vector) == 16;
constexpr int AREA_BYTES = IN_SHARED * THREADS * sizeof(Vector);

// This thread's vectors of a row. AREA tells the rows apart that wait at the same time.
template <int AREA> struct Row {
    const Element* memory;  // where the rest is read again
    Vector registers[IN_REGISTERS > 0 ? IN_REGISTERS : 1];

    static Element* shared(int i) {
        const int slot = (AREA * IN_SHARED + i - IN_REGISTERS) * THREADS + threadIdx.x;
        return reinterpret_cast<Element*>(shared_rows) + slot * VECTOR;
    }
    template <class Which> void keep(Which at, const Vector& v) {
        if constexpr (Which::PLACE == REGISTERS) registers[at.i] = v;
        if constexpr (Which::PLACE == SHARED) store_shared(shared(at.i), v);
    }
    template <class Which> Vector get(Which at) const {
        if constexpr (Which::PLACE == REGISTERS) return registers[at.i];
        else if constexpr (Which::PLACE == SHARED) return load<VECTOR>(shared(at.i));
        else return load<VECTOR>(memory + at.column);
    }

    // The first pass, where nothing is computed before a vector is kept: `start` has those that wait in shared memory
    // copied there, all at once and through no register; `take` gives each, and keeps the others.
    void start() const {
        if constexpr (COPIES) {
#pragma unroll
            for (int i = IN_REGISTERS; i < HELD; ++i) {
                const int column = first_column() + i * STRIDE;
                if (!is_past(i, column)) copy_async_16(shared_address(shared(i)), memory + column, true);
            }
        }
    }
    template <class Which> Vector take(Which at) {
        if constexpr (Which::PLACE == SHARED && COPIES) {
            if (at.i == IN_REGISTERS) copy_wait_all();
            return get(at);
        } else {
            const Vector v = load<VECTOR>(memory + at.column);
            keep(at, v);
            return v;
        }
    }

    // Between two passes: makes the compiler forget what it has computed from the registers. It would keep each element
    // as f32, too, which takes twice the registers.
    void settle() {
        if constexpr (sizeof(Vector) < 16) return;
        else {
#pragma unroll
            for (int i = 0; i < IN_REGISTERS; ++i) {
                uint4& v = reinterpret_cast<uint4&>(registers[i]);
                asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w));
            }
        }
    }
};

// A number that a row has one of, read once by each of its warps.
inline float of_row(const float* values, long long row) {
    return __shfl_sync(0xffffffffu, threadIdx.x % 32 == 0 ? values[row] : 0, 0);
}

// Sums over a row, by all of its threads.
inline float2 row_sum(float2 x) {
    x = make_float2(warp_sum(x.x), warp_sum(x.y));
    if constexpr (ROW_THREADS > 32) {
        x = share_by_warp<ROW_THREADS>(x, make_float2(0, 0));
        x = make_float2(warp_sum(x.x), warp_sum(x.y));
    }
    return x;
}
inline float row_sum(float x) {
    if constexpr (ROW_THREADS == 32) return warp_sum(x);
    else return block_sum<ROW_THREADS>(x);
}

// A vector (W) that every row meets: with SHARES_COLUMNS, this block's columns of it lie in shared memory for all of its
// rows; else they are read for each row, from L2. In shared memory the 16-byte pieces of a vector lie apart, and beside
// those of the next lane.
using WeightVector = Vec<Weight, VECTOR>;
constexpr int PIECE = VECTOR * sizeof(Weight) > 16 ? 16 / sizeof(Weight) : VECTOR;
constexpr int COLUMN_BYTES = (COLUMNS * sizeof(Weight) + 15) / 16 * 16;

template <bool EXISTS> struct Parameter {
    const Weight* memory;
    Weight*       shared;

    // The vector lies behind the rows that wait, of AREAS areas, and `before` others. All threads call; a barrier has to
    // follow.
    Parameter(const Weight* memory, int areas, int before)
        : memory(memory + first_of_slice()), shared(reinterpret_cast<Weight*>(
              reinterpret_cast<char*>(shared_rows) + areas * AREA_BYTES + before * COLUMN_BYTES)) {
        if constexpr (EXISTS && SHARES_COLUMNS) {
            const int end = min(COLUMNS, W - first_of_slice());
            for (int column = threadIdx.x * VECTOR; column < end; column += THREADS * VECTOR) {
#pragma unroll
                for (int k = 0; k < VECTOR; k += PIECE) {
                    const Vec<Weight, PIECE> piece = load<PIECE>(this->memory + column + k);
                    store_shared(shared + place(column, k), piece);
                }
            }
        }
    }
    WeightVector get(int column) const {
        if constexpr (SHARES_COLUMNS) {
            WeightVector v;
#pragma unroll
            for (int k = 0; k < VECTOR; k += PIECE)
                reinterpret_cast<Vec<Weight, PIECE>*>(&v)[k / PIECE] = load<PIECE>(shared + place(column, k));
            return v;
        } else {
            return load<VECTOR>(memory + column);
        }
    }

private:
    static int place(int column, int k) { return k / PIECE * (COLUMNS / VECTOR * PIECE) + column / VECTOR * PIECE; }
};

// Dropout of the VECTOR elements of an (N, W) tensor from `element` on, in row-major order: each is zero or `scale` times
// what it was.
struct Dropout {
    unsigned long long key;
    unsigned           drop_below;
    float              scale;  // 1 / (1 - probability)
};
inline void drop(float (&x)[VECTOR], const Dropout& dropout, unsigned long long element) {
#pragma unroll
    for (int k = 0; k < VECTOR; k += 4) {
        const uint4 bits = element_bits(dropout.key, (element + k) / 4);
        const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
        if constexpr (VECTOR == 1) {
            const int i = element % 4;
            const unsigned word = i < 2 ? (i == 0 ? bits.x : bits.y) : (i == 2 ? bits.z : bits.w);
            x[0] = kept(word, dropout.drop_below) ? x[0] * dropout.scale : 0;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) x[k + i] = kept(words[i], dropout.drop_below) ? x[k + i] * dropout.scale : 0;
        }
    }
}
