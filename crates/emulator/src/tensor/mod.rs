//! Tensor-core operations, matrix moves and tensor copies as pure functions over fragments and addresses.
