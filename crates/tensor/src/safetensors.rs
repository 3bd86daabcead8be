//! Tensors in safetensors files, by name.
//!
//! ```
//! # fn main() -> longhand_tensor::Result<()> {
//! # let folder = std::env::temp_dir();
//! # let path = folder.join(format!("longhand-{}.safetensors", std::process::id()));
//! use longhand_tensor::{Device, Tensor, safetensors};
//!
//! let weight = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
//! safetensors::save(&path, [("weight", &weight)])?;
//! let loaded = safetensors::load(&path, &Device::Cpu)?;
//! assert_eq!(loaded["weight"].shape(), [2, 2]);
//! assert_eq!(loaded["weight"].to_vec::<f32>()?, weight.to_vec::<f32>()?);
//! # std::fs::remove_file(&path).unwrap();
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{SafeTensors, tensor::TensorView};

use crate::dtype::with_element;
use crate::{Device, Dtype, Error, Result, Tensor};

/// Writes a file of these tensors, in place of one that is there, without their history.
///
/// # Errors
/// When the file cannot be written, two tensors have the same name, or a device cannot be read.
pub fn save<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let bytes = serialize(tensors)?;
    fs::write(path, bytes).map_err(|source| Error::File { verb: "write", path: path.into(), source })
}

/// The bytes of a file of these tensors.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, safetensors};
/// let bytes = safetensors::serialize([("bias", &Tensor::from([1.0f32, 2.0]))])?;
/// assert_eq!(safetensors::deserialize(&bytes, &Device::Cpu)?["bias"].to_vec::<f32>()?, [1.0, 2.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When two tensors have the same name, or a device cannot be read.
pub fn serialize<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let mut data = BTreeMap::new();
    for (name, tensor) in tensors {
        let found = (stored(tensor.dtype()), tensor.shape().to_vec(), bytes(tensor)?);
        if data.insert(name, found).is_some() {
            let argument = format!("tensor `{name}`");
            return Err(Error::argument("safetensors", &argument, "there twice", "there once"));
        }
    }
    let views = data
        .iter()
        .map(|(name, (dtype, shape, bytes))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<std::result::Result<Vec<_>, _>>();
    views
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|error| Error::Safetensors(error.to_string()))
}

/// Reads all tensors of a file onto `device`, each in the element type it is stored in.
///
/// # Errors
/// When the file cannot be read, is damaged, holds another element type, or there is no memory.
pub fn load(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs::read(path).map_err(|source| Error::File { verb: "read", path: path.into(), source })?;
    deserialize(&bytes, device)
}

/// The tensors in the bytes of a file.
///
/// # Errors
/// As [`load`].
pub fn deserialize(bytes: &[u8], device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::Safetensors(error.to_string()))?;
    let named = file.iter().map(|(name, view)| Ok((name.to_string(), tensor(name, &view, device)?)));
    named.collect()
}

fn stored(dtype: Dtype) -> safetensors::Dtype {
    match dtype {
        Dtype::F64 => safetensors::Dtype::F64,
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::Bf16 => safetensors::Dtype::BF16,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::U32 => safetensors::Dtype::U32,
    }
}

/// In the order of this machine, which has to be that of the format: little-endian, as every machine that Longhand runs on.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    const { assert!(cfg!(target_endian = "little")) };
    with_element!(tensor.dtype(), E => Ok(bytemuck::cast_slice(&tensor.to_vec::<E>()?).to_vec()))
}

fn tensor(name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
    let dtypes = [Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::U32];
    let Some(dtype) = dtypes.into_iter().find(|&dtype| stored(dtype) == view.dtype()) else {
        let argument = format!("tensor `{name}`");
        let expected = "f64, f32, bf16, f16 or u32";
        return Err(Error::argument("safetensors", &argument, format!("of {}", view.dtype()), expected));
    };
    with_element!(dtype, E => {
        let mut values = vec![E::default(); view.shape().iter().product()];
        bytemuck::cast_slice_mut::<E, u8>(&mut values).copy_from_slice(view.data());
        Tensor::from_vec(values, view.shape(), device)
    })
}
