//! What an operation is, and what it is given and gives.

use std::any::{Any, type_name};
use std::cell::RefCell;

use super::Input;
use crate::{Device, Dtype, Error, Result, Tensor};

/// Something that computes tensors from tensors, and knows its derivative. Longhand's own operations and yours
/// are made with this same trait; [`apply`](crate::apply) runs them.
///
/// ```
/// use longhand_tensor::{Backward, Device, Forward, Operation, Result, Tensor, apply};
///
/// /// `x * x`, elementwise.
/// struct Square;
///
/// impl Operation for Square {
///     fn name(&self) -> &str {
///         "square"
///     }
///     fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
///         let x = &inputs[0];
///         Ok(Forward::new([x.mul(x)?]).save([needs[0].then(|| x.clone())]))
///     }
///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
///         Ok(vec![Some(ctx.grad(0)?.mul(ctx.saved(0)?)?.scale(2.0)?)])
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[3.0f32], &[1], &Device::Cpu)?.requires_grad();
/// let y = apply(Square, &[&x])?.remove(0);
/// assert_eq!(y.backward()?.get(&x).unwrap().item()?, 6.0);
/// # Ok(())
/// # }
/// ```
pub trait Operation: Send + Sync + 'static {
    /// What error messages call it.
    fn name(&self) -> &str;

    /// Computes the outputs. `needs[i]` says that the gradient of input `i` will be asked for: save only what
    /// those gradients take. When none is needed, nothing should be saved.
    ///
    /// The inputs carry no history, so that operations called in here are not recorded.
    ///
    /// # Errors
    /// When the inputs are not what the operation takes.
    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward>;

    /// The gradient of each input that needs one, from the gradients of the outputs. An entry whose input needs
    /// none is ignored: leave it `None`.
    ///
    /// # Errors
    /// The default has no rule and says so.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let _ = ctx;
        Err(Error::NoRule { operation: self.name().into() })
    }

    /// Whether output `output` is computed again in backward, by [`recompute`](Operation::recompute), when another operation
    /// saved it: then it is not kept. For what takes little time beside the memory of its output, as an activation does. It is
    /// made for the first of those that saved it, and stays until the last of them has read it.
    /// By default nothing is.
    fn recomputes(&self, output: usize) -> bool {
        let _ = output;
        false
    }

    /// Output `output` again, with the same bits, from what forward saved. Asked for only if
    /// [`recomputes`](Operation::recomputes) says so.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Backward, Forward, Operation, Result, Tensor, apply};
    ///
    /// struct Double;
    ///
    /// impl Operation for Double {
    ///     fn name(&self) -> &str {
    ///         "double"
    ///     }
    ///     fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
    ///         let saved = needs[0].then(|| inputs[0].clone());
    ///         Ok(Forward::new([inputs[0].scale(2.0)?]).save([saved]))
    ///     }
    ///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
    ///         Ok(vec![Some(ctx.grad(0)?.scale(2.0)?)])
    ///     }
    ///     fn recomputes(&self, _output: usize) -> bool {
    ///         true
    ///     }
    ///     fn recompute(&self, _output: usize, ctx: &Backward) -> Result<Tensor> {
    ///         ctx.saved(0)?.scale(2.0)
    ///     }
    /// }
    ///
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// let y = apply(Double, &[&x])?.remove(0);
    /// // The product's rule reads y, of which it kept nothing.
    /// assert_eq!(y.mul(&y)?.backward()?.get(&x).unwrap().item()?, 24.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of forward. The default cannot, and says so.
    fn recompute(&self, output: usize, ctx: &Backward<'_>) -> Result<Tensor> {
        let _ = ctx;
        Err(Error::BadRule {
            operation: self.name().into(),
            found: "nothing: it has no `recompute`".into(),
            expected: format!("output {output} again, as `recomputes` promises"),
        })
    }
}

/// What an operation's forward returns: its outputs, and what it keeps for its backward.
pub struct Forward {
    pub(super) outputs: Vec<Tensor>,
    pub(super) saved: Vec<Option<Tensor>>,
    pub(super) kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Forward {
    /// With these outputs and nothing saved.
    pub fn new(outputs: impl Into<Vec<Tensor>>) -> Self {
        Forward { outputs: outputs.into(), saved: Vec::new(), kept: None }
    }

    /// Keeps these tensors (inputs, outputs or others) for [`Backward::saved`], freed once it has passed. An input that another
    /// operation [computes again](Operation::recomputes), or a view of all of it, takes no memory.
    #[must_use]
    pub fn save(mut self, saved: impl Into<Vec<Option<Tensor>>>) -> Self {
        self.saved = saved.into();
        self
    }

    /// Keeps a value that is no tensor, such as a table of what was chosen, for [`Backward::kept`], dropped once it has
    /// passed.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::{Backward, Forward, Operation, Result, Tensor, apply};
    ///
    /// /// The largest element, of f32.
    /// struct Largest;
    ///
    /// impl Operation for Largest {
    ///     fn name(&self) -> &str {
    ///         "largest"
    ///     }
    ///     fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
    ///         let values = inputs[0].to_vec::<f32>()?;
    ///         let place = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0);
    ///         let forward = Forward::new([Tensor::from([values[place]])]);
    ///         Ok(if needs[0] { forward.keep(place) } else { forward })
    ///     }
    ///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
    ///         let mut grad = vec![0.0f32; ctx.input(0).shape[0]];
    ///         grad[*ctx.kept::<usize>()?] = ctx.grad(0)?.item()? as f32;
    ///         Ok(vec![Some(grad.into())])
    ///     }
    /// }
    ///
    /// let x = Tensor::from([3.0f32, 7.0, 5.0]).requires_grad();
    /// let gradients = apply(Largest, &[&x])?[0].backward()?;
    /// assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>()?, [0.0, 1.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn keep(mut self, value: impl Any + Send + Sync) -> Self {
        self.kept = Some(Box::new(value));
        self
    }
}

/// Shape, element type and device of an input or output, without its elements.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    /// Where it lives.
    pub device: Device,
}

impl Meta {
    pub(super) fn of(tensor: &Tensor) -> Self {
        Meta { shape: tensor.shape().to_vec(), dtype: tensor.dtype(), device: tensor.device().clone() }
    }
}

/// What an operation's backward gets.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Backward, Forward, Operation, Result, Tensor, apply};
/// /// `a * b` of equal shapes.
/// struct Product;
///
/// impl Operation for Product {
///     fn name(&self) -> &str {
///         "product"
///     }
///     fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
///         // Each gradient takes the other input.
///         let saved = [needs[1].then(|| inputs[0].clone()), needs[0].then(|| inputs[1].clone())];
///         Ok(Forward::new([inputs[0].mul(&inputs[1])?]).save(saved))
///     }
///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
///         let by = |i: usize| -> Result<Option<Tensor>> {
///             Ok(if ctx.needs(i) { Some(ctx.grad(0)?.mul(ctx.saved(1 - i)?)?) } else { None })
///         };
///         Ok(vec![by(0)?, by(1)?])
///     }
/// }
///
/// let (a, frozen) = (Tensor::from([2.0f32]).requires_grad(), Tensor::from([5.0f32]));
/// let gradients = apply(Product, &[&a, &frozen])?[0].backward()?;
/// assert_eq!(gradients.get(&a).unwrap().item()?, 5.0);
/// # Ok(())
/// # }
/// ```
pub struct Backward<'a> {
    pub(super) operation: &'a str,
    pub(super) saved: &'a [Option<Tensor>],
    pub(super) kept: Option<&'a (dyn Any + Send + Sync)>,
    pub(super) grads: &'a [Option<Tensor>],
    pub(super) needs: &'a [bool],
    pub(super) inputs: &'a [Input],
    pub(super) outputs: &'a [Meta],
    pub(super) sums: RefCell<Vec<Option<Tensor>>>,
}

impl Backward<'_> {
    /// Whether the gradient of input `i` is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Shape, element type and device of input `i`.
    ///
    /// # Panics
    /// When there is no such input, as a slice does.
    pub fn input(&self, i: usize) -> &Meta {
        &self.inputs[i].meta
    }

    /// The `i`-th tensor that forward saved.
    ///
    /// # Errors
    /// When forward saved none there.
    pub fn saved(&self, i: usize) -> Result<&Tensor> {
        self.saved.get(i).and_then(Option::as_ref).ok_or_else(|| Error::BadRule {
            operation: self.operation.into(),
            found: format!("nothing: it reads saved tensor {i}, which forward did not save"),
            expected: "that forward saves what `needs` takes".into(),
        })
    }

    /// The value that forward [kept](Forward::keep).
    ///
    /// # Errors
    /// When forward kept none, or one of another type.
    pub fn kept<T: Any>(&self) -> Result<&T> {
        self.kept.and_then(<dyn Any + Send + Sync>::downcast_ref).ok_or_else(|| Error::BadRule {
            operation: self.operation.into(),
            found: format!(
                "nothing: it reads a value of type {}, which forward did not keep",
                type_name::<T>()
            ),
            expected: "that forward keeps what `needs` takes".into(),
        })
    }

    /// The gradient of input `i` so far, if others contributed to it already and a rule may change it in place: contiguous,
    /// of the input's shape and type, and held by nobody else. A rule that takes it adds to it and returns the sum: that
    /// saves a tensor where few elements change, as in a table of embeddings. A rule that does not ask returns its own
    /// part, which is added for it.
    ///
    /// ```
    /// use longhand_tensor::{Backward, Forward, Operation, Result, Tensor, apply};
    ///
    /// struct Same;
    ///
    /// impl Operation for Same {
    ///     fn name(&self) -> &str {
    ///         "same"
    ///     }
    ///     fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
    ///         Ok(Forward::new([inputs[0].contiguous()?]))
    ///     }
    ///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
    ///         let grad = ctx.grad(0)?;
    ///         Ok(vec![Some(match ctx.take_sum(0) {
    ///             Some(sum) => sum.add(&grad)?,
    ///             None => grad,
    ///         })])
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// let y = apply(Same, &[&x])?.remove(0).add(&x.scale(2.0)?)?;
    /// assert_eq!(y.backward()?.get(&x).unwrap().item()?, 3.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_sum(&self, i: usize) -> Option<Tensor> {
        self.sums.borrow_mut().get_mut(i).and_then(Option::take)
    }

    /// The gradient of output `i`, or `None` where the result does not depend on it.
    ///
    /// ```
    /// use longhand_tensor::{Backward, Forward, Operation, Result, Tensor, apply};
    ///
    /// /// `x` and `2 x`.
    /// struct Both;
    ///
    /// impl Operation for Both {
    ///     fn name(&self) -> &str {
    ///         "both"
    ///     }
    ///     fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
    ///         Ok(Forward::new([inputs[0].clone(), inputs[0].scale(2.0)?]))
    ///     }
    ///     fn backward(&self, ctx: &Backward) -> Result<Vec<Option<Tensor>>> {
    ///         assert_eq!((ctx.inputs(), ctx.grad_if_any(1).is_some()), (1, false)); // so there is nothing to add
    ///         Ok(vec![Some(ctx.grad(0)?)])
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// assert_eq!(apply(Both, &[&x])?[0].backward()?.get(&x).unwrap().item()?, 1.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn grad_if_any(&self, i: usize) -> Option<&Tensor> {
        self.grads.get(i).and_then(Option::as_ref)
    }

    /// The gradient of output `i`, zeros where the result does not depend on it.
    ///
    /// # Errors
    /// When there is no such output, or no memory for the zeros.
    pub fn grad(&self, i: usize) -> Result<Tensor> {
        match (self.grad_if_any(i), self.outputs.get(i)) {
            (Some(grad), _) => Ok(grad.clone()),
            (None, Some(output)) => Tensor::zeros(&output.shape, output.dtype, &output.device),
            (None, None) => Err(Error::BadRule {
                operation: self.operation.into(),
                found: format!("nothing: it reads the gradient of output {i}"),
                expected: format!("that of one of its {} outputs", self.outputs.len()),
            }),
        }
    }
}
