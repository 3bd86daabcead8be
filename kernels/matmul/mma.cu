// Matrix products of 16-bit elements on tensor cores:
//
//   d = a b + bias        a (M, K), b (K, N), bias (N), d (M, N), of each product of a batch
//
// Sums are f32, in an order that depends on K alone; the bias is added to them before they are rounded. d is
// overwritten. Plain rather than fast: where cuBLASLt is, it does this better.
//
// A block computes a 64 x 64 tile of d, each of its four warps a quarter of that, over 64 of K at a time, for which it
// holds a 64 x 64 tile of each operand in shared memory. While one is multiplied, the next is on its way.
//
// constants.cuh comes from Rust: Element (bf16 or f16), Output (Element or float), and A_ALONG_K and B_ALONG_K, whether
// neighbours in memory are neighbours along K (a row-major, b column-major).

#include "constants.cuh"
#include "common/element.cuh"
#include "common/matrix.cuh"
#include "common/memory.cuh"
#include "matmul/params.cuh"

constexpr int THREADS = 128;
constexpr int TILE = 64;
constexpr int PITCH = 72;  // from row to row of a tile: so that 8 rows of 16 bytes, or of 4 float2, lie in different banks

using Tile = Element[TILE][PITCH];
using Sums = float[2][4][4];  // of a warp: 2 x 4 of the 16 x 8 in common/matrix.cuh

// Copies `rows` rows of `columns` elements, of which as many go into the tile as fit; the rest of the tile becomes 0.
void copy_tile(Tile& tile, const Element* from, long long leading, long long rows, long long columns, bool aligned) {
    if (aligned) {
#pragma unroll
        for (int i = threadIdx.x; i < TILE * TILE / 8; i += THREADS) {
            const int row = i / (TILE / 8), column = i % (TILE / 8) * 8;
            const int existing = row < rows ? max(0ll, min(8ll, columns - column)) : 0;
            const Element* source = existing > 0 ? from + row * leading + column : from;
            copy_async_up_to_16(shared_address(&tile[row][column]), source, existing * sizeof(Element));
        }
    } else {
#pragma unroll 8
        for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            const int row = i / TILE, column = i % TILE;
            tile[row][column] = row < rows && column < columns ? from[row * leading + column] : Element{};
        }
    }
}

// Loads a fragment of 16 x 16 elements: `outer` (a row of a, a column of b) and `k` are where the 8 x 8 matrix starts
// that this lane gives an address of.
template <bool ALONG_K> void load_fragment(unsigned (&r)[4], const Tile& tile, int outer, int k) {
    const int row = threadIdx.x % 8;
    if constexpr (ALONG_K) {
        load_matrix_x4(r, shared_address(&tile[outer + row][k]));
    } else {
        load_matrix_x4_transposed(r, shared_address(&tile[k + row][outer]));
    }
}

// sums += the warp's 32 rows of a times its 32 columns of b, over the `depth` of K that exist.
void multiply(Sums& sums, const Tile& a, const Tile& b, int warp_row, int warp_column, int depth) {
    const int first = threadIdx.x / 8 % 2 * 8, second = threadIdx.x / 16 % 2 * 8;
#pragma unroll
    for (int k = 0; k < TILE; k += 16) {
        if (k >= depth) break;
        unsigned left[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i) load_fragment<A_ALONG_K>(left[i], a, warp_row + i * 16 + first, k + second);
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            unsigned right[4];
            load_fragment<B_ALONG_K>(right, b, warp_column + j * 8 + second, k + first);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                multiply_accumulate<Element>(sums[i][j], left[i], right[0], right[1]);
                multiply_accumulate<Element>(sums[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}

// Writes what exists of the tile, `N` elements at a time.
template <int N>
void store_tile(Output* d, const float (*sums)[PITCH], const Output* bias, long long leading, int rows, int columns) {
    for (int i = threadIdx.x; i < TILE * TILE / N; i += THREADS) {
        const int row = i / (TILE / N), column = i % (TILE / N) * N;
        if (row >= rows || column >= columns) continue;
        float out[N];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const bool biased = bias != nullptr && column + k < columns;
            out[k] = sums[row][column + k] + (biased ? to_float(bias[column + k]) : 0);
        }
        Output* to = d + row * leading + column;
        if (column + N <= columns) {
            store(to, to_vec<Output>(out));
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                if (column + k < columns) to[k] = from_float<Output>(out[k]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_mma(const __grid_constant__ Params p) {
    __shared__ __align__(16) Tile tiles[2][2];  // a and b, twice
    const Place place = place_of_block<TILE>(p);
    const long long rows = p.M - place.row, columns = p.N - place.column;
    const Element* a = p.a + place.batch * p.a_batch + place.row * (A_ALONG_K ? p.a_leading : 1);
    const Element* b = p.b + place.batch * p.b_batch + place.column * (B_ALONG_K ? p.b_leading : 1);
    auto copy_tiles = [&](long long k, Tile (&into)[2]) {
        const long long depth = p.K - k;
        copy_tile(into[0], a + k * (A_ALONG_K ? 1 : p.a_leading), p.a_leading, A_ALONG_K ? rows : depth,
                  A_ALONG_K ? depth : rows, p.a_aligned);
        copy_tile(into[1], b + k * (B_ALONG_K ? 1 : p.b_leading), p.b_leading, B_ALONG_K ? columns : depth,
                  B_ALONG_K ? depth : columns, p.b_aligned);
    };

    const int warp_row = threadIdx.x / 64 * 32, warp_column = threadIdx.x / 32 % 2 * 32;
    Sums sums = {};
    int current = 0;
    if (p.K > 0) copy_tiles(0, tiles[0]);
    for (long long k = 0; k < p.K; k += TILE, current ^= 1) {
        copy_wait_all();
        __syncthreads();  // these tiles have arrived, and the others are free
        if (k + TILE < p.K) copy_tiles(k + TILE, tiles[current ^ 1]);
        const int depth = min(static_cast<long long>(TILE), p.K - k);
        multiply(sums, tiles[current][0], tiles[current][1], warp_row, warp_column, depth);
    }

    __syncthreads();  // the operands' tiles are free
    auto staged = reinterpret_cast<float(*)[PITCH]>(tiles);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float* to = &staged[warp_row + i * 16 + half * 8 + lane / 4][warp_column + j * 8 + lane % 4 * 2];
                *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
        }
    }
    __syncthreads();
    Output* d = p.d + place.batch * p.d_batch + place.row * p.d_leading + place.column;
    const Output* bias = p.bias == nullptr ? nullptr : p.bias + place.column;
    const int existing_rows = min(static_cast<long long>(TILE), rows);
    const int existing_columns = min(static_cast<long long>(TILE), columns);
    if (p.d_aligned) {
        store_tile<8>(d, staged, bias, p.d_leading, existing_rows, existing_columns);
    } else {
        store_tile<1>(d, staged, bias, p.d_leading, existing_rows, existing_columns);
    }
}
