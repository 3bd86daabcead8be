//! Every kernel: that it compiles for every architecture without spilling, and that it is as close to the float64
//! reference as its precision allows and breaks no rule, on emulated devices and on a GPU where there is one.

mod activation;
mod adamw;
mod attention;
mod block_mask;
mod catalogue;
mod compile;
mod counts;
mod cross_entropy;
mod decode;
mod devices;
mod draw;
mod elementwise;
mod embedding;
mod far;
mod far_cache;
mod kv_cache;
mod matmul;
mod merge;
mod norm;
mod philox;
mod reduction;
mod rope;
mod sampling;
mod softmax;
mod unwanted;
