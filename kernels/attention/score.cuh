// What becomes of a scaled product of query q and key k of head h before the softmax, in this order:
//
//   otherwise           score = scale * q k^T
//   SCORE_EXPRESSION    score = the user's expression of it            (expression.cuh, generated)
//   SOFTCAP             score = softcap * tanh(score / softcap)        (Gemma 2, arXiv 2408.00118, section 2)
//   ALIBI               score = score - slope[h] * |q + S - T - k|     (Press et al. 2021, arXiv 2108.12409, section 3)
//   BIAS                score = score + bias[b][h][q][k]
//
// What MASK_EXPRESSION, the user's, does not let a query see is hidden. SINKS are scores of one more key for each head,
// without a value (Xiao et al. 2023, arXiv 2309.17453; learned: gpt-oss, arXiv 2508.10925, section 2.1).
//
// constants.cuh comes from Rust: SOFTCAP, SCORE_EXPRESSION, ALIBI, BIAS, MASK_EXPRESSION, SINKS.

#pragma once

#include "attention/dual.cuh"
#include "attention/expression.cuh"
#include "attention/mask.cuh"
#include "attention/named.cuh"
#include "common/math.cuh"
#include "common/thread.cuh"
#include "constants.cuh"

// Whether scores are more than scaled products; whether their derivatives by those are not 1.
constexpr bool SCORED = SOFTCAP || SCORE_EXPRESSION || ALIBI || BIAS;
constexpr bool SLOPED = SOFTCAP || SCORE_EXPRESSION;

// Elements from one batch, head, query and key to the next; 0 where all have the same.
struct BiasStrides {
    long long batch, head, query, key;
};

// In Params.
struct Scoring {
    const float*   slopes;  // (H)
    const float*   sinks;   // (H)
    const Element* bias;    // (B, H, T, S); with DOCUMENTS, the number of them for B, and T and S of the longest
    BiasStrides    bias_strides;
    Named          named;
    float          softcap;
    float          scale;
};

// The scores of one head of one sequence.
struct Scorer {
    const Scoring& scoring;
    int   batch, head;
    int   T, S;
    float slope;  // of ALiBi

    Scorer(const Scoring& scoring, const Sight& sight, int batch, int head)
        : scoring(scoring), batch(batch), head(head), T(sight.T), S(sight.S), slope(ALIBI ? scoring.slopes[head] : 0) {}

    // With its derivative by the scaled product.
    Dual score(float product, int query, int key) const {
        Dual score(product, 1);
        if constexpr (SCORE_EXPRESSION) score = user_score(score, batch, head, query, key, scoring.named);
        if constexpr (SOFTCAP) {
            const float t = tanhf(score.value / scoring.softcap);
            score = {scoring.softcap * t, score.slope * (1 - t * t)};
        }
        if constexpr (ALIBI) score.value -= slope * abs(query - T + (S - key));
        if constexpr (BIAS) {
            const BiasStrides& strides = scoring.bias_strides;
            score.value += to_float(scoring.bias[batch * strides.batch + head * strides.head + query * strides.query +
                                                 key * strides.key]);
        }
        return score;
    }

    bool sees(int query, int key) const { return user_mask(batch, head, query, key, scoring.named); }
};

// Calls f(i, j, e, query, key) for each of this lane's elements of a warp's scores: row i * 16 is query `first_query`, and
// column j * 8 key `first_key`; the other way round where TRANSPOSED. Beyond the last query or key, it is the last.
template <bool TRANSPOSED, int ROWS, int COLUMNS, class F>
__forceinline__ void for_scores(const Scorer& scorer, unsigned first_query, unsigned first_key, F f) {
    const unsigned lane = thread_index() % 32;
    const unsigned first_row = (TRANSPOSED ? first_key : first_query) + lane / 4;
    const unsigned first_column = (TRANSPOSED ? first_query : first_key) + lane % 4 * 2;
    const unsigned last_row = (TRANSPOSED ? scorer.S : scorer.T) - 1, last_column = (TRANSPOSED ? scorer.T : scorer.S) - 1;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = min(first_row + i * 16 + e / 2 * 8, last_row);
                const int column = min(first_column + j * 8 + e % 2, last_column);
                f(i, j, e, TRANSPOSED ? column : row, TRANSPOSED ? row : column);
            }
        }
    }
}

// Products become scores, in base 2 and no longer to be scaled, and `slope` their derivatives by scaled products.
template <bool TRANSPOSED, int ROWS, int COLUMNS>
__forceinline__ void score_products(float (&score)[ROWS][COLUMNS][4], float (&slope)[ROWS][COLUMNS][4],
                                    const Scorer& scorer, int first_query, int first_key) {
    for_scores<TRANSPOSED, ROWS, COLUMNS>(scorer, first_query, first_key, [&](int i, int j, int e, int query, int key) {
        const Dual s = scorer.score(score[i][j][e] * scorer.scoring.scale, query, key);
        score[i][j][e] = s.value * LOG2_E;
        slope[i][j][e] = s.slope;
    });
}

// Sets to -inf the scores that the user's mask hides.
template <bool TRANSPOSED, int ROWS, int COLUMNS>
__forceinline__ void hide_by_expression(float (&score)[ROWS][COLUMNS][4], const Scorer& scorer, int first_query,
                                        int first_key) {
    for_scores<TRANSPOSED, ROWS, COLUMNS>(scorer, first_query, first_key, [&](int i, int j, int e, int query, int key) {
        if (!scorer.sees(query, key)) score[i][j][e] = -infinity();
    });
}
