// Layer norm of a sum (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 4), one transformer pre-norm step:
//
//   sum  = x + residual                              (N, W)  the next layer's residual
//   mean = sum over W of sum / W                     (N)     kept for backward, as is
//   rstd = 1 / sqrt(mean((sum - mean)², W) + eps)    (N)
//   out  = (sum - mean) * rstd * weight + bias       (N, W)
//
// Without a residual, sum is x and is not written. Outputs are overwritten; `sum` may be `residual` itself.
//
// A row belongs to ROW_THREADS threads and stays in their registers, so that each input is read once and each output
// written once, and the variance is the mean of squared deviations, not the difference of two large numbers.
// Statistics are f32, of the sum as rounded to Element: of what backward will see. A row wider than 32,768 no longer
// fits in the registers of 1024 threads, nor an f32 row in shared memory: it is read again, by the thread that just
// read or wrote it, from L2, so that memory sees each byte once all the same.
//
// constants.cuh comes from Rust: Element; W; VECTOR, 8 if W is a multiple of 8 and all rows are 16-byte aligned, else
// 1; THREADS; ROW_THREADS, either 32 or THREADS.

#include "constants.cuh"
#include "common/element.cuh"
#include "common/reduce.cuh"

struct Params {
    const Element* x;         // (N, W), rows x_stride elements apart
    const Element* residual;  // (N, W), contiguous; or null
    const Element* weight;    // (W)
    const Element* bias;      // (W)
    Element*       sum;       // (N, W), contiguous; null without a residual
    Element*       out;       // (N, W), contiguous
    float*         mean;      // (N)
    float*         rstd;      // (N)
    long long      rows;      // N
    long long      x_stride;
    float          eps;
};

using Vector = Vec<Element, VECTOR>;

constexpr int STRIDE = ROW_THREADS * VECTOR;          // columns from one of a thread's vectors to its next
constexpr int VECTORS = (W + STRIDE - 1) / STRIDE;    // per thread
constexpr bool HELD = VECTORS * VECTOR <= 32;
constexpr int UNROLL = HELD ? VECTORS : 2;

float row_sum(float x) {
    if constexpr (ROW_THREADS == 32) return warp_sum(x);
    else return block_sum<ROW_THREADS>(x);
}

Vector add(const Vector& a, const Vector& b) {
    float sum[VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum[k] = a.get(k) + b.get(k);
    return to_vec<Element>(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward(const __grid_constant__ Params p) {
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
    if (row >= p.rows) return;
    const int first = threadIdx.x % ROW_THREADS * VECTOR;
    const Element* x = p.x + row * p.x_stride;
    Vector held[HELD ? VECTORS : 1];

    float total = 0;
#pragma unroll UNROLL
    for (int i = 0; i < VECTORS; ++i) {
        const int column = first + i * STRIDE;
        if (W % STRIDE != 0 && column >= W) break;
        Vector v = load<VECTOR>(x + column);
        if (p.residual) {
            v = add(v, load<VECTOR>(p.residual + row * W + column));
            store(p.sum + row * W + column, v);
        }
        if constexpr (HELD) held[i] = v;
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) total += v.get(k);
    }
    const float mean = row_sum(total) / W;

    const Element* summed = p.residual ? p.sum + row * W : x;
    float squares = 0;
#pragma unroll UNROLL
    for (int i = 0; i < VECTORS; ++i) {
        const int column = first + i * STRIDE;
        if (W % STRIDE != 0 && column >= W) break;
        const Vector v = HELD ? held[HELD ? i : 0] : load<VECTOR>(summed + column);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) squares += (v.get(k) - mean) * (v.get(k) - mean);
    }
    const float rstd = rsqrtf(row_sum(squares) / W + p.eps);

    if (first == 0) {
        p.mean[row] = mean;
        p.rstd[row] = rstd;
    }
#pragma unroll UNROLL
    for (int i = 0; i < VECTORS; ++i) {
        const int column = first + i * STRIDE;
        if (W % STRIDE != 0 && column >= W) break;
        const Vector v = HELD ? held[HELD ? i : 0] : load<VECTOR>(summed + column);
        const Vector weight = load<VECTOR>(p.weight + column), bias = load<VECTOR>(p.bias + column);
        float out[VECTOR];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) out[k] = (v.get(k) - mean) * rstd * weight.get(k) + bias.get(k);
        store(p.out + row * W + column, to_vec<Element>(out));
    }
}
