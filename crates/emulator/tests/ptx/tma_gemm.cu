// tma_gemm.ptx is what NVRTC 13.0 makes of this file with --gpu-architecture=compute_90a -lineinfo.
//
// c = a bᵀ, (m, n) = (m, k) (n, k)ᵀ, row-major, bf16 to f32. A warp loads tiles of a and b, two stages ahead, with tensor
// copies that swizzle them by 128 bytes; a warpgroup multiplies them, and stores its tile of c with a tensor copy. What
// lies outside of a and b is loaded as zeros, what lies outside of c is not stored.

constexpr int TILE_M = 64, TILE_N = 32, TILE_K = 64, STAGES = 2;

struct alignas(64) TensorMap {
    unsigned char bytes[128];
};

struct Stage {
    unsigned short a[TILE_M * TILE_K];
    unsigned short b[TILE_N * TILE_K];
};

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void init(unsigned barrier, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra AGAIN;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void load(unsigned to, const TensorMap& map, int x, int y, unsigned barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}

__device__ __forceinline__ void store(const TensorMap& map, unsigned from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
                 "r"(x), "r"(y)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Rows of 128 bytes along k, swizzled; groups of 8 rows lie 1024 bytes apart.
__device__ __forceinline__ unsigned long long descriptor(unsigned address) {
    return (unsigned long long)(address >> 4 & 0x3fff) | 1ull << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void multiply(float (&d)[16], unsigned long long a, unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
        : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(160)
tma_gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap c,
         int k) {
    __shared__ alignas(1024) Stage stages[STAGES];
    __shared__ alignas(128) float tile[TILE_M * TILE_N];
    __shared__ alignas(8) unsigned long long barriers[2 * STAGES];

    const int row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N;
    const int steps = (k + TILE_K - 1) / TILE_K;
    const unsigned full = shared_address(barriers), empty = full + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            init(full + 8 * s, 1);
            init(empty + 8 * s, 128);
        }
    }
    __syncthreads();

    if (threadIdx.x >= 128) {
        if (threadIdx.x != 128) return;
        for (int step = 0; step < steps; ++step) {
            const int s = step % STAGES;
            if (step >= STAGES) wait(empty + 8 * s, (step / STAGES - 1) % 2);
            expect(full + 8 * s, sizeof(Stage));
            load(shared_address(stages[s].a), a, step * TILE_K, row, full + 8 * s);
            load(shared_address(stages[s].b), b, step * TILE_K, column, full + 8 * s);
        }
        return;
    }

    float d[16] = {};
    for (int step = 0; step < steps; ++step) {
        const int s = step % STAGES;
        wait(full + 8 * s, step / STAGES % 2);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int i = 0; i < TILE_K / 16; ++i) {
            const unsigned offset = 32 * i;
            multiply(d, descriptor(shared_address(stages[s].a) + offset), descriptor(shared_address(stages[s].b) + offset));
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        arrive(empty + 8 * s);
    }

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int j = 0; j < TILE_N / 8; ++j) {
        for (int half = 0; half < 2; ++half) {
            float* to = tile + (16 * warp + lane / 4 + 8 * half) * TILE_N + 8 * j + lane % 4 * 2;
            to[0] = d[4 * j + 2 * half];
            to[1] = d[4 * j + 2 * half + 1];
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync 1, 128;" ::: "memory");
    if (threadIdx.x == 0) store(c, shared_address(tile), column, row);
}
