// Gradient of embedding lookup (forward.cu): dweight[v] = sum over the i with ids[i] = v of dout[i]; with ACCUMULATE, +=.
//
// The ids come sorted (sort.cu), each with its position; those that are V are left out. Only the rows of dweight whose id
// occurs are touched, so that the cost does not depend on V: without ACCUMULATE the others are the caller's to zero.
//
// A block takes SPAN neighbours of the sorted order and adds up the rows of each id in it, in the order of their positions,
// in f32. An id that reaches over the end of a span gives partial sums: partials[span][0] is that of the id that the span
// begins with, where an earlier span has it too; partials[span][1] that of the id that it ends with, where it begins here
// and a later span has it too. They are added up in the order of the spans. So the sum has the same bits every time, and
// an id that occurs a million times is added up by many blocks.
//
// Two entries, launched one after the other: embedding_backward, embedding_backward_finish.
// constants.cuh comes from Rust: Element; ACCUMULATE; VECTOR, 8 or 1, columns of a thread; THREADS; SPAN, a multiple of BATCH and at
// most THREADS - 2. Grid: (N / SPAN, C / (THREADS * VECTOR)), rounded up.

#include "constants.cuh"
#include "common/element.cuh"

struct Params {
    const Element*  dout;       // (N, C), contiguous
    const unsigned* ids;        // (N), sorted
    const unsigned* positions;  // (N)
    Element*        dweight;    // (V, C), contiguous
    float*          partials;   // (spans, 2, C)
    long long       count;      // N
    unsigned        vocabulary; // V
    int             width;      // C
};

constexpr int BATCH = 4;  // rows loaded at once

template <class T> void add(float (&sum)[VECTOR], const Vec<T, VECTOR>& row) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum[k] += row.get(k);
}

// The sum of all rows of an id, from one of its columns on.
void finish_row(const Params& p, unsigned id, long long column, float (&sum)[VECTOR]) {
    Element* row = p.dweight + static_cast<long long>(id) * p.width + column;
    if constexpr (ACCUMULATE) add(sum, load<VECTOR>(row));
    store(row, to_vec<Element>(sum));
}

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_backward(const __grid_constant__ Params p) {
    __shared__ unsigned ids[SPAN + 2];  // with the neighbours before and after; V where there is none
    __shared__ unsigned positions[SPAN];
    const long long start = static_cast<long long>(blockIdx.x) * SPAN;
    const int here = p.count - start < SPAN ? p.count - start : SPAN;
    if (threadIdx.x < here + 2) {
        const long long i = start + threadIdx.x - 1;
        ids[threadIdx.x] = i >= 0 && i < p.count ? p.ids[i] : p.vocabulary;
    }
    if (threadIdx.x < here) positions[threadIdx.x] = p.positions[start + threadIdx.x];
    __syncthreads();

    const long long column = (static_cast<long long>(blockIdx.y) * THREADS + threadIdx.x) * VECTOR;
    if (column >= p.width) return;
    float* partials = p.partials + 2 * blockIdx.x * static_cast<long long>(p.width) + column;
    float sum[VECTOR] = {};
    bool begun_before = ids[0] == ids[1];
    for (int first = 0; first < here; first += BATCH) {
        Vec<Element, VECTOR> rows[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            if (first + k < here && ids[first + k + 1] != p.vocabulary)
                rows[k] = load<VECTOR>(p.dout + static_cast<long long>(positions[first + k]) * p.width + column);
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int i = first + k;
            if (i >= here || ids[i + 1] == p.vocabulary) break;
            const unsigned id = ids[i + 1];
            add(sum, rows[k]);
            const bool goes_on = ids[i + 2] == id;
            if (goes_on && i + 1 < here) continue;
            if (begun_before) store(partials, to_vec<float>(sum));
            else if (goes_on) store(partials + p.width, to_vec<float>(sum));
            else finish_row(p, id, column, sum);
            begun_before = false;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) sum[j] = 0;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_backward_finish(const __grid_constant__ Params p) {
    const long long start = static_cast<long long>(blockIdx.x) * SPAN, end = start + SPAN;
    if (end >= p.count) return;
    const unsigned id = p.ids[end - 1];
    const bool begun_before = start > 0 && p.ids[start - 1] == id;
    if (id == p.vocabulary || begun_before || p.ids[end] != id) return;

    const long long column = (static_cast<long long>(blockIdx.y) * THREADS + threadIdx.x) * VECTOR;
    if (column >= p.width) return;
    const long long span_stride = 2ll * p.width;
    const float* partial = p.partials + blockIdx.x * span_stride + p.width + column;
    float sum[VECTOR] = {};
    add(sum, load<VECTOR>(partial));
    partial = p.partials + (blockIdx.x + 1) * span_stride + column;
    for (long long at = end; at < p.count && p.ids[at] == id; at += SPAN, partial += span_stride)
        add(sum, load<VECTOR>(partial));
    finish_row(p, id, column, sum);
}
