//! Files of NumPy arrays (NEP 1): a header that is a Python dictionary, and the elements in C order.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::dtype::Dtype;

const MAGIC: &[u8] = b"\x93NUMPY";

/// An array.
#[derive(Debug, PartialEq)]
pub struct Array {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// The elements, little-endian.
    pub data: Vec<u8>,
}

/// Bytes of an array; None where that is too large a number.
pub fn bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes() as u64, |product, length| product.checked_mul(*length))
}

/// Reads a file, whose name every error tells.
pub fn read(path: &Path) -> anyhow::Result<Array> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    parse(&file).with_context(|| path.display().to_string())
}

fn parse(file: &[u8]) -> anyhow::Result<Array> {
    let Some(rest) = file.strip_prefix(MAGIC) else { bail!("is no .npy file") };
    let truncated = "ends within its header";
    let (header, data) = match rest {
        [1, _, a, b, rest @ ..] => rest.split_at_checked(u16::from_le_bytes([*a, *b]).into()),
        [2 | 3, _, a, b, c, d, rest @ ..] => {
            rest.split_at_checked(u32::from_le_bytes([*a, *b, *c, *d]) as usize)
        }
        [] | [1..=3, ..] => None,
        [version, ..] => bail!("version {version} of .npy, and must be 1 to 3"),
    }
    .context(truncated)?;
    let header = str::from_utf8(header).context("a header that is no text")?;
    let descr = value(header, "descr").context("a header without descr")?;
    let descr = descr.strip_prefix('\'').and_then(|it| it.split_once('\''));
    let (descr, _) = descr.context("records, and must be an array of one plain type")?;
    let shape = shape(header).context("a header without a shape")?;
    let dtype = Dtype::from_descr(descr)?;
    let fortran = value(header, "fortran_order").is_some_and(|it| it.starts_with("True"));
    if fortran && shape.len() > 1 {
        bail!("is in Fortran order: save it with np.ascontiguousarray");
    }
    let wanted = bytes(dtype, &shape).context("a shape too large")?;
    if data.len() as u64 != wanted {
        bail!(
            "has {} bytes of elements, and its shape {shape:?} of {} takes {wanted}",
            data.len(),
            dtype.name()
        );
    }
    Ok(Array { dtype, shape, data: data.to_vec() })
}

/// What stands behind a key of the dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}':"))?;
    Some(rest.trim_start())
}

fn shape(header: &str) -> Option<Vec<u64>> {
    let (inside, _) = value(header, "shape")?.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|it| !it.is_empty()).map(|it| it.parse().ok()).collect()
}

/// Writes a file, whose name every error tells.
pub fn write(path: &Path, dtype: Dtype, shape: &[u64], data: &[u8]) -> anyhow::Result<()> {
    // A tuple of one is told from a number by its comma.
    let comma = if shape.len() == 1 { "," } else { "" };
    let lengths = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let descr = dtype.descr();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lengths}{comma}), }}");
    // The elements start at a multiple of 64.
    let start = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64);
    let length = start - MAGIC.len() - 4;
    let short = u16::try_from(length).context("a shape of too many axes")?;
    let mut file = [MAGIC, &[1, 0], &short.to_le_bytes()].concat();
    file.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    file.extend_from_slice(data);
    fs::write(path, file).with_context(|| format!("writing {}", path.display()))
}
