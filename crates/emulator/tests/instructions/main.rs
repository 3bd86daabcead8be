//! Instructions of single threads, through PTX text: results against formulas that are spelled here, of exact
//! arithmetic or of bits.

mod bits;
mod compare;
mod convert;
mod draw;
mod exact;
mod float;
mod half;
mod integer;
mod machine;
mod refused;
mod special;
