//! What of CUDA this machine has.

use crate::cuda_library::{DriverInfo, driver_info};
use crate::{Found, Result, cache, cublaslt, nvrtc};

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: String,
    /// Version or description of what is there; None where it is missing.
    pub found: Option<String>,
    /// Where it is.
    pub place: Option<String>,
    /// What to do, and why: for what is missing, or does not fit the rest.
    pub advice: Option<String>,
}

/// Looks for the driver, its GPUs, NVRTC, cuBLASLt and the cache of compiled kernels. Opens no device, changes
/// nothing.
#[must_use]
pub fn doctor() -> Vec<Check> {
    let driver = driver_info();
    let supported = driver.as_ref().ok().map(|info| info.cuda_version.clone());
    let mut checks = gpus(driver);
    checks.push(nvrtc_check(nvrtc::locate(), supported.as_deref()));
    checks.push(library_check("cuBLASLt", cublaslt::locate()));
    checks.push(cache_check());
    checks
}

fn gpus(driver: Result<DriverInfo>) -> Vec<Check> {
    let info = match driver {
        Ok(info) => info,
        Err(error) => return vec![missing("GPU", error.to_string())],
    };
    let mut checks = vec![Check {
        name: "CUDA driver".to_owned(),
        found: Some(format!("supports CUDA {}", info.cuda_version)),
        place: Some(info.path.display().to_string()),
        advice: None,
    }];
    checks.extend(info.devices.iter().enumerate().map(|(ordinal, gpu)| {
        Check {
            name: format!("GPU {ordinal}"),
            found: Some(format!(
                "{}, {}, {:.1} GiB",
                gpu.name,
                gpu.arch,
                gpu.memory as f64 / f64::from(1 << 30)
            )),
            place: None,
            advice: (gpu.arch.number() < 80)
                .then(|| "Kernels need compute capability 8.0 (Ampere) or later.".to_owned()),
        }
    }));
    if info.devices.is_empty() {
        checks.push(missing(
            "GPU",
            "The driver sees none: check `nvidia-smi` and CUDA_VISIBLE_DEVICES.".to_owned(),
        ));
    }
    checks
}

/// `supported` is the newest CUDA version that the driver supports.
fn nvrtc_check(nvrtc: Result<Found>, supported: Option<&str>) -> Check {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let version = nvrtc.as_ref().ok().map(|found| found.version.clone()).unwrap_or_default();
    let mut check = library_check("NVRTC", nvrtc);
    if let Some(supported) = supported.filter(|supported| major(&version) > major(supported)) {
        check.advice = Some(format!(
            "The driver supports CUDA {supported} and may refuse what NVRTC {version} makes: update the driver, or \
             install an NVRTC of that version (`pip install nvidia-cuda-nvrtc-cu12` for CUDA 12)."
        ));
    }
    check
}

fn library_check(name: &str, found: Result<Found>) -> Check {
    match found {
        Ok(found) => Check {
            name: name.to_owned(),
            found: Some(found.version),
            place: Some(format!("{} ({})", found.path.display(), found.place)),
            advice: None,
        },
        Err(error) => missing(name, error.to_string()),
    }
}

fn cache_check() -> Check {
    let name = "Kernel cache";
    let set =
        "set LONGHAND_CACHE to a folder that can be written, or kernels are compiled anew in each process";
    let Some(folder) = cache::default_folder() else {
        return missing(name, format!("There is no user cache directory: {set}."));
    };
    match cache::probe(&folder) {
        Ok(()) => Check {
            name: name.to_owned(),
            found: Some("can be written".to_owned()),
            place: Some(folder.display().to_string()),
            advice: None,
        },
        Err(error) => missing(name, format!("{} cannot be written ({error}): {set}.", folder.display())),
    }
}

fn missing(name: &str, advice: String) -> Check {
    Check { name: name.to_owned(), found: None, place: None, advice: Some(advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nvrtc(version: &str) -> Result<Found> {
        Ok(Found { path: "/lib/libnvrtc.so".into(), place: "loader path".into(), version: version.into() })
    }

    #[test]
    fn an_nvrtc_newer_than_the_driver_comes_with_advice_and_no_other_does() {
        let advice = |version: &str, driver: Option<&str>| nvrtc_check(nvrtc(version), driver).advice;
        assert!(advice("13.0", Some("12.4")).unwrap().contains("CUDA 12.4"));
        assert_eq!(advice("13.2", Some("13.0")), None);
        assert_eq!(advice("12.9", Some("13.0")), None);
        assert_eq!(advice("13.0", None), None);
    }

    #[test]
    fn what_is_missing_comes_with_advice() {
        let checks = doctor();
        for name in ["GPU", "NVRTC", "cuBLASLt", "Kernel cache"] {
            assert!(
                checks.iter().any(|check| check.name.starts_with(name)),
                "no check of {name}: {checks:?}"
            );
        }
        for check in checks {
            assert!(
                check.found.is_some() || check.advice.is_some_and(|advice| !advice.is_empty()),
                "{}",
                check.name
            );
        }
    }
}
