//! The launches whose counts are held.

use super::{Attention, Blocks, Mask, Pass, Scores, shape};
use crate::{Canonical, Precision};
use longhand_reference::AttentionShape;

impl Attention {
    /// The launches whose counts are held: both passes as they are used most; long ones, of which tiles at the edges are
    /// few; then each group of features.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let bf16 = |shape, causal| Attention::new(Precision::Bf16, shape, causal);
        let backward = |case: Attention| Attention { pass: Pass::Backward, ..case };
        let usual = || bf16(shape(1, 256, 256, [4, 2], 64), true);
        let long = |tokens, head_dim, causal| bf16(shape(1, tokens, tokens, [1, 1], head_dim), causal);
        let one = |head_dim| shape(1, 128, 128, [1, 1], head_dim);
        let wide = AttentionShape { value_dim: 128, ..one(192) };
        [
            ("attention_forward", usual()),
            ("attention_backward", backward(usual())),
            ("attention_backward_atomic", Attention { atomic: true, ..backward(usual()) }),
            ("attention_forward_long", long(1000, 128, false)),
            ("attention_forward_causal_long", long(1000, 64, true)),
            ("attention_backward_long", backward(long(384, 128, false))),
            ("attention_forward_scores", scored()),
            ("attention_backward_scores", backward(scored())),
            ("attention_forward_documents", documents()),
            ("attention_forward_blocks", blocked()),
            ("attention_backward_blocks", backward(blocked())),
            ("attention_forward_40_wide", bf16(one(40), true)),
            ("attention_backward_192_wide", backward(bf16(wide, true))),
            ("attention_forward_256_wide", bf16(one(256), true)),
            ("attention_forward_f32", Attention::new(Precision::F32, one(64), true)),
        ]
        .map(|(name, case)| case.counted(name))
        .into()
    }

    /// With what it could do with: each tensor moved once, and the products of the pairs that see each other.
    fn counted(self, name: &'static str) -> Canonical {
        let AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim } = self.shape;
        let drawn = self.drawn();
        let pairs = (0..batch * heads * queries * keys)
            .filter(|i| {
                let row = i / keys;
                drawn.visible(row / queries / heads, row / queries % heads, row % queries, i % keys)
            })
            .count();
        let tensors = batch * (queries * heads + keys * kv_heads) * (head_dim + value_dim);
        let bias = self.scores.bias_layout(&self.mask, self.shape).count();
        let lse = 4 * batch * heads * queries;
        // Forward, q, k, v, out and lse; two products. Backward, dout, dq, dk and dv, too; five products.
        let (moved, products) = match self.pass {
            Pass::Forward => (tensors + bias, head_dim + value_dim),
            Pass::Backward => (2 * (tensors + bias), 3 * head_dim + 2 * value_dim),
        };
        let bytes = moved * self.precision.bytes() + lse;
        Canonical::multiplying(name, self, bytes, 2 * pairs * products)
    }
}

fn scored() -> Attention {
    let scores = Scores {
        softcap: Some(20.0),
        alibi: true,
        sinks: true,
        bias: Some([false, true, true, true]),
        dropout: Some(0.1),
        ..Scores::default()
    };
    Attention { scores, ..Attention::new(Precision::Bf16, shape(1, 200, 200, [2, 1], 64), true) }
}

fn documents() -> Attention {
    let documents = vec![[130, 130], [1, 1], [70, 200], [0, 5]];
    let mask = Mask { causal: true, left: Some(100), prefixes: vec![40], documents, ..Mask::default() };
    let shape = mask.shape(shape(1, 0, 0, [2, 1], 64));
    Attention { mask, ..Attention::new(Precision::Bf16, shape, true) }
}

/// A third of the blocks is empty, a third full, a third partial.
fn blocked() -> Attention {
    let mask = Mask { blocks: Some(Blocks::default()), ..Mask::default() };
    let scores = Scores { mask_expression: true, ..Scores::default() };
    Attention { mask, scores, ..Attention::new(Precision::Bf16, shape(1, 768, 768, [1, 1], 64), false) }
}
