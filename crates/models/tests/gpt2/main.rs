//! GPT-2 against what transformers computes, and its folders, good and bad.

mod cache;
mod damaged;
mod emulated;
mod folder;
mod golden;
mod model;
mod unwritable;

use std::fs;
use std::path::{Path, PathBuf};

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{Device, Dtype, Tensor};
use safetensors::SafeTensors;

/// The folder that transformers wrote; see `tests/golden/make.py`.
fn tiny_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny")
}

fn tiny() -> Gpt2 {
    Gpt2::from_pretrained(&tiny_folder(), &Device::Cpu, Dtype::F32).unwrap()
}

/// A copy of the golden folder, to be damaged.
fn tiny_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(tiny_folder().join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// What transformers computed, by name.
struct Expected(Vec<u8>);

impl Expected {
    fn load() -> Self {
        Self(fs::read(tiny_folder().join("../expected.safetensors")).unwrap())
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.elements(name, f32::from_le_bytes)
    }

    /// Token ids; torch's -100 becomes `u32::MAX`.
    fn ids(&self, name: &str) -> Tensor {
        let ids = self.elements(name, |bytes| u32::try_from(i32::from_le_bytes(bytes)).unwrap_or(u32::MAX));
        Tensor::from_vec(ids, &self.shape(name), &Device::Cpu).unwrap()
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    fn elements<E>(&self, name: &str, from_bytes: fn([u8; 4]) -> E) -> Vec<E> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let (elements, _) = file.tensor(name).unwrap().data().as_chunks();
        elements.iter().map(|bytes| from_bytes(*bytes)).collect()
    }
}

#[track_caller]
fn assert_close(was: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(was.len(), expected.len());
    for (at, (was, expected)) in was.iter().zip(expected).enumerate() {
        assert!(
            (was - expected).abs() <= tolerance,
            "element {at} is {was}, expected {expected} within {tolerance}"
        );
    }
}
