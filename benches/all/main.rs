//! Every bench in one executable, and the exchange with peers: `LONGHAND_BENCH` names the one to run. The arguments
//! are criterion's.

#[path = "../activation.rs"]
mod activation;
#[path = "../adamw/main.rs"]
mod adamw;
#[path = "../attention/main.rs"]
mod attention;
#[path = "../ceilings.rs"]
mod ceilings;
#[path = "../compile.rs"]
mod compile;
#[path = "../cross_entropy/main.rs"]
mod cross_entropy;
#[path = "../decode/main.rs"]
mod decode;
#[path = "../embedding.rs"]
mod embedding;
#[path = "../emulator/main.rs"]
mod emulator;
mod exchange;
#[path = "../matmul.rs"]
mod matmul;
#[path = "../norm/main.rs"]
mod norm;
#[path = "../rope.rs"]
mod rope;
#[path = "../sampling.rs"]
mod sampling;
#[path = "../softmax.rs"]
mod softmax;
#[path = "../training_step.rs"]
mod training_step;

use anyhow::{Result, bail};

const VARIABLE: &str = "LONGHAND_BENCH";
type Run = fn() -> Result<()>;

const BENCHES: [(&str, Run); 16] = [
    ("activation", activation::main),
    ("adamw", adamw::main),
    ("attention", attention::main),
    ("ceilings", ceilings::main),
    ("compile", compile::main),
    ("cross_entropy", cross_entropy::main),
    ("decode", decode::main),
    ("embedding", embedding::main),
    ("emulator", emulator::main),
    ("exchange", exchange::main),
    ("matmul", matmul::main),
    ("norm", norm::main),
    ("rope", rope::main),
    ("sampling", sampling::main),
    ("softmax", softmax::main),
    ("training_step", training_step::main),
];

fn main() -> Result<()> {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    match BENCHES.iter().find(|(name, _)| *name == wanted) {
        Some((_, bench)) => bench(),
        None => bail!(
            "{VARIABLE} is {wanted:?}, it has to be one of {}",
            BENCHES.map(|(name, _)| name).join(", ")
        ),
    }
}
