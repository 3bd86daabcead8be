// Copies between two layouts of the same shape, of up to 6 dimensions: target[i...] = source[i...], each with strides
// of its own. The target must not overlap the source, nor itself (no stride 0 over more than one element).
//
// A unit is what one thread moves at once: 2, 4, 8 or 16 bytes, one entry each. Rust merges dimensions and takes the
// widest unit that strides and addresses allow; sizes and strides are in units. No constants.

constexpr int RANK = 6;

struct Params {
    const void* source;
    void*       target;
    long long   count;                // product of the sizes
    long long   size[RANK];           // outermost first; leading ones are 1
    long long   source_stride[RANK];
    long long   target_stride[RANK];
};

template <class Unit> void copy(const Params& p) {
    long long rest = blockIdx.x * 256ll + threadIdx.x;
    if (rest >= p.count) return;
    long long from = 0, to = 0;
#pragma unroll
    for (int d = RANK - 1; d >= 0; --d) {
        if (p.size[d] == 1) continue;
        const long long i = rest % p.size[d];
        rest /= p.size[d];
        from += i * p.source_stride[d];
        to += i * p.target_stride[d];
    }
    static_cast<Unit*>(p.target)[to] = static_cast<const Unit*>(p.source)[from];
}

extern "C" __global__ void __launch_bounds__(256) copy_2(const __grid_constant__ Params p) { copy<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) copy_4(const __grid_constant__ Params p) { copy<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) copy_8(const __grid_constant__ Params p) { copy<uint2>(p); }
extern "C" __global__ void __launch_bounds__(256) copy_16(const __grid_constant__ Params p) { copy<uint4>(p); }
