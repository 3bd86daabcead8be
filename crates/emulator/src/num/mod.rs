//! Arithmetic as PTX defines it, as pure functions over bits.
