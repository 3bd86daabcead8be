//! Values of the 32 lanes of a warp, and functions over them.

use std::marker::PhantomData;

use crate::machine::{Context, Stop};
use crate::program::Action;
use crate::registers::RegisterFile;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// One value for each lane.
pub(crate) type Lanes<T> = [T; LANES];

/// The lanes of a mask, in order.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// A type that registers hold: 8, 16 and 32 bits are a `u32`, of which the upper bits are 0.
pub(crate) trait Word: Copy + Default + Send + Sync + 'static {
    fn file(registers: &RegisterFile) -> &[Lanes<Self>];
    fn file_mut(registers: &mut RegisterFile) -> &mut Vec<Lanes<Self>>;
}

macro_rules! word {
    ($($type:ty, $file:ident;)*) => {$(
        impl Word for $type {
            #[inline(always)]
            fn file(registers: &RegisterFile) -> &[Lanes<Self>] {
                &registers.$file
            }

            #[inline(always)]
            fn file_mut(registers: &mut RegisterFile) -> &mut Vec<Lanes<Self>> {
                &mut registers.$file
            }
        }
    )*};
}

word! { u32, b32; u64, b64; u128, b128; }

/// A register of one type, by its place in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reg<T> {
    pub index: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Reg<T> {
    pub fn new(index: usize) -> Self {
        Reg { index: index as u32, of: PhantomData }
    }
}

impl<T> Clone for Reg<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Reg<T> {}

/// A predicate register, by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pred {
    pub index: u32,
    /// Whether its opposite is meant.
    pub negated: bool,
}

/// A function of one, two or three values for each lane. Compiled for AVX2 and for the baseline; the results are the
/// same, since nothing in `f` may be contracted or reordered.
macro_rules! each_lane {
    ($name:ident, $avx2:ident, $($argument:ident: $type:ident),+) => {
        #[inline(always)]
        pub(crate) fn $name<$($type: Copy,)+ D: Copy + Default>(
            $($argument: &Lanes<$type>,)+
            out: &mut Lanes<D>,
            f: impl Fn($($type),+) -> D,
        ) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn $avx2<$($type: Copy,)+ D: Copy + Default>(
                    $($argument: &Lanes<$type>,)+
                    out: &mut Lanes<D>,
                    f: impl Fn($($type),+) -> D,
                ) {
                    for lane in 0..LANES {
                        out[lane] = f($($argument[lane]),+);
                    }
                }
                if crate::simd::has_avx2() {
                    // SAFETY: the function is safe but for needing AVX2 and FMA, which were just found.
                    return unsafe { $avx2($($argument,)+ out, f) };
                }
            }
            for lane in 0..LANES {
                // Processors without AVX2 are rare: lane after lane is good enough, and compiles to little.
                #[cfg(target_arch = "x86_64")]
                let lane = std::hint::black_box(lane) % LANES;
                out[lane] = f($($argument[lane]),+);
            }
        }
    };
}

each_lane!(each1, each1_avx2, a: A);
each_lane!(each2, each2_avx2, a: A, b: B);
each_lane!(each3, each3_avx2, a: A, b: B, c: C);

/// `d = f(a)` in every active lane.
pub(crate) fn map1<A: Word, D: Word>(
    d: Reg<D>,
    a: Reg<A>,
    f: impl Fn(A) -> D + Copy + Send + Sync + 'static,
) -> Action {
    Action::run(move |cx| {
        let mut out = [D::default(); LANES];
        each1(cx.get(a), &mut out, f);
        cx.set(d, &out);
        Ok(())
    })
}

/// `d = f(a, b)` in every active lane.
pub(crate) fn map2<A: Word, B: Word, D: Word>(
    d: Reg<D>,
    a: Reg<A>,
    b: Reg<B>,
    f: impl Fn(A, B) -> D + Copy + Send + Sync + 'static,
) -> Action {
    Action::run(move |cx| {
        let mut out = [D::default(); LANES];
        each2(cx.get(a), cx.get(b), &mut out, f);
        cx.set(d, &out);
        Ok(())
    })
}

/// `d = f(a, b, c)` in every active lane.
pub(crate) fn map3<A: Word, B: Word, C: Word, D: Word>(
    d: Reg<D>,
    a: Reg<A>,
    b: Reg<B>,
    c: Reg<C>,
    f: impl Fn(A, B, C) -> D + Copy + Send + Sync + 'static,
) -> Action {
    Action::run(move |cx| {
        let mut out = [D::default(); LANES];
        each3(cx.get(a), cx.get(b), cx.get(c), &mut out, f);
        cx.set(d, &out);
        Ok(())
    })
}

/// The bit of each lane in a mask.
pub(crate) const LANE_BITS: Lanes<u32> = {
    let mut bits = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// One bit for each lane in which `f(a)` holds.
#[inline(always)]
pub(crate) fn test1<A: Copy>(a: &Lanes<A>, f: impl Fn(A) -> bool) -> u32 {
    let mut out = [0u32; LANES];
    each2(a, &LANE_BITS, &mut out, |a, bit| if f(a) { bit } else { 0 });
    out.iter().fold(0, |bits, bit| bits | bit)
}

/// One bit for each lane in which `f(a, b)` holds.
#[inline(always)]
pub(crate) fn test2<A: Copy, B: Copy>(a: &Lanes<A>, b: &Lanes<B>, f: impl Fn(A, B) -> bool) -> u32 {
    let mut out = [0u32; LANES];
    each3(a, b, &LANE_BITS, &mut out, |a, b, bit| if f(a, b) { bit } else { 0 });
    out.iter().fold(0, |bits, bit| bits | bit)
}

impl Context<'_> {
    /// The values of a register.
    #[inline(always)]
    pub fn get<T: Word>(&self, register: Reg<T>) -> &Lanes<T> {
        &T::file(&self.registers)[register.index as usize]
    }

    /// Writes a register in the active lanes.
    #[inline(always)]
    pub fn set<T: Word>(&mut self, register: Reg<T>, values: &Lanes<T>) {
        let mask = self.mask;
        let target = &mut T::file_mut(&mut self.registers)[register.index as usize];
        if mask == u32::MAX {
            *target = *values;
        } else {
            for lane in lanes_of(mask) {
                target[lane] = values[lane];
            }
        }
    }

    /// The lanes in which a predicate holds, active or not.
    #[inline(always)]
    pub fn test(&self, predicate: Pred) -> u32 {
        let bits = self.registers.pred[predicate.index as usize];
        if predicate.negated { !bits } else { bits }
    }

    /// Writes a predicate in the active lanes.
    #[inline(always)]
    pub fn set_pred(&mut self, predicate: Pred, bits: u32) {
        let target = &mut self.registers.pred[predicate.index as usize];
        *target = *target & !self.mask | bits & self.mask;
    }
}

/// What an instruction does: nothing to say, or why the warp cannot go on.
pub(crate) type Done = Result<(), Stop>;
