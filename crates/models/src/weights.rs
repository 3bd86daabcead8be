//! Weights in a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use longhand_tensor::{Device, Dtype, Element, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Error, Misfit, Result};

pub(crate) const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own bound on the JSON at the head of a file, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors of a folder, by name; each is read from the disk when asked for.
pub(crate) struct Weights {
    /// The file, or the index of its shards: what errors name.
    pub(crate) path: PathBuf,
    shards: Vec<Shard>,
    shard_of: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(FILE);
        if single.exists() {
            let shard = Shard::open(single.clone())?;
            let shard_of = shard.metadata.offset_keys().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { path: single, shards: vec![shard], shard_of });
        }
        let index = folder.join(INDEX);
        if index.exists() {
            return Self::open_shards(folder, index);
        }
        Err(Error::NoWeights { path: folder.into(), pickled: folder.join("pytorch_model.bin").exists() })
    }

    fn open_shards(folder: &Path, path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let index: Index =
            serde_json::from_str(&text).map_err(|source| Error::Json { path: path.clone(), source })?;
        let mut shards: Vec<Shard> = Vec::new();
        let mut opened = HashMap::new();
        let mut shard_of = BTreeMap::new();
        for (tensor, file) in index.weight_map {
            let contradiction = |problem| Error::Index {
                path: path.clone(),
                tensor: tensor.clone(),
                shard: file.clone(),
                problem,
            };
            if Path::new(&file).file_name() != Some(file.as_ref()) {
                return Err(contradiction("which is not the name of a file in the same folder"));
            }
            let shard = match opened.get(&file) {
                Some(shard) => *shard,
                None => {
                    shards.push(Shard::open(folder.join(&file))?);
                    opened.insert(file.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards[shard].metadata.info(&tensor).is_none() {
                return Err(contradiction("which does not hold it"));
            }
            shard_of.insert(tensor, shard);
        }
        Ok(Self { path, shards, shard_of })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        let shard = &self.shards[*self.shard_of.get(name)?];
        Some(&shard.metadata.info(name)?.shape)
    }

    /// Reads a tensor as `dtype`, whatever type it is stored in.
    pub(crate) fn read(&self, name: &str, device: &Device, dtype: Dtype) -> Result<Tensor> {
        let (shard, info, bytes) = self.stored(name)?;
        let tensor = match info.dtype {
            safetensors::Dtype::F64 => decode(&bytes, f64::from_le_bytes, &info.shape, device),
            safetensors::Dtype::F32 => decode(&bytes, f32::from_le_bytes, &info.shape, device),
            safetensors::Dtype::BF16 => decode(&bytes, bf16::from_le_bytes, &info.shape, device),
            safetensors::Dtype::F16 => decode(&bytes, f16::from_le_bytes, &info.shape, device),
            other => {
                return Err(Error::StoredDtype {
                    path: shard.path.clone(),
                    tensor: name.into(),
                    was: other.to_string(),
                });
            }
        }?;
        Ok(tensor.to_dtype(dtype)?)
    }

    /// Whether two tensors are stored as the same bytes of the same type.
    pub(crate) fn same(&self, one: &str, other: &str) -> Result<bool> {
        let (_, one, one_bytes) = self.stored(one)?;
        let (_, other, other_bytes) = self.stored(other)?;
        Ok(one.dtype == other.dtype && one.shape == other.shape && one_bytes == other_bytes)
    }

    fn stored(&self, name: &str) -> Result<(&Shard, &TensorInfo, Vec<u8>)> {
        let shard = self.shard_of.get(name).map(|shard| &self.shards[*shard]);
        let found = shard.and_then(|shard| Some((shard, shard.metadata.info(name)?)));
        let Some((shard, info)) = found else {
            let misfit = Misfit { missing: vec![name.into()], ..Misfit::default() };
            return Err(Error::Misfit { path: self.path.clone(), misfit });
        };
        let bytes = shard.read(info).map_err(|source| Error::Read { path: shard.path.clone(), source })?;
        Ok((shard, info, bytes))
    }
}

/// One safetensors file whose header has been read and checked against the file's length.
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let read_error = |source| Error::Read { path: path.clone(), source };
        let foreign = |reason| Error::NotSafetensors { path: path.clone(), reason };

        let mut file = File::open(&path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        if length < 8 {
            return Err(foreign(format!("it is {length} bytes long, too short for a header")));
        }
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(read_error)?;
        let size = u64::from_le_bytes(size);
        if size > LONGEST_HEADER {
            return Err(foreign(format!("its first 8 bytes ask for a header of {size} bytes")));
        }
        let data_start = 8 + size;
        if data_start > length {
            return Err(Error::WrongLength { path, was: length, expected: data_start });
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(read_error)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|problem| foreign(format!("its header does not describe tensors: {problem}")))?;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != length {
            return Err(Error::WrongLength { path, was: length, expected });
        }
        Ok(Self { path, file, data_start, metadata })
    }

    fn read(&self, info: &TensorInfo) -> std::io::Result<Vec<u8>> {
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + start as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The chunks of a safetensors file that holds these tensors, in this order.
pub(crate) fn serialize(tensors: &[(String, Tensor)]) -> impl Iterator<Item = Result<Vec<u8>>> {
    let mut header = Map::new();
    // transformers reads no file without this entry.
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.numel() * tensor.dtype().size();
        let dtype = match tensor.dtype() {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
            Dtype::U32 => "U32",
        };
        let info = json!({ "dtype": dtype, "shape": tensor.shape(), "data_offsets": [start, end] });
        header.insert(name.clone(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The data starts at a multiple of 8 bytes, as the format asks.
    header.resize(header.len().next_multiple_of(8), b' ');
    let head = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
    std::iter::once(Ok(head)).chain(tensors.iter().map(|(_, tensor)| bytes(tensor)))
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    match tensor.dtype() {
        Dtype::F64 => encode(tensor, f64::to_le_bytes),
        Dtype::F32 => encode(tensor, f32::to_le_bytes),
        Dtype::Bf16 => encode(tensor, bf16::to_le_bytes),
        Dtype::F16 => encode(tensor, f16::to_le_bytes),
        Dtype::U32 => encode(tensor, u32::to_le_bytes),
    }
}

fn encode<E: Element, const SIZE: usize>(tensor: &Tensor, to_bytes: fn(E) -> [u8; SIZE]) -> Result<Vec<u8>> {
    Ok(tensor.to_vec::<E>()?.into_iter().flat_map(to_bytes).collect())
}

fn decode<E: Element, const SIZE: usize>(
    bytes: &[u8],
    from_bytes: fn([u8; SIZE]) -> E,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let elements = elements.iter().map(|element| from_bytes(*element)).collect();
    Ok(Tensor::from_vec(elements, shape, device)?)
}
