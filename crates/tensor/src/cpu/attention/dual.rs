//! Numbers that carry their derivative.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number and its derivative by the score it was computed from: a score that is computed with these has its
/// gradient, without anyone writing it down (forward-mode differentiation: Wengert 1964, doi 10.1145/355586.364791).
///
/// ```
/// use longhand_tensor::ops::Dual;
///
/// let score = Dual::variable(3.0);
/// let capped = (score / 50.0).tanh() * 50.0;
/// assert!((capped.slope - (1.0 - (3.0f64 / 50.0).tanh().powi(2))).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dual {
    /// The number.
    pub value: f64,
    /// Its derivative.
    pub slope: f64,
}

impl Dual {
    /// What the derivative is taken by.
    #[must_use]
    pub fn variable(value: f64) -> Dual {
        Dual { value, slope: 1.0 }
    }

    /// A number that does not depend on it.
    #[must_use]
    pub fn constant(value: f64) -> Dual {
        Dual { value, slope: 0.0 }
    }

    fn chain(self, value: f64, slope: f64) -> Dual {
        Dual { value, slope: slope * self.slope }
    }

    /// `e^x`.
    #[must_use]
    pub fn exp(self) -> Dual {
        self.chain(self.value.exp(), self.value.exp())
    }

    /// The natural logarithm.
    #[must_use]
    pub fn ln(self) -> Dual {
        self.chain(self.value.ln(), 1.0 / self.value)
    }

    /// The square root.
    #[must_use]
    pub fn sqrt(self) -> Dual {
        self.chain(self.value.sqrt(), 0.5 / self.value.sqrt())
    }

    /// The hyperbolic tangent.
    #[must_use]
    pub fn tanh(self) -> Dual {
        let tanh = self.value.tanh();
        self.chain(tanh, 1.0 - tanh * tanh)
    }

    /// The magnitude; its derivative at 0 is 0.
    #[must_use]
    pub fn abs(self) -> Dual {
        let sign = if self.value == 0.0 { 0.0 } else { self.value.signum() };
        self.chain(self.value.abs(), sign)
    }

    /// A power.
    #[must_use]
    pub fn powi(self, power: i32) -> Dual {
        self.chain(self.value.powi(power), f64::from(power) * self.value.powi(power - 1))
    }

    /// The larger one.
    #[must_use]
    pub fn max(self, other: impl Into<Dual>) -> Dual {
        let other = other.into();
        if self.value >= other.value { self } else { other }
    }

    /// The smaller one.
    #[must_use]
    pub fn min(self, other: impl Into<Dual>) -> Dual {
        let other = other.into();
        if self.value <= other.value { self } else { other }
    }
}

impl From<f64> for Dual {
    fn from(value: f64) -> Dual {
        Dual::constant(value)
    }
}

impl Neg for Dual {
    type Output = Dual;
    fn neg(self) -> Dual {
        Dual { value: -self.value, slope: -self.slope }
    }
}

impl<T: Into<Dual>> Add<T> for Dual {
    type Output = Dual;
    fn add(self, other: T) -> Dual {
        let other = other.into();
        Dual { value: self.value + other.value, slope: self.slope + other.slope }
    }
}

impl<T: Into<Dual>> Sub<T> for Dual {
    type Output = Dual;
    fn sub(self, other: T) -> Dual {
        self + -other.into()
    }
}

impl<T: Into<Dual>> Mul<T> for Dual {
    type Output = Dual;
    fn mul(self, other: T) -> Dual {
        let other = other.into();
        Dual { value: self.value * other.value, slope: self.slope * other.value + self.value * other.slope }
    }
}

impl<T: Into<Dual>> Div<T> for Dual {
    type Output = Dual;
    fn div(self, other: T) -> Dual {
        let other = other.into();
        let value = self.value / other.value;
        Dual { value, slope: (self.slope - value * other.slope) / other.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_finite_differences() {
        type Function = fn(Dual) -> Dual;
        let functions: [(&str, Function); 9] = [
            ("exp", Dual::exp),
            ("ln", Dual::ln),
            ("sqrt", Dual::sqrt),
            ("tanh", Dual::tanh),
            ("abs", |x| (-x).abs()),
            ("powi", |x| x.powi(3)),
            ("quotient", |x| (x * 2.0 + 1.0) / (x * x + 0.5)),
            ("max", |x| (x * 3.0).max(x - 1.0).max(0.25)),
            ("min", |x| (x * 3.0).min(x - 1.0).min(100.0)),
        ];
        for (name, function) in functions {
            let at = |x: f64| function(Dual::variable(x));
            let slope = (at(0.7 + 1e-6).value - at(0.7 - 1e-6).value) / 2e-6;
            assert!((at(0.7).slope - slope).abs() < 1e-8, "{name}: {} and {slope}", at(0.7).slope);
        }
    }
}
