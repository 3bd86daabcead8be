// Layer norm (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 4) or RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467,
// eq. 4) of a sum, one transformer pre-norm step:
//
//   sum  = residual + dropout(x)                     (N, W)  the next layer's residual
//   mean = sum over W of sum / W                     (N)     layer norm only; 0 for RMSNorm
//   rstd = 1 / sqrt(mean((sum - mean)², W) + eps)    (N)     both kept for backward
//   out  = (sum - mean) * rstd * weight + bias       (N, W)
//
// Each of residual, dropout, weight and bias may be absent. Without a residual and without dropout, sum is x and is not
// written. Outputs are overwritten; `sum` may be `residual` itself. Dropout keeps element i of x, in row-major order,
// by `element_bits` of philox.cuh.
//
// A row stays on chip between the passes over it (row.cuh), so that each input is read once and each output written
// once, and the variance is the mean of squared deviations, not the difference of two large numbers. Statistics are
// f32, of the sum as rounded to Element: of what backward will see. A block goes down rows (block, block + grid, ...)
// with weight and bias at hand, as far as shared memory has room (row.cuh).
//
// constants.cuh comes from Rust: what row.cuh says; DROPOUT.

#include "constants.cuh"
#include "norm/row.cuh"

struct Params {
    const Element* x;         // (N, W), rows x_stride elements apart
    const Element* residual;  // (N, W), contiguous; or null
    const Weight*  weight;    // (W); null without
    const Weight*  bias;      // (W); null without
    Element*       sum;       // (N, W), contiguous; null if it is x
    Element*       out;       // (N, W), contiguous
    float*         mean;      // (N); null for RMSNorm
    float*         rstd;      // (N)
    long long      rows;      // N
    long long      x_stride;
    Dropout        dropout;
    float          eps;
};

Vector sum_at(const Params& p, long long row, int column) {
    Vector v = load<VECTOR>(p.x + row * p.x_stride + column);
    if (!p.sum) return v;
    float sum[VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum[k] = v.get(k);
    if constexpr (DROPOUT) drop(sum, p.dropout, row * W + column);
    if (p.residual) {
        const Vector residual = load<VECTOR>(p.residual + row * W + column);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) sum[k] += residual.get(k);
    }
    v = to_vec<Element>(sum);
    store(p.sum + row * W + column, v);
    return v;
}

void normalise(const Params& p, long long row, const Parameter<HAS_WEIGHT>& weight, const Parameter<HAS_BIAS>& bias) {
    Row<0> held;
    held.memory = p.sum ? p.sum + row * W : p.x + row * p.x_stride;

    float total = 0;  // of the elements, or of their squares
    for_vectors([&](auto at) {
        const Vector v = sum_at(p, row, at.column);
        held.keep(at, v);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) total += LAYER ? v.get(k) : v.get(k) * v.get(k);
    });
    total = row_sum(total);
    held.settle();

    const float mean = LAYER ? total / W : 0;
    float squares = total;
    if constexpr (LAYER) {
        squares = 0;
        for_vectors([&](auto at) {
            const Vector v = held.get(at);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) squares += (v.get(k) - mean) * (v.get(k) - mean);
        });
        squares = row_sum(squares);
        held.settle();
    }
    const float rstd = rsqrtf(squares / W + p.eps);
    if (first_column() == 0) {
        if constexpr (LAYER) p.mean[row] = mean;
        p.rstd[row] = rstd;
    }

    for_vectors([&](auto at) {
        const Vector v = held.get(at);
        float out[VECTOR];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) out[k] = (v.get(k) - mean) * rstd;
        if constexpr (HAS_WEIGHT) {
            const WeightVector w = weight.get(at.column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) out[k] *= w.get(k);
        }
        if constexpr (HAS_BIAS) {
            const WeightVector b = bias.get(at.column);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) out[k] += b.get(k);
        }
        store(p.out + row * W + at.column, to_vec<Element>(out));
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_forward(const __grid_constant__ Params p) {
    const Parameter<HAS_WEIGHT> weight(p.weight, 1, 0);
    const Parameter<HAS_BIAS> bias(p.bias, 1, HAS_WEIGHT);
    __syncthreads();
    for (long long row = first_row(); row < p.rows; row += next_rows()) normalise(p, row, weight, bias);
}
