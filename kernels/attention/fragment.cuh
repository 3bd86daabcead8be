// How rows of a matrix lie in shared memory: as fragments of 16 rows of 32 bytes, in the order in which `ldmatrix` reads
// them, fragment after fragment along the row. In a fragment come first the left halves of its 16 rows, 16 bytes each, then
// the right halves. In the right half, rows r and r ^ 5 change places: so the halves of four neighbouring rows cover all 32
// banks, and so do eight rows of one half, and the even rows of both (as f32 is read). Of a row that ends in the middle of
// a fragment, the rest is zeros.
//
// constants.cuh comes from Rust: Element (bf16, f16 or float).

#pragma once

#include "common/element.cuh"
#include "constants.cuh"

constexpr int FRAGMENT_BYTES = 512;
constexpr int FRAGMENT_COLUMNS = 32 / sizeof(Element);  // as many as a product adds up at a time

// Along a row.
constexpr int fragments(int width) { return (width + FRAGMENT_COLUMNS - 1) / FRAGMENT_COLUMNS; }

// Where half a row lies in its fragment.
inline int half_row_offset(int row, int half) { return half * 256 + (row ^ half * 5) * 16; }
