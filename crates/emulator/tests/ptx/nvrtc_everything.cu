// nvrtc_everything.ptx is what NVRTC 13.0 makes of this file with --gpu-architecture=compute_90a -lineinfo.

extern "C" __device__ int printf(const char*, ...);

struct Shape {
    float a;
    __device__ virtual float area(float x) const { return a * x; }
};
struct Disc : Shape {
    __device__ float area(float x) const override { return a * x * x; }
};
struct Big {
    double d[5];
    char c;
    short s;
};

__device__ int table[4] = {1, 2, 3, 4};
__device__ int* where = &table[2];
__device__ const char* words[3] = {"one", "two\n\"q\"", "three"};
__device__ double fraction = 1.5;
__device__ long long negative = -5;
__device__ bool yes = true;
__device__ __managed__ int managed;
__constant__ float weights[2][3] = {{1.f, 2.f}, {3.f}};
extern __shared__ double dynamic[];

__device__ float plus(float a, float b) { return a + b; }
__device__ __noinline__ float minus(float a, float b) { return a - b; }
__device__ float (*operations[2])(float, float) = {plus, minus};

__device__ __noinline__ Big make(int i, Big in) {
    in.d[i] = i;
    in.c++;
    return in;
}
__device__ __noinline__ int factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }

// A label and a register of inline assembly, twice in one function: each in its scope.
__device__ __forceinline__ void wait(unsigned barrier) {
    asm volatile(
        "{\n .reg .pred done;\n AGAIN: mbarrier.try_wait.parity.shared.b64 done, [%0], 0;\n"
        " @done bra DONE;\n bra AGAIN;\n DONE:\n}" ::"r"(barrier));
}

extern "C" __global__ void __launch_bounds__(256, 2) __cluster_dims__(2, 1, 1)
    everything(float* p, int n, Big b, const __grid_constant__ Big g) {
    __shared__ volatile int tile[32][33];
    static __device__ int counter;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x / 32][threadIdx.x % 32] = i;
    dynamic[i] = i;
    counter++;
    __syncthreads();
    switch (n) {
        case 0: p[0] = 1; break;
        case 1: p[1] = __sinf(p[0]); break;
        case 2: p[2] = 7; break;
        case 3: p[4] = 8; break;
        case 4: p[1] = 9; break;
        case 5: p[0] = factorial(n); break;
        default: p[7] = words[n][0];
    }
    p[i] = operations[n & 1](p[i], weights[n][1]);
    const Big r = make(n, b);
    Disc d;
    d.a = p[0];
    Shape* s = n > 3 ? &d : new Disc;
    p[3] = s->area(p[4]) + r.d[2] + g.c + *where + fraction + negative + yes;
    int local[16];
    for (int k = 0; k < 16; ++k) local[k] = k * n;
    p[6] = local[n % 16];
    printf("hello %d %f\n", n, p[0]);
    wait(n);
    wait(n + 8);
    __trap();
}

extern "C" __global__ void __maxnreg__(64) limited(int* p) {
    *p = atomicAdd(p, 1) + __shfl_xor_sync(~0u, *p, 1) + managed;
}
