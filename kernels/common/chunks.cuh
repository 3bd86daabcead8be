// Many tensors in one launch: each is cut into chunks of CHUNK elements (constants.cuh), and a block takes one chunk.
// The list of all chunks lies in device memory; the last chunk of a tensor may be short.

#pragma once

struct Chunk {
    int tensor;
    int index;  // within the tensor
};
