//! Products that have not been waited for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::check::{Completes, Operation};
use crate::fault::Problem;
use crate::lanes::{Done, LANES, Lanes, Reg};
use crate::machine::Context;
use crate::memory::{Kind, Target};

/// What registers hold whose product has not been waited for.
const POISON: Lanes<u32> = [u32::MAX; LANES];

/// Products of a warp that have not been waited for.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Committed groups, the oldest first.
    groups: VecDeque<Vec<Product>>,
    /// Issued, not committed.
    open: Vec<Product>,
    /// Where all of these go.
    pub(super) results: Vec<Outcome>,
    /// Whether there was any `wgmma.fence`.
    pub(super) fenced: bool,
}

/// A product that was issued.
#[derive(Debug)]
struct Product {
    /// The activation whose registers these are.
    frame: usize,
    /// The registers of its result.
    d: Arc<[Reg<u32>]>,
    /// The registers of a, if it lies there.
    a: Vec<Reg<u32>>,
    /// The shared memory that it reads.
    reads: Vec<Range<u32>>,
    operation: Option<Operation>,
    /// The instruction.
    pc: usize,
}

/// What registers will hold once the products that go there have been waited for.
#[derive(Debug)]
pub(super) struct Outcome {
    frame: usize,
    d: Arc<[Reg<u32>]>,
    pub values: Vec<Lanes<u32>>,
    /// Products on the way there.
    products: usize,
}

impl Pending {
    /// The index of the result that goes to these registers.
    pub(super) fn result_of(&self, frame: usize, d: &[Reg<u32>]) -> Option<usize> {
        self.results.iter().position(|it| it.frame == frame && *it.d == *d)
    }

    /// Makes a group of what was issued since the last one.
    pub(super) fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.groups.push_back(group);
    }
}

impl Context<'_> {
    /// The result that goes to these registers; if none does yet, they are poisoned.
    pub(super) fn result(&mut self, d: &Arc<[Reg<u32>]>) -> usize {
        if let Some(known) = self.warp.products.result_of(self.frame, d) {
            return known;
        }
        let values = d.iter().map(|register| *self.get(*register)).collect();
        for register in d.iter() {
            self.set(*register, &POISON);
        }
        let outcome = Outcome { frame: self.frame, d: d.clone(), values, products: 0 };
        self.warp.products.results.push(outcome);
        self.warp.products.results.len() - 1
    }

    /// A product whose result is the one of this index is on its way.
    pub(super) fn begin_product(&mut self, result: usize, a: &[Reg<u32>], reads: Vec<Range<u32>>) -> Done {
        let (issuer, pc) = (self.issuer(0), self.pc);
        let shared = &mut self.block().shared;
        reads.iter().for_each(|it| shared.begin_read(it.start.into(), it.len() as u64, issuer));
        let operation = self.begin_operation_of(u32::MAX, Completes::Product);
        let target = Target::Shared(self.warp.rank);
        for it in &reads {
            self.operate(operation.as_ref(), target, it.start.into(), it.len() as u64, Kind::READ)?;
        }
        let outcome = &mut self.warp.products.results[result];
        outcome.products += 1;
        let (frame, d) = (outcome.frame, outcome.d.clone());
        self.warp.frame(frame).touched.begin(&d, a);
        self.warp.products.open.push(Product { frame, d, a: a.to_vec(), reads, operation, pc });
        Ok(())
    }

    /// Finishes all groups but the last few.
    pub(super) fn finish_groups(&mut self, pending: usize) {
        while self.warp.products.groups.len() > pending {
            let group = self.warp.products.groups.pop_front().unwrap_or_default();
            group.iter().for_each(|product| self.finish_product(product));
            // Who knows of the last knows of all before it.
            if let Some(operation) = group.last().and_then(|product| product.operation.as_ref()) {
                self.end_operation(u32::MAX, operation);
            }
        }
    }

    /// The warp has exited: no product may be on its way, since what it computes is lost.
    pub fn end_products(&self) -> Result<(), Problem> {
        let products = &self.warp.products;
        let Some(product) = products.groups.iter().flatten().chain(&products.open).next() else {
            return Ok(());
        };
        if !self.launch.options.checks.asynchronous {
            return Ok(());
        }
        let block = self.cluster.blocks[self.warp.rank].coordinates;
        let place = self.launch.program.location(product.pc, block, self.warp.index, 0);
        let what = format!("the warp exits without wgmma.wait_group for the product issued by {place}");
        Err(Problem::Asynchronous(what))
    }

    fn finish_product(&mut self, product: &Product) {
        let shared = &mut self.block().shared;
        product.reads.iter().for_each(|it| shared.end_read(it.start.into(), it.len() as u64));
        if let Some(Some(frame)) = self.warp.frames.get_mut(product.frame) {
            frame.touched.end(&product.d, &product.a);
        }
        let products = &mut self.warp.products;
        let Some(index) = products.result_of(product.frame, &product.d) else { return };
        products.results[index].products -= 1;
        if products.results[index].products == 0 {
            let Outcome { frame, d, values, .. } = products.results.swap_remove(index);
            for (register, values) in d.iter().zip(&values) {
                if frame == self.frame {
                    self.set(*register, values);
                } else if let Some(Some(frame)) = self.warp.frames.get_mut(frame) {
                    frame.registers.b32[register.index as usize] = *values;
                }
            }
        }
    }
}
