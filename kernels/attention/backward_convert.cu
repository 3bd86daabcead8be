// Attention, backward, the last step where the gradient of q was added up by many blocks (backward_key.cu with GRAD_Q):
//
//   grad_q = scale * sums                                          (B, T, H, HEAD_DIM)
//
// A warp takes 16 queries. grad_q is overwritten.
//
// constants.cuh comes from Rust: Element, HEAD_DIM (a multiple of 8), DOCUMENTS, ADDED (grad_q.cuh), WARPS. Grid:
// (ceil(T / (16 * WARPS)), H, B); with DOCUMENTS, T of the longest document, and the number of them for B.

#include "attention/grad_q.cuh"
#include "attention/tile.cuh"

struct Params {
    float*    sums;    // as grad_q.cuh says
    Element*  grad_q;  // (B, T, H, HEAD_DIM)
    Strides   grad_q_strides;
    Documents documents;
    int   T, S;
    float scale;
    int   _pad;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_backward_convert(const __grid_constant__ Params p) {
    constexpr int STAGING_BYTES = tile_bytes<HEAD_DIM>(16);
    __shared__ __align__(1024) unsigned char staging[WARPS * STAGING_BYTES];
    const Sequence sequence(p, blockIdx.z);
    const int warp = threadIdx.x / 32, head = blockIdx.y;
    const int query = (blockIdx.x * WARPS + warp) * 16;
    if (query >= sequence.T) return;

    const float* tile = grad_q_tile(p.sums, p, sequence, gridDim.y, head, query);
    float grad_q[1][HEAD_DIM / 8][4];
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; ++j) {
        const float* block = tile + j * GRAD_Q_BLOCK;
#pragma unroll
        for (int e = 0; e < 4; e += ADDED) {
            const auto sums = load<ADDED>(block + grad_q_element(e));
#pragma unroll
            for (int i = 0; i < ADDED; ++i) grad_q[0][j][e + i] = sums.get(i);
        }
    }
    scale_by(grad_q, p.scale);
    store_rows(grad_q, staging + warp * STAGING_BYTES,
               at(p.grad_q, p.grad_q_strides, sequence.batch, sequence.query + query, head), p.grad_q_strides.token,
               sequence.T - query);
}
