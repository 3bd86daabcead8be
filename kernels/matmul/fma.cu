// Matrix products of f32, with f32 sums of exact products:
//
//   d = a b + bias + c        a (M, K), b (K, N), bias (N), c and d (M, N), of each product of a batch
//
// Each sum goes from k = 0 up, one fused multiply-add at a time; the bias is added last, and then c, which may be d
// itself. d is overwritten. Plain rather than fast: where cuBLASLt is, it does this better.
//
// A block computes a 64 x 64 tile of d over 16 of K at a time, a thread every sixteenth row and column of it.
//
// constants.cuh comes from Rust: Element and Output (both float), A_ALONG_K and B_ALONG_K, whether neighbours in memory
// are neighbours along K (a row-major, b column-major).

#include "constants.cuh"
#include "matmul/params.cuh"

constexpr int THREADS = 256;
constexpr int TILE = 64;
constexpr int DEPTH = 16;
constexpr int SIDE = 16;   // threads along each side of the tile
constexpr int EACH = TILE / SIDE;
constexpr int PITCH = 66;  // from one k to the next: so that 16 of them, at 2 places, lie in different banks

// tile[k][outer] = the operand at (outer, k): `outer` is a row of a, or a column of b. What does not exist is 0.
template <bool ALONG_K>
void load_tile(float (&tile)[DEPTH][PITCH], const float* from, long long leading, long long existing, long long depth) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int outer = ALONG_K ? i / DEPTH : i % TILE, k = ALONG_K ? i % DEPTH : i / TILE;
        const bool exists = outer < existing && k < depth;
        tile[k][outer] = exists ? from[ALONG_K ? outer * leading + k : k * leading + outer] : 0;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_fma(const __grid_constant__ Params p) {
    __shared__ float a_tile[DEPTH][PITCH], b_tile[DEPTH][PITCH];
    const Place place = place_of_block<TILE>(p);
    const long long rows = p.M - place.row, columns = p.N - place.column;
    const float* a = p.a + place.batch * p.a_batch + place.row * (A_ALONG_K ? p.a_leading : 1);
    const float* b = p.b + place.batch * p.b_batch + place.column * (B_ALONG_K ? p.b_leading : 1);
    const int first_row = threadIdx.x / SIDE, first_column = threadIdx.x % SIDE;

    float sums[EACH][EACH] = {};
    for (long long start = 0; start < p.K; start += DEPTH) {
        __syncthreads();  // everybody is done with the last tiles
        load_tile<A_ALONG_K>(a_tile, a + start * (A_ALONG_K ? 1 : p.a_leading), p.a_leading, rows,
                             p.K - start);
        load_tile<B_ALONG_K>(b_tile, b + start * (B_ALONG_K ? 1 : p.b_leading), p.b_leading, columns,
                             p.K - start);
        __syncthreads();
        const int depth = min(static_cast<long long>(DEPTH), p.K - start);
        for (int k = 0; k < depth; ++k) {
            float left[EACH], right[EACH];
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                left[i] = a_tile[k][first_row + i * SIDE];
                right[i] = b_tile[k][first_column + i * SIDE];
            }
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
#pragma unroll
                for (int j = 0; j < EACH; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
            }
        }
    }

    float* d = p.d + place.batch * p.d_batch + place.row * p.d_leading + place.column;
    const float* c =
        p.c == nullptr ? nullptr : p.c + place.batch * p.c_batch + place.row * p.c_leading + place.column;
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int column = first_column + j * SIDE;
        if (column >= columns) continue;
        const float bias = p.bias == nullptr ? 0 : p.bias[place.column + column];
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = first_row + i * SIDE;
            if (row >= rows) continue;
            const float addend = c == nullptr ? 0 : c[row * p.c_leading + column];
            d[row * p.d_leading + column] = sums[i][j] + bias + addend;
        }
    }
}
