//! Tensors as text.

use std::fmt::{self, Debug, Display, Formatter};

use crate::dtype::with_element;
use crate::{Device, Element, Result, Tensor};

/// With more elements than this, only the first and last of each dimension are shown.
const MANY: usize = 1000;
/// As many at each end.
const EDGE: usize = 3;

/// The values, nested as dimensions are, then shape, element type and device. Of a large tensor, the first and last three
/// along each dimension. A precision as in `{:.2}` says how many digits follow the point. On a GPU this waits until the
/// values are computed.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor};
///
/// let x = Tensor::from_slice(&[1.0f32, -2.5, 10.25, 0.0], &[2, 2], &Device::Cpu)?;
/// assert_eq!(format!("{x:.2}"), "[[ 1.00, -2.50],\n [10.25,  0.00]]\nTensor([2, 2], f32, cpu)");
/// # Ok(())
/// # }
/// ```
impl Display for Tensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match Shown::new(self, MANY, f.precision()) {
            Ok(shown) => shown.write(f, "\n")?,
            Err(error) => write!(f, "[{error}]")?,
        }
        write!(f, "\n{}", self.described())
    }
}

/// As [`Display`](#impl-Display-for-Tensor), on one line.
impl Debug for Tensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.described())?;
        match Shown::new(self, 2 * EDGE, f.precision()) {
            Ok(shown) => shown.write(f, " "),
            Err(error) => write!(f, "[{error}]"),
        }
    }
}

impl Tensor {
    /// Shape, element type and device.
    pub(crate) fn described(&self) -> String {
        format!("Tensor({:?}, {}, {})", self.shape(), self.dtype(), self.device())
    }
}

/// The values that are shown, as text of one width.
struct Shown {
    texts: Vec<String>,
    shape: Vec<usize>,
    /// Of each dimension: whether some are left out in the middle.
    cut: Vec<bool>,
}

impl Shown {
    fn new(tensor: &Tensor, many: usize, precision: Option<usize>) -> Result<Shown> {
        let mut shown = tensor.detach();
        let large = shown.numel() > many || shown.shape().iter().any(|&size| size > many);
        let cut: Vec<bool> = shown.shape().iter().map(|&size| large && size > 2 * EDGE).collect();
        for dim in (0..cut.len()).filter(|&dim| cut[dim]) {
            let first = shown.narrow(dim, 0, EDGE)?;
            let last = shown.narrow(dim, shown.shape()[dim] - EDGE, EDGE)?;
            shown = Tensor::cat(&[&first, &last], dim)?;
        }
        let shown = shown.to_device(&Device::Cpu)?;
        let values: Vec<f64> = with_element!(shown.dtype(), E => {
            shown.to_vec::<E>()?.iter().map(|value| value.to_f64()).collect()
        });
        let mut texts: Vec<String> = values.iter().map(|value| number(*value, &values, precision)).collect();
        let width = texts.iter().map(String::len).max().unwrap_or(0);
        texts.iter_mut().for_each(|text| *text = format!("{text:>width$}"));
        Ok(Shown { texts, shape: shown.shape().to_vec(), cut })
    }

    /// With `line` between rows.
    fn write(&self, f: &mut Formatter<'_>, line: &str) -> fmt::Result {
        self.write_part(f, line, 0, &self.texts)
    }

    fn write_part(&self, f: &mut Formatter<'_>, line: &str, dim: usize, texts: &[String]) -> fmt::Result {
        let Some(&size) = self.shape.get(dim) else {
            return f.write_str(texts.first().map_or("", String::as_str));
        };
        // Rows stand below each other, and what is more than a row apart by an empty line.
        let inner = self.shape.len() - dim - 1;
        let separator = match (inner, line) {
            (0, _) => ", ".to_string(),
            (_, "\n") => format!(",{}{}", "\n".repeat(inner), " ".repeat(dim + 1)),
            _ => format!(",{line}"),
        };
        f.write_str("[")?;
        let part = texts.len().checked_div(size).unwrap_or(0);
        for i in 0..size {
            if i > 0 {
                f.write_str(&separator)?;
            }
            if self.cut[dim] && i == EDGE {
                write!(f, "...{separator}")?;
            }
            self.write_part(f, line, dim + 1, &texts[i * part..(i + 1) * part])?;
        }
        f.write_str("]")
    }
}

/// Whole numbers as such, else four digits behind the point, or in powers of ten where those would not tell much.
fn number(value: f64, all: &[f64], precision: Option<usize>) -> String {
    let finite = || all.iter().filter(|value| value.is_finite()).map(|value| value.abs());
    let largest = finite().fold(0.0, f64::max);
    match precision {
        Some(digits) => format!("{value:.digits$}"),
        None if largest < 1e7 && finite().all(|value| value.fract() == 0.0) => format!("{value:.0}"),
        None if (1e-3..1e6).contains(&largest) => format!("{value:.4}"),
        None => format!("{value:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_are_nested_as_dimensions_are() {
        let x = tensor(&[1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0, 8.0], &[2, 2, 2]);
        let expected = "[[[ 1,  2],\n  [ 3, -4]],\n\n [[ 5,  6],\n  [ 7,  8]]]\nTensor([2, 2, 2], f32, cpu)";
        assert_eq!(x.to_string(), expected);
        assert_eq!(
            format!("{:?}", x.narrow(0, 0, 1).unwrap()),
            "Tensor([1, 2, 2], f32, cpu) [[[ 1,  2], [ 3, -4]]]"
        );
        assert_eq!(tensor(&[0.5], &[]).to_string(), "0.5000\nTensor([], f32, cpu)");
        assert_eq!(tensor(&[], &[0]).to_string(), "[]\nTensor([0], f32, cpu)");
        assert_eq!(format!("{:?}", tensor(&[], &[2, 0])), "Tensor([2, 0], f32, cpu) [[], []]");
    }

    #[test]
    fn large_and_small_and_other_numbers_are_told_apart() {
        assert_eq!(format!("{:?}", tensor(&[1e-5, 2.5], &[2])), "Tensor([2], f32, cpu) [0.0000, 2.5000]");
        assert_eq!(
            format!("{:?}", tensor(&[1e-5, 2e-5], &[2])),
            "Tensor([2], f32, cpu) [1.0000e-5, 2.0000e-5]"
        );
        assert_eq!(
            format!("{:?}", tensor(&[f32::NAN, f32::NEG_INFINITY, 1.5], &[3])),
            "Tensor([3], f32, cpu) [   NaN,   -inf, 1.5000]"
        );
    }

    #[test]
    fn the_middle_of_a_large_tensor_is_left_out() {
        let values: Vec<f32> = (0..2000).map(|i| i as f32).collect();
        assert_eq!(
            format!("{:?}", tensor(&values, &[2, 1000])),
            "Tensor([2, 1000], f32, cpu) [[   0,    1,    2, ...,  997,  998,  999], [1000, 1001, 1002, ..., 1997, 1998, 1999]]"
        );
        let rows = tensor(&values, &[1000, 2]).to_string();
        assert!(
            rows.starts_with("[[   0,    1],\n [   2,    3],\n [   4,    5],\n ...,\n [1994, 1995],"),
            "{rows}"
        );
    }
}
