// out[i] = f(a[i % a_period], b[i % b_period], scalar), i < count, with f chosen by OPERATION. Arithmetic is f32.
//
// A period is the number of elements of an operand that is repeated along the leading dimensions of the other (a bias
// over rows, a scalar over everything), or `count` where it is not repeated. `out` is overwritten, and may be an
// operand that is not repeated and has its type.
//
// constants.cuh comes from Rust: Element (of a and b), Output, OPERATION, THREADS.

#include "constants.cuh"
#include "common/element.cuh"

// As in crates/kernels/src/elementwise.rs.
enum Operation { FILL, CAST, SCALE, SCALE_BY, ADD, SUB, MUL, ADD_SCALED };

constexpr bool READS_A = OPERATION != FILL;
constexpr bool READS_B = OPERATION == ADD || OPERATION == SUB || OPERATION == MUL || OPERATION == ADD_SCALED;

struct Params {
    const Element* a;         // (a_period); null for FILL
    const Element* b;         // (b_period); null for the operations of one operand. For SCALE_BY: one f32, the scalar
    Output*        out;       // (count)
    long long      count;
    long long      a_period;  // a multiple of 8, if `aligned`
    long long      b_period;
    float          scalar;    // for FILL, SCALE and ADD_SCALED
    int            aligned;   // all pointers, to 16 bytes
};

float apply(float a, float b, float scalar) {
    if constexpr (OPERATION == FILL) return scalar;
    if constexpr (OPERATION == CAST) return a;
    if constexpr (OPERATION == SCALE || OPERATION == SCALE_BY) return a * scalar;
    if constexpr (OPERATION == ADD) return a + b;
    if constexpr (OPERATION == SUB) return a - b;
    if constexpr (OPERATION == MUL) return a * b;
    if constexpr (OPERATION == ADD_SCALED) return a + scalar * b;
}

long long wrap(long long i, long long period, long long count) { return period == count ? i : i % period; }

// The N elements from i on.
template <int N> void map(const Params& p, long long i) {
    Vec<Element, N> a, b;
    if constexpr (READS_A) a = load<N>(p.a + wrap(i, p.a_period, p.count));
    if constexpr (READS_B) b = load<N>(p.b + wrap(i, p.b_period, p.count));
    const float scalar = OPERATION == SCALE_BY ? *reinterpret_cast<const float*>(p.b) : p.scalar;
    float out[N];
#pragma unroll
    for (int k = 0; k < N; ++k) out[k] = apply(READS_A ? a.get(k) : 0.0f, READS_B ? b.get(k) : 0.0f, scalar);
    store(p.out + i, to_vec<Output>(out));
}

// A thread maps 8 elements.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
elementwise_map(const __grid_constant__ Params p) {
    const long long block = blockIdx.x * (THREADS * 8ll);
    const long long i = block + threadIdx.x * 8;
    if (p.aligned && i + 8 <= p.count) {
        map<8>(p, i);
    } else if (p.aligned) {
        for (long long k = i; k < p.count; ++k) map<1>(p, k);
    } else {
        for (long long k = block + threadIdx.x; k < p.count && k < block + THREADS * 8; k += THREADS) map<1>(p, k);
    }
}
