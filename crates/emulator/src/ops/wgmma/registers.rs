//! Registers that products in flight read and write, and `wgmma.fence`.

use crate::fault::Problem;
use crate::lanes::{Done, Reg};
use crate::machine::{Context, Stop};
use crate::program::Touches;

/// What happened to the registers of 32 bits of an activation, by their indices.
#[derive(Debug, Default)]
pub(crate) struct Touched(Vec<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    since_fence: Since,
    /// Products in flight that write it.
    arriving: u16,
    /// Products in flight that read it.
    leaving: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Since {
    #[default]
    Nothing,
    Read,
    Written,
}

impl Touched {
    fn state(&mut self, register: u32) -> &mut State {
        let index = register as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, State::default());
        }
        &mut self.0[index]
    }

    pub(super) fn fence(&mut self) {
        self.0.iter_mut().for_each(|state| state.since_fence = Since::Nothing);
    }

    /// A product writes and reads these from now on.
    pub(super) fn begin(&mut self, d: &[Reg<u32>], a: &[Reg<u32>]) {
        d.iter().for_each(|it| self.state(it.index).arriving += 1);
        a.iter().for_each(|it| self.state(it.index).leaving += 1);
    }

    /// A product is over.
    pub(super) fn end(&mut self, d: &[Reg<u32>], a: &[Reg<u32>]) {
        d.iter().for_each(|it| self.state(it.index).arriving -= 1);
        a.iter().for_each(|it| self.state(it.index).leaving -= 1);
    }

    /// An instruction touches registers: None if it may.
    fn touch(&mut self, touches: &Touches) -> Option<&'static str> {
        for register in &touches.all {
            let state = self.state(*register);
            if state.arriving > 0 {
                return Some(
                    "a register that a wgmma in flight has yet to write: wgmma.wait_group is missing",
                );
            }
            state.since_fence = state.since_fence.max(Since::Read);
        }
        for register in &touches.written {
            let state = self.state(*register);
            if state.leaving > 0 {
                return Some(
                    "writes a register that a wgmma in flight may still read: wgmma.wait_group is missing",
                );
            }
            state.since_fence = Since::Written;
        }
        None
    }

    /// A product is about to write d and read a: None if it may. `known`: whether products in flight write d, and
    /// nothing else.
    fn product(&mut self, d: &[Reg<u32>], a: &[Reg<u32>], known: bool) -> Option<&'static str> {
        for register in d {
            let state = *self.state(register.index);
            if state.since_fence != Since::Nothing {
                return Some("a register of d was accessed since the last wgmma.fence");
            }
            if state.arriving > 0 && !known {
                return Some(
                    "a register of d is one of another wgmma in flight whose registers are not the same",
                );
            }
            if state.leaving > 0 {
                return Some("a register of d is one of a of a wgmma in flight");
            }
        }
        for register in a {
            let state = *self.state(register.index);
            if state.since_fence == Since::Written {
                return Some("a register of a was written since the last wgmma.fence");
            }
            if state.arriving > 0 {
                return Some("a register of a is one that a wgmma in flight has yet to write");
            }
        }
        None
    }
}

impl Context<'_> {
    fn touched(&mut self) -> &mut Touched {
        let frame = self.frame;
        &mut self.warp.frame(frame).touched
    }

    /// Sees to the registers that an instruction touches which is no product.
    #[cold]
    pub fn watch(&mut self, touches: &Touches) -> Done {
        match self.touched().touch(touches) {
            None => Ok(()),
            Some(what) => Err(Stop::warp(Problem::Asynchronous(what.to_owned()))),
        }
    }

    /// `wgmma.fence`
    pub(super) fn fence_registers(&mut self) {
        self.warp.products.fenced = true;
        self.touched().fence();
    }

    /// A product may write d and read a.
    pub(super) fn check_product_registers(&mut self, d: &[Reg<u32>], a: &[Reg<u32>]) -> Done {
        if !self.launch.options.checks.asynchronous {
            return Ok(());
        }
        let known = self.warp.products.result_of(self.frame, d).is_some();
        let what = match self.warp.products.fenced {
            false => Some("there was no wgmma.fence before the first wgmma"),
            true => self.touched().product(d, a, known),
        };
        match what {
            None => Ok(()),
            Some(what) => Err(Stop::warp(Problem::Asynchronous(what.to_owned()))),
        }
    }
}
