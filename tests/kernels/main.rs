//! Every kernel: that it compiles for every architecture without spilling, and, on a GPU, that it is as close to the
//! float64 reference as its precision allows.

mod adamw;
mod attention;
mod compile;
mod device;
mod draw;
mod norm;
