//! Attention by context length, forward and backward. Throughput counts the operations that the mask lets through.
//!
//! On the CPU one batch of 4 heads of 64, causal, beside the algorithm that keeps the T x T matrix; and without a mask,
//! with fewer key heads, and with a window.

mod gpu;

use anyhow::Result;
use longhand_benches::{Bench, Row, attention_flops, naive_attention, normal};
use longhand_tensor::{Tensor, no_grad, ops};

const HEADS: usize = 4;
const TOKENS: [usize; 7] = [256, 512, 1024, 2048, 4096, 8192, 16_384];
/// Of the cases beside the usual one.
const FEWER_TOKENS: [usize; 4] = [512, 1024, 2048, 4096];
/// Beyond, the matrices of the naive algorithm take gigabytes.
const NAIVE_TOKENS: usize = 4096;

/// Which attention.
#[derive(Clone, Copy)]
struct Case {
    head_dim: usize,
    causal: bool,
    /// Query heads for each key head.
    group: usize,
    /// So many keys before its own place are all that a query sees.
    window: Option<usize>,
    softcap: Option<f32>,
}

impl Case {
    const CAUSAL: Case = Case { head_dim: 64, causal: true, group: 1, window: None, softcap: None };

    /// In the words by which the peers know it, too.
    fn variant(self) -> String {
        let mut words =
            vec![if self.causal { "causal" } else { "full" }.to_owned(), format!("D{}", self.head_dim)];
        words.extend((self.group > 1).then(|| format!("GQA {}", self.group)));
        words.extend(self.window.map(|window| format!("window {window}")));
        words.extend(self.softcap.map(|softcap| format!("softcap {softcap}")));
        words.join(" ")
    }

    fn row(self, pass: &str, dtype: &str, [batch, tokens, heads]: [usize; 3]) -> Row {
        let Case { head_dim, causal, group, window, .. } = self;
        let flops = attention_flops(batch, heads, tokens, head_dim, causal, window);
        let row = Row::new(&format!("attention {pass}"), dtype, "T", tokens).variant(&self.variant());
        let row = row.sizes([("B", batch), ("H", heads), ("Hkv", heads / group), ("D", head_dim)]);
        row.flops(if pass == "backward" { flops * 5 / 2 } else { flops })
    }

    fn flash(self, q: &Tensor, k: &Tensor, v: &Tensor) -> longhand_tensor::Result<Tensor> {
        let options = ops::AttentionOptions {
            causal: self.causal,
            window_left: self.window,
            softcap: self.softcap.map(f64::from),
            ..Default::default()
        };
        ops::attention(q, k, v, &options)
    }

    fn naive(self, q: &Tensor, k: &Tensor, v: &Tensor) -> longhand_tensor::Result<Tensor> {
        let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?];
        naive_attention(&q, &k, &v, self.causal)
    }
}

type Attention = fn(Case, &Tensor, &Tensor, &Tensor) -> longhand_tensor::Result<Tensor>;

fn cpu(bench: &mut Bench) -> Result<()> {
    let usual = Case::CAUSAL;
    for tokens in TOKENS {
        cpu_attention(bench, usual, tokens, "longhand", Case::flash)?;
        if tokens <= NAIVE_TOKENS {
            cpu_attention(bench, usual, tokens, "naive", Case::naive)?;
        }
    }
    let others = [
        Case { causal: false, ..usual },
        Case { head_dim: 128, group: 4, ..usual },
        Case { window: Some(512), ..usual },
    ];
    for (case, tokens) in others.into_iter().flat_map(|case| FEWER_TOKENS.map(|tokens| (case, tokens))) {
        cpu_attention(bench, case, tokens, "longhand", Case::flash)?;
    }
    Ok(())
}

fn cpu_attention(
    bench: &mut Bench,
    case: Case,
    tokens: usize,
    implementation: &str,
    attention: Attention,
) -> Result<()> {
    let row = |pass: &str| case.row(pass, "f32", [1, tokens, HEADS]).by(implementation);
    let inputs = || -> Result<[Tensor; 3]> {
        let tensor = |heads: usize| -> Result<Tensor> {
            Ok(normal(&[1, tokens, heads, case.head_dim])?.requires_grad())
        };
        Ok([tensor(HEADS)?, tensor(HEADS / case.group)?, tensor(HEADS / case.group)?])
    };
    bench.measure(row("forward"), || {
        let [q, k, v] = inputs()?;
        Ok(move || Ok(no_grad(|| attention(case, &q, &k, &v))?))
    })?;
    bench.measure_backward(row("backward"), || {
        let [q, k, v] = inputs()?;
        Ok(move || Ok(vec![attention(case, &q, &k, &v)?]))
    })
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu::gpu)
}
