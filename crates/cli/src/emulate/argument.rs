//! `--arg`: what a kernel gets for a parameter.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use longhand_emulator::Gpu;

use super::dtype::{self, Dtype};
use super::npy::{self, Array};

/// A value, as it is passed, and what becomes of its buffer.
pub struct Passed {
    /// The bytes of the parameter.
    pub bytes: Vec<u8>,
    /// What its offset in a C struct is a multiple of.
    pub align: usize,
    /// The buffer to write to a file at the end.
    pub output: Option<Output>,
}

/// A buffer that is written to a file.
pub struct Output {
    address: u64,
    dtype: Dtype,
    shape: Vec<u64>,
    path: PathBuf,
}

/// Makes what `text` says: reads files, allocates and fills buffers.
pub fn pass(gpu: &Gpu, text: &str) -> anyhow::Result<Passed> {
    if text == "null" {
        return Ok(Passed::address(0));
    }
    let Some((kind, value)) = text.split_once('=') else {
        bail!("must be null or KIND=VALUE, such as i32=128");
    };
    match kind {
        "in" => {
            let array = npy::read(Path::new(value))?;
            upload(gpu, &array).map(Passed::address)
        }
        "inout" => {
            let Some((input, output)) = value.split_once(':') else { bail!("must be inout=FILE:FILE") };
            let array = npy::read(Path::new(input))?;
            let address = upload(gpu, &array)?;
            Passed::written(address, array.dtype, array.shape, output)
        }
        "out" => {
            let parts: Vec<&str> = value.splitn(3, ':').collect();
            let [name, lengths, output] = parts[..] else {
                bail!("must be out=TYPE:SHAPE:FILE, such as out=f32:128x64:y.npy");
            };
            let (dtype, shape, bytes) = describe(&format!("{name}:{lengths}"))?;
            Passed::written(gpu.alloc(bytes)?, dtype, shape, output)
        }
        "zeros" => {
            let (_, _, bytes) = describe(value)?;
            let address = gpu.alloc(bytes)?;
            gpu.fill(address, 0, bytes)?;
            Ok(Passed::address(address))
        }
        "bytes" => {
            let bytes = fs::read(value).with_context(|| value.to_owned())?;
            Ok(Passed { bytes, align: 1, output: None })
        }
        _ => {
            let Some(dtype) = Dtype::from_name(kind) else {
                bail!("{kind:?} must be in, inout, out, zeros, null, bytes or one of {}", dtype::names());
            };
            Ok(Passed { bytes: dtype.parse(value)?, align: dtype.bytes(), output: None })
        }
    }
}

impl Passed {
    fn address(address: u64) -> Passed {
        Passed { bytes: address.to_le_bytes().into(), align: 8, output: None }
    }

    fn written(address: u64, dtype: Dtype, shape: Vec<u64>, path: &str) -> anyhow::Result<Passed> {
        let path = PathBuf::from(path);
        // Told before a long run, not after.
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        if path.file_name().is_none() || path.is_dir() || folder.is_some_and(|it| !it.is_dir()) {
            bail!("{:?} cannot be written: no such folder, or no file's name", path.display().to_string());
        }
        Ok(Passed { output: Some(Output { address, dtype, shape, path }), ..Passed::address(address) })
    }
}

impl Output {
    /// Writes the buffer to its file.
    pub fn write(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let bytes = npy::bytes(self.dtype, &self.shape).unwrap_or_default() as usize;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes)
            .with_context(|| format!("{} bytes for {}", bytes, self.path.display()))?;
        data.resize(bytes, 0);
        gpu.download(self.address, &mut data)?;
        npy::write(&self.path, self.dtype, &self.shape, &data)
    }
}

fn upload(gpu: &Gpu, array: &Array) -> anyhow::Result<u64> {
    let address = gpu.alloc(array.data.len() as u64)?;
    gpu.upload(address, &array.data)?;
    Ok(address)
}

/// `f32:128x64`, and its bytes.
fn describe(text: &str) -> anyhow::Result<(Dtype, Vec<u64>, u64)> {
    let Some((name, lengths)) = text.split_once(':') else {
        bail!("{text:?} must be TYPE:SHAPE, such as f32:128x64")
    };
    let dtype =
        Dtype::from_name(name).with_context(|| format!("type {name:?} is none of {}", dtype::names()))?;
    let lengths: Option<Vec<u64>> = lengths.split('x').map(|it| it.parse().ok()).collect();
    let shape = lengths
        .with_context(|| format!("shape of {text:?} must be lengths with x between, such as 128x64"))?;
    let bytes = npy::bytes(dtype, &shape).with_context(|| format!("{text} is too large"))?;
    Ok((dtype, shape, bytes))
}
