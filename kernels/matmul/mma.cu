// Matrix products of 16-bit elements on tensor cores:
//
//   d = a b + bias + c        a (M, K), b (K, N), bias (N), c and d (M, N), of each product of a batch
//
// Sums are f32, in an order that depends on K alone; bias and c are added to them before they are rounded. c may be d
// itself: the product is then added to what d holds. d is overwritten. Plain rather than fast: where cuBLASLt is, it
// does this better.
//
// A block computes a 64 x 64 tile of d, each of its four warps a quarter of that, over 64 of K at a time, for which it
// holds a 64 x 64 tile of each operand in shared memory. While one is multiplied, the next is on its way.
//
// constants.cuh comes from Rust: Element (bf16 or f16), Output (Element or float), and A_ALONG_K and B_ALONG_K, whether
// neighbours in memory are neighbours along K (a row-major, b column-major).

#include "constants.cuh"
#include "common/element.cuh"
#include "common/matrix.cuh"
#include "common/memory.cuh"
#include "matmul/params.cuh"

constexpr int THREADS = 128;
constexpr int TILE = 64;
constexpr int PITCH = 72;  // from row to row of a tile: so that 8 rows of 16 bytes, or of 4 float2, lie in different banks

using Tile = Element[TILE][PITCH];
using Sums = float[2][4][4];  // of a warp: 2 x 4 of the 16 x 8 in common/matrix.cuh

// Copies `rows` rows of `columns` elements, of which as many go into the tile as fit; the rest of the tile becomes 0.
void copy_tile(Tile& tile, const Element* from, long long leading, long long rows, long long columns, bool aligned) {
    if (aligned) {
#pragma unroll
        for (int i = threadIdx.x; i < TILE * TILE / 8; i += THREADS) {
            const int row = i / (TILE / 8), column = i % (TILE / 8) * 8;
            const int existing = row < rows ? max(0ll, min(8ll, columns - column)) : 0;
            const Element* source = existing > 0 ? from + row * leading + column : from;
            copy_async_up_to_16(shared_address(&tile[row][column]), source, existing * sizeof(Element));
        }
    } else {
#pragma unroll 8
        for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            const int row = i / TILE, column = i % TILE;
            tile[row][column] = row < rows && column < columns ? from[row * leading + column] : Element{};
        }
    }
}

// Loads a fragment of 16 x 16 elements: `outer` (a row of a, a column of b) and `k` are where the 8 x 8 matrix starts
// that this lane gives an address of.
template <bool ALONG_K> void load_fragment(unsigned (&r)[4], const Tile& tile, int outer, int k) {
    const int row = threadIdx.x % 8;
    if constexpr (ALONG_K) {
        load_matrix_x4(r, shared_address(&tile[outer + row][k]));
    } else {
        load_matrix_x4_transposed(r, shared_address(&tile[k + row][outer]));
    }
}

// sums += the warp's 32 rows of a times its 32 columns of b, over the `depth` of K that exist.
void multiply(Sums& sums, const Tile& a, const Tile& b, int warp_row, int warp_column, int depth) {
    const int first = threadIdx.x / 8 % 2 * 8, second = threadIdx.x / 16 % 2 * 8;
#pragma unroll
    for (int k = 0; k < TILE; k += 16) {
        if (k >= depth) break;
        unsigned left[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) load_fragment<A_ALONG_K>(left[i], a, warp_row + i * 16 + first, k + second);
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            unsigned right[4];
            load_fragment<B_ALONG_K>(right, b, warp_column + j * 8 + second, k + first);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                multiply_accumulate<Element>(sums[i][j], left[i], right[0], right[1]);
                multiply_accumulate<Element>(sums[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}

// What the sums of a tile become, and how much of it exists.
struct Epilogue {
    const Output* bias;  // or null
    const Output* c;     // or null
    Output*       d;
    long long     c_leading, d_leading;
    int           rows, columns;
};

// Reads N neighbouring sums. For 8 of them, eight lanes read a row together: four of the lanes take their second half
// first, so that at no time two of the eight read the same bank.
template <int N> void load_sums(float (&sums)[N], const float* staged) {
    if constexpr (N == 1) {
        sums[0] = *staged;
    } else if constexpr (N == 4) {
        *reinterpret_cast<float4*>(sums) = *reinterpret_cast<const float4*>(staged);
    } else {
        const int turn = threadIdx.x / 4 % 2 * 4;
        const float4 one = *reinterpret_cast<const float4*>(staged + turn);
        const float4 other = *reinterpret_cast<const float4*>(staged + 4 - turn);
        reinterpret_cast<float4*>(sums)[0] = turn == 0 ? one : other;
        reinterpret_cast<float4*>(sums)[1] = turn == 0 ? other : one;
    }
}

// Writes what exists of the tile, `N` elements at a time.
template <int N> void store_tile(const Epilogue& e, const float (*staged)[PITCH]) {
    for (int i = threadIdx.x; i < TILE * TILE / N; i += THREADS) {
        const int row = i / (TILE / N), column = i % (TILE / N) * N;
        if (row >= e.rows || column >= e.columns) continue;
        const bool whole = column + N <= e.columns;
        const Output* c = e.c == nullptr ? nullptr : e.c + row * e.c_leading + column;
        Output* d = e.d + row * e.d_leading + column;
        float out[N];
        load_sums(out, &staged[row][column]);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (e.bias != nullptr && column + k < e.columns) out[k] += to_float(e.bias[column + k]);
        }
        if (whole && c != nullptr) {
            const Vec<Output, N> addend = load<N>(c);
#pragma unroll
            for (int k = 0; k < N; ++k) out[k] += addend.get(k);
        }
        if (whole) {
            store(d, to_vec<Output>(out));
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                if (column + k < e.columns) d[k] = from_float<Output>(out[k] + (c != nullptr ? to_float(c[k]) : 0));
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_mma(const __grid_constant__ Params p) {
    __shared__ __align__(16) Tile tiles[2][2];  // a and b, twice
    const Place place = place_of_block<TILE>(p);
    const long long rows = p.M - place.row, columns = p.N - place.column;
    const Element* a = p.a + place.batch * p.a_batch + place.row * (A_ALONG_K ? p.a_leading : 1);
    const Element* b = p.b + place.batch * p.b_batch + place.column * (B_ALONG_K ? p.b_leading : 1);
    auto copy_tiles = [&](long long k, Tile (&into)[2]) {
        const long long depth = p.K - k;
        copy_tile(into[0], a + k * (A_ALONG_K ? 1 : p.a_leading), p.a_leading, A_ALONG_K ? rows : depth,
                  A_ALONG_K ? depth : rows, p.a_aligned);
        copy_tile(into[1], b + k * (B_ALONG_K ? 1 : p.b_leading), p.b_leading, B_ALONG_K ? columns : depth,
                  B_ALONG_K ? depth : columns, p.b_aligned);
    };

    const int warp_row = threadIdx.x / 64 * 32, warp_column = threadIdx.x / 32 % 2 * 32;
    Sums sums = {};
    int current = 0;
    if (p.K > 0) copy_tiles(0, tiles[0]);
    for (long long k = 0; k < p.K; k += TILE, current ^= 1) {
        copy_wait_all();
        __syncthreads();  // these tiles have arrived, and the others are free
        if (k + TILE < p.K) copy_tiles(k + TILE, tiles[current ^ 1]);
        const int depth = min(static_cast<long long>(TILE), p.K - k);
        multiply(sums, tiles[current][0], tiles[current][1], warp_row, warp_column, depth);
    }

    __syncthreads();  // the operands' tiles are free
    auto staged = reinterpret_cast<float(*)[PITCH]>(tiles);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float* to = &staged[warp_row + i * 16 + half * 8 + lane / 4][warp_column + j * 8 + lane % 4 * 2];
                *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
    }
    __syncthreads();
    const Epilogue epilogue = {
        p.bias == nullptr ? nullptr : p.bias + place.column,
        p.c == nullptr ? nullptr : p.c + place.batch * p.c_batch + place.row * p.c_leading + place.column,
        p.d + place.batch * p.d_batch + place.row * p.d_leading + place.column,
        p.c_leading,
        p.d_leading,
        static_cast<int>(min(static_cast<long long>(TILE), rows)),
        static_cast<int>(min(static_cast<long long>(TILE), columns)),
    };
    if (p.d_aligned) {
        store_tile<16 / sizeof(Output)>(epilogue, staged);
    } else {
        store_tile<1>(epilogue, staged);
    }
}
