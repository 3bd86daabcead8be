//! The oracle judged: by finite differences, by numbers that follow from the formulas alone, and by PyTorch in
//! float64.

mod activation;
mod adamw;
mod attention;
mod check;
mod cross_entropy;
mod dynamic_map;
mod embedding;
mod gelu;
mod golden;
mod linear;
mod merge;
mod norm;
mod philox;
mod quantise;
mod rope;
mod sampling;
mod softmax;
