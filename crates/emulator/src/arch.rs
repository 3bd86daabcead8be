//! Architectures.

use std::fmt;
use std::str::FromStr;

/// A GPU architecture, such as `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch {
    number: u32,
    suffix: Option<char>,
}

/// A name that is none of an architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("architecture {0:?}: must be like sm_80, sm_90a or sm_100f")]
pub struct ParseArchError(String);

impl Arch {
    /// `sm_90a` is 90.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// The most shared memory a block may have, static and dynamic together (CUDA C++ Programming Guide, "Technical
    /// Specifications per Compute Capability").
    #[must_use]
    pub fn shared_bytes_per_block(self) -> u32 {
        let kilobytes = match self.number {
            ..=69 => 48,
            70 => 96,
            75 => 64,
            80 | 87 => 163,
            86 | 89 | 120 | 121 => 99,
            _ => 227,
        };
        kilobytes * 1024
    }
}

impl FromStr for Arch {
    type Err = ParseArchError;

    fn from_str(name: &str) -> Result<Arch, ParseArchError> {
        let refuse = || ParseArchError(name.to_owned());
        let rest = name.strip_prefix("sm_").or_else(|| name.strip_prefix("compute_")).ok_or_else(refuse)?;
        let digits = rest.trim_end_matches(['a', 'f']);
        let suffix = match &rest[digits.len()..] {
            "" => None,
            "a" => Some('a'),
            "f" => Some('f'),
            _ => return Err(refuse()),
        };
        let number = digits.parse().map_err(|_| refuse())?;
        Ok(Arch { number, suffix })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.number)?;
        self.suffix.map_or(Ok(()), |suffix| write!(f, "{suffix}"))
    }
}
