// Gradient of layer norm or RMSNorm of a sum (forward.cu). With c = (sum - mean) * rstd, per row, dout and dsum the
// gradients of its two outputs `out` and `sum`, and g = weight * dout:
//
//   dresidual = dsum + rstd * (g - mean(g, W) - c * mean(g * c, W))  (N, W)  without mean(g, W) for RMSNorm
//   dx        = dropout(dresidual)                                   (N, W)  the same elements dropped as in forward
//   dweight   = sum over N of dout * c                               (W)
//   dbias     = sum over N of dout                                   (W)
//
// Without dropout dx is dresidual, and is written once. All outputs are overwritten, but for those that are null, which
// nobody wants; all sums are f32 and in an order that depends on the shape alone. Each of `parts` blocks takes rows (block,
// block + parts, ...) and keeps a partial sum of dweight and dbias over them in registers. A wide row is shared by SLICES
// blocks, whose mean(g) and mean(g * c) are sums over them all: as a cluster they add them up, so that memory is read once;
// an architecture without clusters, or without the shared memory to hold the slices, reads it twice:
//
//   norm_backward_totals   (only if TWICE) those sums over each slice of a row, and the partial sums of dweight and dbias
//   norm_backward          dx and dresidual, if they are wanted, and all that norm_backward_totals has not done
//   norm_backward_finish   (only if dweight or dbias is wanted) adds the partial sums, in order
//
// constants.cuh comes from Rust: what row.cuh says, of which IN_REGISTERS and IN_SHARED hold for dout and for sum alike;
// DROPOUT; TWICE, where nothing waits on chip.

#include "constants.cuh"
#include "common/cluster.cuh"
#include "norm/row.cuh"

struct Params {
    const Element* dout;       // (N, W), contiguous
    const Element* dsum;       // (N, W), contiguous; or null, for zero
    const Element* sum;        // (N, W), rows sum_stride elements apart
    const Weight*  weight;     // (W); null without
    const float*   mean;       // (N); null for RMSNorm
    const float*   rstd;       // (N)
    Element*       dx;         // (N, W), contiguous; may be dsum itself; or null
    Element*       dresidual;  // (N, W), contiguous; may be dsum itself; or null, as without dropout
    float2*        totals;     // (N, SLICES): sums of g and of g * c; only if TWICE
    float*         partials;   // (parts, SUMS, W): dweight, dbias; null where neither is wanted
    long long      rows;       // N
    long long      sum_stride;
    Dropout        dropout;
};

constexpr int SUMS = HAS_WEIGHT + HAS_BIAS;
constexpr int ELEMENTS = VECTORS * VECTOR;  // per thread
constexpr int CLUSTER = TWICE ? 1 : SLICES;

// What a thread adds up over the rows it takes, for each of its columns.
struct Sums {
    float weight[HAS_WEIGHT ? ELEMENTS : 1], bias[HAS_BIAS ? ELEMENTS : 1];

    // One element.
    void add(int element, float dout, float c) {
        if constexpr (HAS_WEIGHT) weight[element] += dout * c;
        if constexpr (HAS_BIAS) bias[element] += dout;
    }
};

// A row, of which dout and sum wait on chip.
struct Differentiated {
    const Params&                p;
    const Parameter<HAS_WEIGHT>& weight;
    long long                    row, start;  // start: of the block's columns, in tensors without gaps
    float                        mean, rstd;
    Row<0>                       held_dout;
    Row<1>                       held_sum;

    Differentiated(const Params& p, const Parameter<HAS_WEIGHT>& weight, long long row)
        : p(p), weight(weight), row(row), start(row * W + first_of_slice()), mean(LAYER ? of_row(p.mean, row) : 0),
          rstd(of_row(p.rstd, row)) {
        held_dout.memory = p.dout + start;
        held_sum.memory = p.sum + row * p.sum_stride + first_of_slice();
    }

    void gradient_at(const Vector& dout, int column, float (&g)[VECTOR]) const {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) g[k] = dout.get(k);
        if constexpr (HAS_WEIGHT) {
            const WeightVector w = weight.get(column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) g[k] *= w.get(k);
        }
    }

    // Of g and of g * c, over this block's columns.
    float2 totals(Sums& sums) {
        float2 totals = make_float2(0, 0);
        held_dout.start();
        held_sum.start();
        for_vectors([&](auto at) {
            const Vector dout = held_dout.take(at), sum = held_sum.take(at);
            float g[VECTOR];
            gradient_at(dout, at.column, g);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float c = (sum.get(k) - mean) * rstd;
                if constexpr (LAYER) totals.x += g[k];
                totals.y += g[k] * c;
                sums.add(at.i * VECTOR + k, dout.get(k), c);
            }
        });
        if constexpr (LAYER) totals = row_sum(totals);
        else totals.y = row_sum(totals.y);
        return totals;
    }

    void write(float2 totals) {
        held_dout.settle();
        held_sum.settle();
        const float g_mean = totals.x / W, gc_mean = totals.y / W;
        // Of more vectors at a time, or the bits of several, registers would spill.
        for_vectors<DROPOUT ? 1 : 2>([&](auto at) {
            const Vector dout = held_dout.get(at), sum = held_sum.get(at);
            float dx[VECTOR];
            gradient_at(dout, at.column, dx);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float c = (sum.get(k) - mean) * rstd;
                dx[k] = rstd * (dx[k] - g_mean - c * gc_mean);
            }
            if (p.dsum) {
                const Vector dsum = load<VECTOR>(p.dsum + start + at.column);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) dx[k] += dsum.get(k);
            }
            if constexpr (DROPOUT) {
                if (p.dresidual) store(p.dresidual + start + at.column, to_vec<Element>(dx));
                if (!p.dx) return;
                drop(dx, p.dropout, start + at.column);
            }
            store(p.dx + start + at.column, to_vec<Element>(dx));
        });
    }
};

// `value` is this thread's, of each of its columns. The warps of a block each have sums of their own when each takes a
// row of its own: they add them in order.
template <int COUNT> void add_over_rows(float (&value)[COUNT], float* out) {
    if constexpr (ROWS > 1) {
        __shared__ float sums[COUNT][ROW_THREADS];
        const int lane = threadIdx.x % ROW_THREADS;
        for (int turn = 0; turn < ROWS; ++turn) {
            __syncthreads();
            if (threadIdx.x / ROW_THREADS != turn) continue;
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                if (turn > 0) value[i] += sums[i][lane];
                sums[i][lane] = value[i];
            }
        }
    }
    if (threadIdx.x / ROW_THREADS != ROWS - 1) return;
    for_vectors([&](auto at) {
        float vector[VECTOR];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) vector[k] = value[at.i * VECTOR + k];
        store(out + at.column, to_vec<float>(vector));
    });
}

void write_sums(const Params& p, Sums& sums) {
    if (!p.partials) return;
    float* out = p.partials + part() * (1ll * SUMS * W) + first_of_slice();
    if constexpr (HAS_WEIGHT) add_over_rows(sums.weight, out);
    if constexpr (HAS_BIAS) add_over_rows(sums.bias, out + HAS_WEIGHT * W);
}

// Grid of this and the next: SLICES * parts.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_backward_totals(const __grid_constant__ Params p) {
    if constexpr (TWICE) {
        const Parameter<HAS_WEIGHT> weight(p.weight, 2, 0);
        __syncthreads();
        Sums sums = {};
        for (long long row = first_row(); row < p.rows; row += next_rows()) {
            const float2 totals = Differentiated(p, weight, row).totals(sums);
            if (threadIdx.x == 0) p.totals[row * SLICES + blockIdx.x % SLICES] = totals;
        }
        write_sums(p, sums);
    }
}

// What norm_backward_totals left of a row, read once by each warp.
float2 totals_left(const Params& p, long long row) {
    float2 totals = make_float2(0, 0);
    if (threadIdx.x % 32 == 0) totals = sum_in_order<SLICES>(p.totals + row * SLICES);
    return make_float2(__shfl_sync(0xffffffffu, totals.x, 0), __shfl_sync(0xffffffffu, totals.y, 0));
}

extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(THREADS, 1)
norm_backward(const __grid_constant__ Params p) {
    __shared__ float2 places[2][CLUSTER];
    ClusterSum<CLUSTER> over_cluster{places};
    const Parameter<HAS_WEIGHT> weight(p.weight, 2, 0);
    if constexpr (CLUSTER > 1) cluster_wait();
    else __syncthreads();
    Sums sums = {};
    for (long long row = first_row(); row < p.rows; row += next_rows()) {
        Differentiated of_row(p, weight, row);
        float2 totals;
        if constexpr (TWICE) totals = totals_left(p, row);
        else totals = of_row.totals(sums);
        if constexpr (CLUSTER > 1) totals = over_cluster(totals);
        if (p.dx || p.dresidual) of_row.write(totals);
    }
    if constexpr (!TWICE) write_sums(p, sums);
}

struct FinishParams {
    const float* partials;  // (parts, SUMS, W)
    Weight*      dweight;   // (W); or null
    Weight*      dbias;     // (W); or null
    long long    parts;
};

// Grid: SUMS * W / 32, rounded up; 256 threads.
extern "C" __global__ void __launch_bounds__(256)
norm_backward_finish(const __grid_constant__ FinishParams p) {
    const int column = blockIdx.x * 32 + threadIdx.x % 32;
    const float sum = column_sum(p.partials, p.parts, SUMS * W, column);
    if (threadIdx.x >= 32 || column >= SUMS * W) return;
    const bool is_weight = HAS_WEIGHT && column < W;
    Weight* out = is_weight ? p.dweight : p.dbias;
    if (out) out[is_weight ? column : column - HAS_WEIGHT * W] = from_float<Weight>(sum);
}
