// An activation f (functions.cuh) of a linear layer's output and its bias:
//
//   out = f(x + bias)                       (N, W)
//   out = f(x + bias) * (up + up_bias)      (N, W)  when GATED: SwiGLU, GeGLU (Shazeer 2020, arXiv 2002.05202, eq. 6)
//
// x and up may be the halves of one (N, 2 W) tensor. `out` is overwritten, and may be x or up where these are contiguous.
// Arithmetic is f32. Nothing but x and up is kept for backward.
//
// constants.cuh comes from Rust: what columns.cuh says. Grid and block: there.

#include "constants.cuh"
#include "activation/columns.cuh"

struct Params {
    const Element* x;        // (N, W), rows x_stride elements apart
    const Element* up;       // (N, W), rows up_stride elements apart; null unless GATED
    const Element* bias;     // (W); null unless HAS_BIAS
    const Element* up_bias;  // (W); null unless GATED and HAS_BIAS
    Element*       out;      // (N, W), contiguous
    long long      rows;     // N
    long long      width;    // W
    long long      x_stride, up_stride;
};

extern "C" __global__ void __launch_bounds__(256)
activation_forward(const __grid_constant__ Params p) {
    const long long column = first_column();
    const bool exists = column < p.width;
    const Numbers bias = bias_at(p.bias, column, exists);
    const Numbers up_bias = GATED ? bias_at(p.up_bias, column, exists) : Numbers();
    if (!exists) return;
    for_rows(p.rows, [&](long long row) {
        const Numbers x = numbers(p.x + row * p.x_stride + column);
        const Numbers up = GATED ? numbers(p.up + row * p.up_stride + column) : Numbers();
        float out[VECTOR];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            out[k] = curve(x.at[k] + bias.at[k]).value;
            if constexpr (GATED) out[k] *= up.at[k] + up_bias.at[k];
        }
        store(p.out + row * p.width + column, to_vec<Element>(out));
    });
}
