//! Elementwise arithmetic and copies between layouts.

mod copy;
mod map;

pub use copy::{Copy, CopyArgs, CopyPlan, MAX_RANK};
pub use map::{Map, MapArgs, MapPlan, Operand, Operation};

use crate::Variant;

pub(crate) fn variants() -> Vec<Variant> {
    [map::variants(), copy::variants()].concat()
}
