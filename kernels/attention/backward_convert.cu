// Attention, backward, the last step where the gradient of q was added up by many blocks (backward_key.cu with HAS_DQ):
//
//   dq     = scale * sums                                          (B, T, H, HEAD_DIM)
//
// A warp takes 16 queries. dq is overwritten.
//
// constants.cuh comes from Rust: Element, HEAD_DIM (a multiple of 8), DOCUMENTS, ADDED (dq.cuh), WARPS. Grid:
// (ceil(T / (16 * WARPS)), H, B); with DOCUMENTS, T of the longest document, and the number of them for B.

#include "attention/dq.cuh"
#include "attention/tile.cuh"

struct Params {
    float*    sums;    // as dq.cuh says
    Element*  dq;      // (B, T, H, HEAD_DIM)
    Strides   dq_strides;
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

    const float* tile = dq_tile(p.sums, p, sequence, gridDim.y, head, query);
    float dq[1][HEAD_DIM / 8][4];
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; ++j) {
        const float* block = tile + j * DQ_BLOCK;
#pragma unroll
        for (int e = 0; e < 4; e += ADDED) {
            const auto sums = load<ADDED>(block + dq_element(e));
#pragma unroll
            for (int i = 0; i < ADDED; ++i) dq[0][j][e + i] = sums.get(i);
        }
    }
    scale_by(dq, p.scale);
    store_rows(dq, staging + warp * STAGING_BYTES,
               at(p.dq, p.dq_strides, sequence.batch, sequence.query + query, head), p.dq_strides.token,
               sequence.T - query);
}
