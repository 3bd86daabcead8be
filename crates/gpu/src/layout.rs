//! The memory layout of a parameter struct, so that CUDA can be made to check it against Rust's.

use std::fmt::Write;

/// Size and field offsets of a `#[repr(C)]` parameter struct; made by [`params!`](crate::params).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Name of the struct, the same in Rust and in CUDA.
    pub name: &'static str,
    /// Size of the struct in bytes.
    pub size: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// One field of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name of the field, the same in Rust and in CUDA. One that starts with `_` is padding and exists in Rust only.
    pub name: &'static str,
    /// Offset from the start of the struct in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

impl Layout {
    /// The CUDA source that fails to compile where the CUDA struct of this name differs.
    ///
    /// `__INTADDR__` is what `offsetof` is made of in NVRTC's front end, which has no `__builtin_offsetof`.
    pub(crate) fn assertions(&self) -> String {
        let Layout { name, size, .. } = self;
        let mut code = String::new();
        let _ =
            writeln!(code, "static_assert(sizeof({name}) == {size}, \"{name} is {size} bytes in Rust\");");
        for Field { name: field, offset, size } in self.fields {
            if field.starts_with('_') {
                continue;
            }
            let _ = writeln!(
                code,
                "static_assert(__INTADDR__(&(({name}*)0)->{field}) == {offset} && sizeof({name}::{field}) == {size}, \
                 \"{name}.{field} is {size} bytes at offset {offset} in Rust\");"
            );
        }
        code
    }
}

/// Defines the Rust twin of a kernel's parameter struct: `#[repr(C)]`, plain old data, with a `LAYOUT`.
///
/// The struct and its fields carry the names they have in CUDA. Give the layout to
/// [`Program::params`](crate::Program::params), and a program whose CUDA struct differs in size, in an offset or
/// in the size of a field does not compile. Padding must be written out, as fields whose name starts with `_`
/// (they are not looked for in CUDA). The crate that uses the macro depends on `bytemuck` with feature `derive`.
///
/// ```
/// use longhand_gpu::{DevicePtr, params};
///
/// params! {
///     /// `struct Params { float* x; long long n; float factor; }`
///     struct Params {
///         x: DevicePtr,
///         n: i64,
///         factor: f32,
///         _pad: u32,
///     }
/// }
///
/// assert_eq!(Params::LAYOUT.size, 24);
/// assert_eq!(Params::LAYOUT.fields[2].offset, 16);
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, ::bytemuck::Pod, ::bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)+
        }

        impl $name {
            /// Size and offsets of this struct, for the compiler to check against CUDA's.
            $vis const LAYOUT: $crate::Layout = $crate::Layout {
                name: ::core::stringify!($name),
                size: ::core::mem::size_of::<$name>(),
                fields: &[$($crate::Field {
                    name: ::core::stringify!($field),
                    offset: ::core::mem::offset_of!($name, $field),
                    size: ::core::mem::size_of::<$type>(),
                }),+],
            };
        }
    };
}
