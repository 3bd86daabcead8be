//! Every kernel: that it compiles for every architecture without spilling, and, on a GPU, that it is as close to the
//! float64 reference as its precision allows.

mod adamw;
mod attention;
mod compile;
mod cross_entropy;
mod device;
mod draw;
mod elementwise;
mod embedding;
mod norm;
