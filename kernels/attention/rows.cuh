// What backward knows of a query's row of scores: written by backward_rows.cu, read by the others.

#pragma once

struct alignas(8) RowStatistics {
    float lse_log2;  // log2(sum(exp(score))); +inf where the query sees no key
    float delta;     // sum(out * dout) - dlse
};
