// Gradient of an activation (forward.cu), which is computed again rather than read:
//
//   dx       = dout * f'(x + bias)                          (N, W)
//   dx       = dout * f'(x + bias) * (up + up_bias)         (N, W)  when GATED
//   dup      = dout * f(x + bias)                           (N, W)
//   dbias    = sum over N of dx,  dup_bias = sum over N of dup   (W)
//
// All outputs are overwritten, but for those that are null, which nobody wants; dx may be x, and dup may be up. Sums are
// f32, of what is not yet rounded, in an order that depends on the shape alone: each of `parts` blocks leaves one for each
// of its columns, and activation_backward_finish adds them.
//
// constants.cuh comes from Rust: what columns.cuh says. Grid and block: there.

#include "constants.cuh"
#include "activation/columns.cuh"
#include "common/reduce.cuh"

struct Params {
    const Element* dout;      // (N, W), contiguous
    const Element* x;         // (N, W), rows x_stride elements apart
    const Element* up;        // (N, W), rows up_stride elements apart; null unless GATED
    const Element* bias;      // (W); null unless HAS_BIAS
    const Element* up_bias;   // (W); null unless GATED and HAS_BIAS
    Element*       dx;        // (N, W), rows dx_stride elements apart; or null
    Element*       dup;       // (N, W), rows dup_stride elements apart; or null, as unless GATED
    float*         partials;  // (parts, 1 + GATED, W): dbias, dup_bias; null where neither is wanted
    long long      rows;      // N
    long long      width;     // W
    long long      x_stride, up_stride, dx_stride, dup_stride;
};

// The sums of a block's warps, in order.
void add_over_warps(const Numbers& sum, float* out, long long column, bool exists) {
    __shared__ float sums[8][VECTOR][32];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sums[warp()][k][lane()] = sum.at[k];
    __syncthreads();
    if (warp() > 0 || !exists) return;
    float total[VECTOR];
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        total[k] = sums[0][k][lane()];
        for (int i = 1; i < 8; ++i) total[k] += sums[i][k][lane()];
    }
    store(out + column, to_vec<float>(total));
}

// erfc takes many registers, once for each element. Told that two blocks to a multiprocessor will do, the compiler does
// not aim at more and spill.
constexpr int BLOCKS = GATED && FUNCTION == GELU_ERF ? 2 : 0;

extern "C" __global__ void __launch_bounds__(256, BLOCKS)
activation_backward(const __grid_constant__ Params p) {
    const long long column = first_column();
    const bool exists = column < p.width;
    const Numbers bias = bias_at(p.bias, column, exists);
    const Numbers up_bias = GATED ? bias_at(p.up_bias, column, exists) : Numbers();
    Numbers sum = {}, up_sum = {};
    if (exists) {
        for_rows(p.rows, [&](long long row) {
            const Numbers dout = numbers(p.dout + row * p.width + column), x = numbers(p.x + row * p.x_stride + column);
            const Numbers up = GATED ? numbers(p.up + row * p.up_stride + column) : Numbers();
            float dx[VECTOR], dup[VECTOR];
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const Curve f = curve(x.at[k] + bias.at[k]);
                dx[k] = dout.at[k] * f.slope;
                if constexpr (GATED) dx[k] *= up.at[k] + up_bias.at[k];
                dup[k] = dout.at[k] * f.value;
                sum.at[k] += dx[k];
                up_sum.at[k] += dup[k];
            }
            if (p.dx) store(p.dx + row * p.dx_stride + column, to_vec<Element>(dx));
            if (GATED && p.dup) store(p.dup + row * p.dup_stride + column, to_vec<Element>(dup));
        });
    }
    if (HAS_BIAS && p.partials) {
        float* out = p.partials + blockIdx.y * ((1 + GATED) * p.width);
        add_over_warps(sum, out, column, exists);
        if constexpr (GATED) add_over_warps(up_sum, out + p.width, column, exists);
    }
}

struct FinishParams {
    const float* partials;  // (parts, 1 + GATED, W)
    Element*     dbias;     // (W); or null
    Element*     dup_bias;  // (W); or null, as unless GATED
    long long    parts;
    long long    width;  // W
};

// Grid: (1 + GATED) * W / 32, rounded up; 256 threads.
extern "C" __global__ void __launch_bounds__(256)
activation_backward_finish(const __grid_constant__ FinishParams p) {
    const long long column = blockIdx.x * 32ll + lane(), columns = (1 + GATED) * p.width;
    const float sum = column_sum(p.partials, p.parts, columns, column);
    if (warp() > 0 || column >= columns) return;
    const bool is_first = column < p.width;
    Element* out = is_first ? p.dbias : p.dup_bias;
    if (out) out[is_first ? column : column - p.width] = from_float<Element>(sum);
}
