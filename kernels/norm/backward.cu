// Gradient of layer norm or RMSNorm of a sum (forward.cu). With c = (sum - mean) * rstd, per row, dy and dr the gradients
// of its two outputs `out` and `sum`, and g = weight * dy:
//
//   dresidual = dr + rstd * (g - mean(g, W) - c * mean(g * c, W))    (N, W)  without mean(g, W) for RMSNorm
//   dx        = dropout(dresidual)                                   (N, W)  the same elements dropped as in forward
//   dweight   = sum over N of dy * c                                 (W)
//   dbias     = sum over N of dy                                     (W)
//
// Without dropout dx is dresidual, and is written once. All outputs are overwritten, all sums f32 and in an order that
// depends on the shape alone. Three entries:
//   norm_backward          dx and dresidual; and, when FUSED, for each of its `parts` blocks one partial sum of dweight
//                          and dbias over the rows it takes (block, block + parts, ...), in registers meanwhile
//   norm_backward_columns  those partial sums for rows too wide for that: a block takes a stretch of columns and one
//                          part in `parts` of the rows. It reads dy and sum a second time.
//   norm_backward_finish   adds the partial sums, in order
//
// constants.cuh comes from Rust: what row.cuh says, of which IN_REGISTERS and IN_SHARED hold for dy and for sum alike;
// DROPOUT; FUSED.

#include "constants.cuh"
#include "norm/row.cuh"

struct Params {
    const Element* dy;         // (N, W), contiguous
    const Element* dr;         // (N, W), contiguous; or null, for zero
    const Element* sum;        // (N, W), rows sum_stride elements apart
    const Weight*  weight;     // (W); null without
    const float*   mean;       // (N); null for RMSNorm
    const float*   rstd;       // (N)
    Element*       dx;         // (N, W), contiguous; may be dr itself
    Element*       dresidual;  // (N, W), contiguous; may be dr itself. Null without dropout, or where nobody asks for it
    float*         partials;   // (parts, SUMS, W): dweight, dbias
    long long      rows;       // N
    long long      sum_stride;
    Dropout        dropout;
};

constexpr int SUMS = HAS_WEIGHT + HAS_BIAS;
constexpr int ELEMENTS = VECTORS * VECTOR;  // per thread

// What a thread adds up over the rows it takes, for each of its columns.
struct Sums {
    float weight[FUSED && HAS_WEIGHT ? ELEMENTS : 1], bias[FUSED && HAS_BIAS ? ELEMENTS : 1];

    // One element.
    void add(int element, float dy, float c) {
        if constexpr (FUSED && HAS_WEIGHT) weight[element] += dy * c;
        if constexpr (FUSED && HAS_BIAS) bias[element] += dy;
    }
};

void differentiate(const Params& p, long long row, const Columns<HAS_WEIGHT>& weight, Sums& sums) {
    const float mean = LAYER ? of_row(p.mean, row) : 0, rstd = of_row(p.rstd, row);
    Row<0> held_dy;
    Row<1> held_sum;
    held_dy.memory = p.dy + row * W;
    held_sum.memory = p.sum + row * p.sum_stride;
    const auto gradient_at = [&](const Vector& dy, int column, float (&g)[VECTOR]) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) g[k] = dy.get(k);
        if constexpr (HAS_WEIGHT) {
            const WeightVector w = weight.get(column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) g[k] *= w.get(k);
        }
    };

    float2 totals = make_float2(0, 0);  // of g and of g * c
    held_dy.start();
    held_sum.start();
    for_vectors([&](auto at) {
        const Vector dy = held_dy.take(at), sum = held_sum.take(at);
        float g[VECTOR];
        gradient_at(dy, at.column, g);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            const float c = (sum.get(k) - mean) * rstd;
            if constexpr (LAYER) totals.x += g[k];
            totals.y += g[k] * c;
            sums.add(at.i * VECTOR + k, dy.get(k), c);
        }
    });
    if constexpr (LAYER) totals = row_sum(totals);
    else totals.y = row_sum(totals.y);
    held_dy.settle();
    held_sum.settle();
    const float g_mean = totals.x / W, gc_mean = totals.y / W;

    for_vectors<DROPOUT ? 1 : UNROLL>([&](auto at) {  // the bits of several vectors at once would not fit in registers
        const Vector dy = held_dy.get(at), sum = held_sum.get(at);
        float dx[VECTOR];
        gradient_at(dy, at.column, dx);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            const float c = (sum.get(k) - mean) * rstd;
            dx[k] = rstd * (dx[k] - g_mean - c * gc_mean);
        }
        if (p.dr) {
            const Vector dr = load<VECTOR>(p.dr + row * W + at.column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) dx[k] += dr.get(k);
        }
        if constexpr (DROPOUT) {
            if (p.dresidual) store(p.dresidual + row * W + at.column, to_vec<Element>(dx));
            drop(dx, p.dropout, row, at.column);
        }
        store(p.dx + row * W + at.column, to_vec<Element>(dx));
    });
}

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

extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_backward(const __grid_constant__ Params p) {
    const Columns<HAS_WEIGHT> weight(p.weight, shared_weight);
    __syncthreads();
    Sums sums = {};
    for (long long row = first_row(); row < p.rows; row += next_rows()) differentiate(p, row, weight, sums);
    if constexpr (FUSED) {
        float* out = p.partials + blockIdx.x * (1ll * SUMS * W);
        if constexpr (HAS_WEIGHT) add_over_rows(sums.weight, out);
        if constexpr (HAS_BIAS) add_over_rows(sums.bias, out + HAS_WEIGHT * W);
    }
}

// Grid: (W / (256 * VECTOR), rounded up; parts). 256 threads.
extern "C" __global__ void __launch_bounds__(256)
norm_backward_columns(const __grid_constant__ Params p) {
    const int column = (blockIdx.x * 256 + threadIdx.x) * VECTOR;
    if (column >= W) return;
    float dweight[VECTOR] = {}, dbias[VECTOR] = {};
#pragma unroll 4
    for (long long row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const Vector dy = load<VECTOR>(p.dy + row * W + column);
        if constexpr (HAS_WEIGHT) {
            const Vector sum = load<VECTOR>(p.sum + row * p.sum_stride + column);
            const float mean = LAYER ? p.mean[row] : 0, rstd = p.rstd[row];
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) dweight[k] += dy.get(k) * ((sum.get(k) - mean) * rstd);
        }
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) dbias[k] += dy.get(k);
    }
    float* out = p.partials + blockIdx.y * (1ll * SUMS * W) + column;
    if constexpr (HAS_WEIGHT) store(out, to_vec<float>(dweight));
    if constexpr (HAS_BIAS) store(out + HAS_WEIGHT * W, to_vec<float>(dbias));
}

struct FinishParams {
    const float* partials;  // (parts, SUMS, W)
    Weight*      dweight;   // (W); null without
    Weight*      dbias;     // (W); null without
    long long    parts;
};

// Grid: SUMS * W / 32, rounded up; 256 threads.
extern "C" __global__ void __launch_bounds__(256)
norm_backward_finish(const __grid_constant__ FinishParams p) {
    const int column = blockIdx.x * 32 + threadIdx.x % 32;
    const float sum = column_sum(p.partials, p.parts, SUMS * W, column);
    if (threadIdx.x >= 32 || column >= SUMS * W) return;
    Weight* out = HAS_WEIGHT && column < W ? p.dweight + column : p.dbias + column - HAS_WEIGHT * W;
    *out = from_float<Weight>(sum);
}
