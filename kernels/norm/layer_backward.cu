// Gradient of layer norm of a sum (layer_forward.cu). With c = (sum - mean) * rstd, per row, and dy, dr the gradients
// of its two outputs `out` and `sum`:
//
//   dx      = dr + rstd * (w·dy - mean(w·dy, W) - c * mean(w·dy·c, W))    (N, W)  of x and of residual alike
//   dweight = sum over N of dy * c                                        (W)
//   dbias   = sum over N of dy                                            (W)
//
// Three entries, all outputs overwritten, all sums f32 and in an order that depends on the shape alone:
//   layer_norm_backward          dx; and, when FUSED, for each of its `parts` blocks one partial sum of dweight and
//                                dbias over the rows it takes (block, block + parts, ...), held in registers meanwhile
//   layer_norm_backward_columns  those partial sums for rows too wide for that: a block takes a stretch of columns and
//                                one part in `parts` of the rows. It reads dy and sum a second time.
//   layer_norm_backward_finish   adds the partial sums, in order
//
// constants.cuh comes from Rust: Element; W; VECTOR, 8 if W is a multiple of 8 and all rows are 16-byte aligned, else
// 1; THREADS; ROW_THREADS, either 32 or THREADS; FUSED.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/reduce.cuh"

struct Params {
    const Element* dy;        // (N, W), contiguous
    const Element* dr;        // (N, W), contiguous; or null, for zero
    const Element* sum;       // (N, W), rows sum_stride elements apart
    const Element* weight;    // (W)
    const float*   mean;      // (N)
    const float*   rstd;      // (N)
    Element*       dx;        // (N, W), contiguous; may be dr itself
    float*         partials;  // (parts, 2, W): dweight, dbias
    long long      rows;      // N
    long long      sum_stride;
};

using Vector = Vec<Element, VECTOR>;

constexpr int ROWS = THREADS / ROW_THREADS;  // that a block works on at a time
constexpr int STRIDE = ROW_THREADS * VECTOR;
constexpr int VECTORS = (W + STRIDE - 1) / STRIDE;
constexpr int ELEMENTS = VECTORS * VECTOR;  // per thread
constexpr bool HELD = ELEMENTS * THREADS <= 8192;
constexpr int UNROLL = HELD || FUSED ? VECTORS : 1;

struct TwoSums { float a, b; };

TwoSums row_sums(float a, float b) {
    if constexpr (ROW_THREADS == 32) return {warp_sum(a), warp_sum(b)};
    else return {block_sum<ROW_THREADS>(a), block_sum<ROW_THREADS>(b)};
}

// The warps of a block each have sums of their own when each takes a row of its own: add them in order.
template <int COUNT> void add_over_rows(float (&value)[COUNT], float* out, int first) {
    __shared__ float sums[ROWS > 1 ? W : 1];
    for (int turn = 0; turn < ROWS; ++turn) {
        __syncthreads();
        if (threadIdx.x / ROW_THREADS != turn) continue;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int column = first + i / VECTOR * STRIDE + i % VECTOR;
            if (column >= W) break;
            if (turn > 0) value[i] += sums[column];
            if (turn < ROWS - 1) sums[column] = value[i];
            else out[column] = value[i];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
layer_norm_backward(const __grid_constant__ Params p) {
    const int first = threadIdx.x % ROW_THREADS * VECTOR;
    float dweight[FUSED ? ELEMENTS : 1] = {}, dbias[FUSED ? ELEMENTS : 1] = {};

    for (long long row = static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / ROW_THREADS; row < p.rows;
         row += static_cast<long long>(gridDim.x) * ROWS) {
        const Element* dy = p.dy + row * W;
        const Element* sum = p.sum + row * p.sum_stride;
        const float mean = p.mean[row], rstd = p.rstd[row];
        Vector held_dy[HELD ? VECTORS : 1], held_sum[HELD ? VECTORS : 1];

        float g_total = 0, gc_total = 0;  // of g = w * dy and of g * c
#pragma unroll UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            const int column = first + i * STRIDE;
            if (W % STRIDE != 0 && column >= W) break;
            const Vector d = load<VECTOR>(dy + column), s = load<VECTOR>(sum + column);
            const Vector weight = load<VECTOR>(p.weight + column);
            if constexpr (HELD) {
                held_dy[i] = d;
                held_sum[i] = s;
            }
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float c = (s.get(k) - mean) * rstd, g = weight.get(k) * d.get(k);
                g_total += g;
                gc_total += g * c;
                if constexpr (FUSED) {
                    dweight[i * VECTOR + k] += d.get(k) * c;
                    dbias[i * VECTOR + k] += d.get(k);
                }
            }
        }
        const TwoSums totals = row_sums(g_total, gc_total);
        const float g_mean = totals.a / W, gc_mean = totals.b / W;

#pragma unroll UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            const int column = first + i * STRIDE;
            if (W % STRIDE != 0 && column >= W) break;
            const Vector d = HELD ? held_dy[HELD ? i : 0] : load<VECTOR>(dy + column);
            const Vector s = HELD ? held_sum[HELD ? i : 0] : load<VECTOR>(sum + column);
            const Vector weight = load<VECTOR>(p.weight + column);
            float dx[VECTOR];
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const float c = (s.get(k) - mean) * rstd;
                dx[k] = rstd * (weight.get(k) * d.get(k) - g_mean - c * gc_mean);
            }
            if (p.dr) {
                const Vector dr = load<VECTOR>(p.dr + row * W + column);
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) dx[k] += dr.get(k);
            }
            store(p.dx + row * W + column, to_vec<Element>(dx));
        }
    }
    if constexpr (FUSED) {
        float* out = p.partials + blockIdx.x * 2ll * W;
        add_over_rows(dweight, out, first);
        add_over_rows(dbias, out + W, first);
    }
}

// Grid: (W / (256 * VECTOR), rounded up; parts). 256 threads.
extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward_columns(const __grid_constant__ Params p) {
    const int column = (blockIdx.x * 256 + threadIdx.x) * VECTOR;
    if (column >= W) return;
    float dweight[VECTOR] = {}, dbias[VECTOR] = {};
#pragma unroll 4
    for (long long row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const Vector d = load<VECTOR>(p.dy + row * W + column), s = load<VECTOR>(p.sum + row * p.sum_stride + column);
        const float mean = p.mean[row], rstd = p.rstd[row];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            dweight[k] += d.get(k) * ((s.get(k) - mean) * rstd);
            dbias[k] += d.get(k);
        }
    }
    float* out = p.partials + blockIdx.y * 2ll * W + column;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        out[k] = dweight[k];
        out[W + k] = dbias[k];
    }
}

struct FinishParams {
    const float* partials;  // (parts, 2, W)
    Element*     dweight;   // (W)
    Element*     dbias;     // (W)
    long long    parts;
};

// Grid: 2 * W / 32, rounded up; 256 threads.
extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward_finish(const __grid_constant__ FinishParams p) {
    const int column = blockIdx.x * 32 + threadIdx.x % 32;
    const float sum = column_sum(p.partials, p.parts, 2 * W, column);
    if (threadIdx.x < 32 && column < W) p.dweight[column] = from_float<Element>(sum);
    if (threadIdx.x < 32 && column >= W && column < 2 * W) p.dbias[column - W] = from_float<Element>(sum);
}
