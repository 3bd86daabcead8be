//! What the modifiers of bulk copies say.

use crate::decode::{Modifiers, Unsupported};
use crate::ptx::ast::Type;

/// Where a copy reads from or writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Global,
    /// `.shared::cta`: of the block itself.
    Block,
    /// `.shared::cluster`: of any block of the cluster.
    Cluster,
}

const SIDES: [(&str, Side); 3] =
    [("global", Side::Global), ("shared::cta", Side::Block), ("shared::cluster", Side::Cluster)];

/// Which elements of a tensor are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Tile,
    /// `.tile::gather4`
    Gather,
    /// `.tile::scatter4`
    Scatter,
    Im2col,
    /// `.im2col_no_offs`
    Im2colNoOffsets,
}

const LOADS: [(&str, Load); 5] = [
    ("tile", Load::Tile),
    ("tile::gather4", Load::Gather),
    ("tile::scatter4", Load::Scatter),
    ("im2col", Load::Im2col),
    ("im2col_no_offs", Load::Im2colNoOffsets),
];

pub(super) const DIMENSIONS: [(&str, usize); 5] = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];

const OPERATIONS: [&str; 8] = ["add", "min", "max", "inc", "dec", "and", "or", "xor"];

/// What the modifiers say, which texts have in different orders.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    /// Target and source.
    sides: Vec<Side>,
    mbarrier: bool,
    bulk_group: bool,
    pub multicast: bool,
    pub policy: bool,
    pub byte_mask: bool,
    pub ignore_oob: bool,
    pub operation: Option<&'a str>,
    pub noftz: bool,
    pub ty: Option<Type>,
    /// Dimensions of a tensor.
    pub dimensions: Option<usize>,
    pub load: Option<Load>,
    /// `.cta_group::1`, which is how everything is where it does not stand.
    pub cta_group: bool,
}

impl<'a> Said<'a> {
    /// Takes all modifiers.
    pub fn new(modifiers: &mut Modifiers<'a>) -> Result<Self, Unsupported> {
        let mut said = Said::default();
        modifiers.distinct(&SIDES.map(|(name, _)| name))?;
        loop {
            if let Some(side) = modifiers.one_of(&SIDES) {
                said.sides.push(side);
                continue;
            }
            if let Some(load) = modifiers.one_of(&LOADS) {
                said.load = Some(load);
                continue;
            }
            if let Some(dimensions) = modifiers.one_of(&DIMENSIONS) {
                said.dimensions = Some(dimensions);
                continue;
            }
            if let Some(ty) = modifiers.maybe_ty() {
                if let Some(other) = said.ty.replace(ty) {
                    return Err(format!("types {other:?} and {ty:?}"));
                }
                continue;
            }
            match modifiers.peek() {
                Some("mbarrier::complete_tx::bytes") => said.mbarrier = true,
                Some("bulk_group") => said.bulk_group = true,
                Some("multicast::cluster") => said.multicast = true,
                Some("L2::cache_hint") => said.policy = true,
                Some("cp_mask") => said.byte_mask = true,
                Some("ignore_oob") => said.ignore_oob = true,
                Some("cta_group::1") => said.cta_group = true,
                Some("noftz") => said.noftz = true,
                Some(name) if OPERATIONS.contains(&name) => said.operation = Some(name),
                _ => break,
            }
            modifiers.next();
        }
        modifiers.finish()?;
        Ok(said)
    }

    /// Target and source, which must fit how the copy completes.
    pub fn direction(&self) -> Result<(Side, Side), Unsupported> {
        let [target, source] = self.sides[..] else {
            return Err(format!("{} state spaces (must be 2)", self.sides.len()));
        };
        let known = match (target, source) {
            (Side::Block | Side::Cluster, Side::Global) | (Side::Cluster, Side::Block) => {
                self.mbarrier && !self.bulk_group
            }
            (Side::Global, Side::Block) => self.bulk_group && !self.mbarrier,
            _ => return Err("a direction that bulk copies have not".into()),
        };
        if !known {
            return Err("a completion mechanism that this direction has not".into());
        }
        Ok((target, source))
    }

    /// Whether they are those of a prefetch from global memory.
    pub fn is_prefetch(&self) -> bool {
        self.sides == [Side::Global] && !self.mbarrier && !self.bulk_group
    }

    /// No modifiers of tensor copies are there.
    pub fn refuse_tensor(&self) -> Result<(), Unsupported> {
        self.refuse(&[
            (self.dimensions.is_some(), "dim"),
            (self.load.is_some(), "load_mode"),
            (self.cta_group, "cta_group::1"),
        ])
    }

    /// Those modifiers are not there that this instruction has not.
    pub fn refuse(&self, modifiers: &[(bool, &str)]) -> Result<(), Unsupported> {
        match modifiers.iter().find(|(said, _)| *said) {
            Some((_, name)) => Err(format!("modifier .{name}")),
            None => Ok(()),
        }
    }
}
