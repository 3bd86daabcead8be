// Copies between two layouts of the same shape, of up to 6 dimensions: target[i...] = source[i...], each with strides
// of its own. The target must not overlap the source, nor itself (no stride 0 over more than one element).
//
//   copy_N             a thread moves a unit of N bytes. Rust merges dimensions and takes the widest unit that strides and
//                      addresses allow; sizes and strides are in units. Grid: count / 256, rounded up.
//   copy_transposed_N  elements of N bytes whose neighbours in the source are not those in the target. The last dimension
//                      has stride 1 in the source, the one before it in the target: a block moves a TILE x TILE square of
//                      these two through shared memory, so that lines are read and written whole. Grid: the squares.
//
// No constants.

constexpr int RANK = 6, THREADS = 256;

struct Params {
    const void* source;
    void*       target;
    long long   count;                // product of the sizes
    long long   size[RANK];           // outermost first; leading ones are 1
    long long   source_stride[RANK];
    long long   target_stride[RANK];
};

struct Offsets { long long source, target; };

// Where the element of this index is, which counts through the first COUNTED dimensions, the last of them fastest.
template <int COUNTED> Offsets offsets(const Params& p, long long index) {
    Offsets at = {0, 0};
#pragma unroll
    for (int d = COUNTED - 1; d >= 0; --d) {
        if (p.size[d] == 1) continue;
        const long long i = index % p.size[d];
        index /= p.size[d];
        at.source += i * p.source_stride[d];
        at.target += i * p.target_stride[d];
    }
    return at;
}

template <class Unit> void copy(const Params& p) {
    const long long index = blockIdx.x * static_cast<long long>(THREADS) + threadIdx.x;
    if (index >= p.count) return;
    const Offsets at = offsets<RANK>(p, index);
    static_cast<Unit*>(p.target)[at.target] = static_cast<const Unit*>(p.source)[at.source];
}

// A row of the square takes PITCH units: a column of it then lies in as many banks as there are.
template <class Unit, int TILE, int PITCH> void copy_transposed(const Params& p) {
    __shared__ Unit square[TILE][PITCH];
    const long long columns = p.size[RANK - 1], rows = p.size[RANK - 2];
    const long long across = (columns + TILE - 1) / TILE, down = (rows + TILE - 1) / TILE;
    const long long column = blockIdx.x % across * TILE, row = blockIdx.x / across % down * TILE;
    const Offsets at = offsets<RANK - 2>(p, blockIdx.x / across / down);
    const long long source_row = p.source_stride[RANK - 2], target_column = p.target_stride[RANK - 1];
    const Unit* source = static_cast<const Unit*>(p.source) + at.source + row * source_row + column;
    Unit* target = static_cast<Unit*>(p.target) + at.target + column * target_column + row;
    const int width = columns - column < TILE ? columns - column : TILE, height = rows - row < TILE ? rows - row : TILE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

#pragma unroll 4
    for (int r = warp; r < height; r += THREADS / 32)
        for (int c = lane; c < width; c += 32) square[r][c] = source[r * source_row + c];
    __syncthreads();
#pragma unroll 4
    for (int c = warp; c < width; c += THREADS / 32)
        for (int r = lane; r < height; r += 32) target[c * target_column + r] = square[r][c];
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_2(const __grid_constant__ Params p) {
    copy<unsigned short>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_4(const __grid_constant__ Params p) { copy<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_8(const __grid_constant__ Params p) { copy<uint2>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_16(const __grid_constant__ Params p) { copy<uint4>(p); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_transposed_2(const __grid_constant__ Params p) {
    copy_transposed<unsigned short, 64, 66>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_transposed_4(const __grid_constant__ Params p) {
    copy_transposed<unsigned, 32, 33>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) copy_transposed_8(const __grid_constant__ Params p) {
    copy_transposed<uint2, 32, 33>(p);
}
