//! GPU architectures as compilation targets.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A compilation target such as `sm_90a`.
///
/// The number is the compute capability, major then one digit of minor. The suffix `a` means that the code
/// uses instructions of exactly this architecture (`wgmma` on `sm_90a`) and runs on no later one.
///
/// ```
/// use longhand_gpu::Arch;
///
/// let arch: Arch = "sm_90a".parse()?;
/// assert_eq!((arch.major(), arch.minor()), (9, 0));
/// assert_eq!(arch.to_string(), "sm_90a");
/// assert_eq!(Arch::of_capability(8, 6).to_string(), "sm_86");
/// # Ok::<(), longhand_gpu::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    number: u16,
    specific: bool,
}

impl Arch {
    /// The architectures that every kernel is compiled for in the tests: A100, RTX 30, RTX 40, H100, B200, RTX 50.
    pub const TESTED: [Arch; 6] = [
        Arch::portable(80),
        Arch::portable(86),
        Arch::portable(89),
        Arch::specific(90),
        Arch::specific(100),
        Arch::specific(120),
    ];

    const fn portable(number: u16) -> Arch {
        Arch { number, specific: false }
    }

    const fn specific(number: u16) -> Arch {
        Arch { number, specific: true }
    }

    /// The target for a device of this compute capability: its own (`a`) target from 9.0 on, where there is one.
    #[must_use]
    pub fn of_capability(major: u32, minor: u32) -> Arch {
        let number = u16::try_from(major * 10 + minor).unwrap_or(u16::MAX);
        Arch { number, specific: number >= 90 }
    }

    /// Compute capability as NVRTC counts it: 90 for `sm_90a`.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self.number)
    }

    /// Major compute capability: 9 for `sm_90a`.
    #[must_use]
    pub fn major(self) -> u32 {
        self.number() / 10
    }

    /// Minor compute capability: 6 for `sm_86`.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.number() % 10
    }

    /// Whether the target has the suffix `a`.
    #[must_use]
    pub fn is_specific(self) -> bool {
        self.specific
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number, if self.specific { "a" } else { "" })
    }
}

impl fmt::Debug for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Arch> {
        let parse = || {
            let rest = text.strip_prefix("sm_")?;
            let (digits, specific) = rest.strip_suffix('a').map_or((rest, false), |digits| (digits, true));
            if !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() < 2 {
                return None;
            }
            Some(Arch { number: digits.parse().ok()?, specific })
        };
        parse().ok_or_else(|| Error::Arch { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tested_architectures_survive_text_and_back() {
        for arch in Arch::TESTED {
            assert_eq!(arch.to_string().parse::<Arch>().unwrap(), arch);
        }
    }

    #[test]
    fn a_text_that_is_no_architecture_is_an_error_that_repeats_it() {
        for text in ["", "sm_", "sm_9", "sm_a", "90a", "compute_90", "sm_90f", "sm_+90", "sm_999999"] {
            let error = text.parse::<Arch>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn devices_from_hopper_on_get_their_own_target() {
        let names =
            [(8, 0), (8, 9), (9, 0), (10, 3), (12, 1)].map(|(a, b)| Arch::of_capability(a, b).to_string());
        assert_eq!(names, ["sm_80", "sm_89", "sm_90a", "sm_103a", "sm_121a"]);
    }
}
