//! `&a + &b`, `&a - &b`, `&a * &b`, `&a + 2.0`, `&a - 2.0`, `&a * 2.0`, `&a / 2.0` and `-&a`, each a [`Result`].

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::{Result, Tensor};

/// [`Tensor::add`].
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// let (a, b) = (Tensor::from([1.0f32, 2.0]), Tensor::from([10.0f32]));
/// assert_eq!((&a + &b)?.to_vec::<f32>()?, [11.0, 12.0]);
/// # Ok(())
/// # }
/// ```
impl Add for &Tensor {
    type Output = Result<Tensor>;

    fn add(self, other: &Tensor) -> Result<Tensor> {
        Tensor::add(self, other)
    }
}

/// [`Tensor::sub`].
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// let (a, b) = (Tensor::from([1.0f32, 2.0]), Tensor::from([10.0f32]));
/// assert_eq!((&a - &b)?.to_vec::<f32>()?, [-9.0, -8.0]);
/// # Ok(())
/// # }
/// ```
impl Sub for &Tensor {
    type Output = Result<Tensor>;

    fn sub(self, other: &Tensor) -> Result<Tensor> {
        Tensor::sub(self, other)
    }
}

/// [`Tensor::mul`].
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// let (a, b) = (Tensor::from([1.0f32, 2.0]), Tensor::from([10.0f32]));
/// assert_eq!((&a * &b)?.to_vec::<f32>()?, [10.0, 20.0]);
/// # Ok(())
/// # }
/// ```
impl Mul for &Tensor {
    type Output = Result<Tensor>;

    fn mul(self, other: &Tensor) -> Result<Tensor> {
        Tensor::mul(self, other)
    }
}

/// A number added to each element.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// assert_eq!((&Tensor::from([1.0f32, 2.0]) + 3.0)?.to_vec::<f32>()?, [4.0, 5.0]);
/// # Ok(())
/// # }
/// ```
impl Add<f64> for &Tensor {
    type Output = Result<Tensor>;

    fn add(self, number: f64) -> Result<Tensor> {
        Tensor::add(self, &Tensor::full(&[], number, self.dtype(), self.device())?)
    }
}

/// A number taken from each element.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// assert_eq!((&Tensor::from([1.0f32, 2.0]) - 3.0)?.to_vec::<f32>()?, [-2.0, -1.0]);
/// # Ok(())
/// # }
/// ```
impl Sub<f64> for &Tensor {
    type Output = Result<Tensor>;

    fn sub(self, number: f64) -> Result<Tensor> {
        Tensor::sub(self, &Tensor::full(&[], number, self.dtype(), self.device())?)
    }
}

/// [`Tensor::scale`].
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// assert_eq!((&Tensor::from([1.0f32, 2.0]) * 3.0)?.to_vec::<f32>()?, [3.0, 6.0]);
/// # Ok(())
/// # }
/// ```
impl Mul<f64> for &Tensor {
    type Output = Result<Tensor>;

    fn mul(self, factor: f64) -> Result<Tensor> {
        self.scale(factor)
    }
}

/// [`Tensor::scale`] by `1 / divisor`.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// assert_eq!((&Tensor::from([1.0f32, 2.0]) / 2.0)?.to_vec::<f32>()?, [0.5, 1.0]);
/// # Ok(())
/// # }
/// ```
impl Div<f64> for &Tensor {
    type Output = Result<Tensor>;

    fn div(self, divisor: f64) -> Result<Tensor> {
        self.scale(1.0 / divisor)
    }
}

/// [`Tensor::scale`] by -1.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::Tensor;
/// assert_eq!((-&Tensor::from([1.0f32, 2.0]))?.to_vec::<f32>()?, [-1.0, -2.0]);
/// # Ok(())
/// # }
/// ```
impl Neg for &Tensor {
    type Output = Result<Tensor>;

    fn neg(self) -> Result<Tensor> {
        self.scale(-1.0)
    }
}
