//! Lookup in a table, and the gradient of the table.

use crate::tolerance::Rule::Gradient;
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::embedding::{
    EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingForward, EmbeddingForwardArgs, EmbeddingShape,
};
use longhand_reference as reference;
use std::fmt;

/// One lookup, forward and backward.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Of the table.
    pub precision: Precision,
    /// Rows of the table.
    pub vocabulary: usize,
    /// Elements of a row.
    pub width: usize,
    /// The rows to look up.
    pub ids: Vec<u32>,
    /// The id that gets no gradient.
    pub padding: Option<u32>,
    /// Whether the gradient is added to what was there.
    pub accumulate: bool,
    /// Elements that the tables start after an aligned address.
    pub shift: usize,
    /// Of the table and the gradient.
    pub seed: u64,
}

impl Case for Embedding {
    fn operation(&self) -> &'static str {
        "embedding"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let Embedding { precision, vocabulary, width, ref ids, seed, .. } = *self;
        let mut draw = Draw::new(precision, seed);
        let (weight, dout) = (draw.vec(vocabulary * width), draw.vec(ids.len() * width));
        let shape = EmbeddingShape { vocabulary, width, count: ids.len() };
        let device_ids = trial.integers(ids)?;
        let table = Layout::contiguous(&[vocabulary, width]).shifted(self.shift);
        let rows = Layout::contiguous(&[ids.len(), width]);

        let device_weight = trial.input("weight", precision, &table, &weight)?;
        let out = trial.output("out", precision, &rows)?;
        let plan = EmbeddingForward::new(precision.dtype()).plan(trial.stream().device())?;
        let args = EmbeddingForwardArgs {
            shape,
            weight: device_weight.ptr(),
            ids: device_ids.ptr(),
            out: out.ptr(),
        };
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge_exact(&out, &reference::embedding(&weight, width, ids))?;

        let device_dout = trial.input("dout", precision, &rows, &dout)?;
        let before =
            if self.accumulate { draw.vec(vocabulary * width) } else { vec![0.0; vocabulary * width] };
        let dweight = match self.accumulate {
            true => trial.input("dweight", precision, &table, &before)?,
            false => trial.output("dweight", precision, &table)?,
        };
        let plan = EmbeddingBackward::new(precision.dtype())
            .accumulate(self.accumulate)
            .plan(trial.stream().device())?;
        // The backward pass leaves out what the forward pass has no row for.
        let padding = self.padding;
        let ids: Vec<u32> = ids.iter().map(|id| if self.is_far(*id) { u32::MAX } else { *id }).collect();
        let device_ids = trial.integers(&ids)?;
        let workspace = trial.workspace(plan.workspace_bytes(shape))?;
        let args = EmbeddingBackwardArgs {
            shape,
            dout: device_dout.ptr(),
            ids: device_ids.ptr(),
            padding,
            dweight: dweight.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: as above.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        let kept = || {
            ids.iter()
                .zip(dout.chunks_exact(width))
                .filter(|(id, _)| **id != u32::MAX && Some(**id) != padding)
        };
        let ids: Vec<u32> = kept().map(|(id, _)| *id).collect();
        let dout: Vec<f64> = kept().flat_map(|(_, row)| row.iter().copied()).collect();
        let mut expected = reference::embedding_backward(vocabulary, width, &ids, &dout);
        expected.iter_mut().zip(&before).for_each(|(sum, before)| *sum += before);
        trial.judge(Gradient, &dweight, &self.plain_backward(&before, &ids, &dout), &expected)
    }
}

impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Embedding { precision, vocabulary, width, ids, shift, .. } = self;
        write!(f, "{precision} N{} V{vocabulary} C{width}", ids.len())?;
        if let Some(padding) = self.padding {
            write!(f, ", padding {padding}")?;
        }
        if self.accumulate {
            write!(f, ", +=")?;
        }
        if *shift > 0 { write!(f, " shifted") } else { Ok(()) }
    }
}

impl Embedding {
    /// The cases that tell the most: each type with ids that repeat; then none, and sizes of no alignment; one id that
    /// takes several blocks; more ids than the sort takes at a time, of more digits than one, with padding.
    #[must_use]
    pub fn telling() -> Vec<Embedding> {
        let new = |precision, count: usize, vocabulary: usize, width| Embedding {
            precision,
            vocabulary,
            width,
            ids: (0..count).map(|i| (i * i % vocabulary) as u32).collect(),
            padding: None,
            accumulate: false,
            shift: 0,
            seed: 1,
        };
        let mut cases: Vec<Embedding> = Precision::ALL.map(|precision| new(precision, 300, 65, 264)).into();
        cases.extend([(0, 3, 8), (17, 1, 1), (40, 33, 257)].map(|(n, v, c)| new(Precision::Bf16, n, v, c)));
        cases.push(Embedding { ids: vec![5; 200], padding: Some(1), ..new(Precision::Bf16, 0, 7, 16) });
        cases.push(Embedding { accumulate: true, ..new(Precision::Bf16, 300, 65, 264) });
        let many = new(Precision::F32, 5000, 70_000, 8);
        cases.push(Embedding { padding: Some(many.ids[77]), ..many });
        cases.push(Embedding { shift: 1, ..new(Precision::F16, 40, 17, 64) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        // Each row of the table is looked up once: what repeats would come from L2, but be counted.
        let (vocabulary, width, count) = (512, 768, 512);
        let ids = (0..count as u32).map(|i| i * 5 % vocabulary as u32).collect();
        let case = Embedding {
            precision: Precision::Bf16,
            vocabulary,
            width,
            ids,
            padding: None,
            accumulate: false,
            shift: 0,
            seed: 1,
        };
        // Every row of the table is looked up; then all rows of the gradient are read, and that of the table written.
        vec![Canonical::moving("embedding", case, 2 * width * 2 * (vocabulary + count))]
    }

    /// Every 17th id is far outside of the table in the backward pass.
    fn is_far(&self, id: u32) -> bool {
        self.padding.is_some() && id % 17 == 16
    }

    /// Adds up in f32, in order.
    fn plain_backward(&self, before: &[f64], ids: &[u32], dout: &[f64]) -> Vec<f64> {
        let mut sums: Vec<f32> = before.iter().map(|x| *x as f32).collect();
        for (id, dout) in ids.iter().zip(dout.chunks_exact(self.width)) {
            let row = &mut sums[*id as usize * self.width..][..self.width];
            row.iter_mut().zip(dout).for_each(|(sum, dout)| *sum += *dout as f32);
        }
        sums.into_iter().map(|x| self.precision.round(x).into()).collect()
    }
}
