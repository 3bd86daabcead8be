// Which blocks of MASK_BLOCK queries by MASK_BLOCK keys are empty, full or partial under all masks (block_mask.cuh):
//
//   kind = EMPTY      where no query of the block sees any of its keys
//          FULL       where every query sees every key
//          PARTIAL    otherwise                       (B or 1, H or 1, query blocks, key blocks)
//
// Masks: mask.cuh, and the user's. Queries from T on and keys from S on do not count; a block without any is empty. One
// block of threads asks for all pairs of one block, a thread for those of a key, unless no query can see any key of it:
// then nobody asks. kinds is overwritten.
//
// constants.cuh comes from Rust: those of mask.cuh and sequence.cuh; BLOCK_Q and BLOCK_K are MASK_BLOCK; WARPS. Grid:
// (query blocks * key blocks, H or 1, B or 1); with DOCUMENTS, the number of them for B.

#include "attention/expression.cuh"
#include "attention/mask.cuh"
#include "attention/named.cuh"

struct Params {
    unsigned char* kinds;
    Mask      mask;
    Documents documents;
    Named     named;
    int T, S;
};

constexpr int THREADS = WARPS * 32;

extern "C" __global__ void __launch_bounds__(THREADS)
attention_block_kinds(const __grid_constant__ Params p) {
    const int batch = blockIdx.z, head = blockIdx.y;
    const Sequence sequence(p, batch);
    const Sight sight(p.mask, sequence, batch);
    const int first_query = blockIdx.x / p.mask.blocks.key_blocks * MASK_BLOCK;
    const int first_key = blockIdx.x % p.mask.blocks.key_blocks * MASK_BLOCK;
    // Documents that are shorter than the longest may end before.
    const int queries = min(MASK_BLOCK, sight.T - first_query), keys = min(MASK_BLOCK, sight.S - first_key);

    bool any = false, all = true;
    if (queries > 0 && keys > 0 && sight.begin(first_query) < first_key + keys &&
        first_key < sight.end(first_query + queries - 1)) {
        for (int key = first_key + threadIdx.x; key - first_key < keys; key += THREADS) {
            for (int query = first_query; query - first_query < queries && any <= all; ++query) {
                bool sees = key >= sight.begin(query) && key < sight.end(query);
                if constexpr (MASK_EXPRESSION) sees = sees && user_mask(batch, head, query, key, p.named);
                any |= sees;
                all &= sees;
            }
        }
    }
    any = __syncthreads_or(any);
    all = __syncthreads_and(all);
    if (threadIdx.x == 0) {
        const long long mask = blockIdx.z * gridDim.y + blockIdx.y;
        p.kinds[mask * gridDim.x + blockIdx.x] = !any ? EMPTY : all ? FULL : PARTIAL;
    }
}
