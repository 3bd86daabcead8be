//! cuBLASLt's descriptors, each destroyed when dropped. They live in host memory and know no device.

use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::sys;

use super::column_major::{Call, Stored};
use super::library::Api;
use crate::{DevicePtr, Result};

/// A descriptor and the function that destroys it.
struct Owned<T> {
    raw: *mut T,
    destroy: unsafe extern "C" fn(*mut T) -> u32,
}

// SAFETY: a descriptor is plain host memory, which only its owner changes.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: as above: through a shared reference it is only read, unless a lock is held (`Operation::set_bias`).
unsafe impl<T> Sync for Owned<T> {}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the descriptor was created, and nobody uses it after this. An error leaves nothing to do.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// The bytes of an attribute.
fn bytes<V: Copy>(value: &V) -> (*const c_void, usize) {
    (ptr::from_ref(value).cast(), size_of::<V>())
}

/// How one matrix lies in memory.
pub(super) struct Layout(Owned<sys::cublasLtMatrixLayoutOpaque_t>);

impl Layout {
    pub fn new(api: &Api, dtype: sys::cudaDataType, stored: &Stored, batch: usize) -> Result<Layout> {
        use sys::cublasLtMatrixLayoutAttribute_t as A;
        let mut raw = ptr::null_mut();
        let Stored { rows, columns, leading, batch_stride } = *stored;
        // SAFETY: cuBLASLt writes the descriptor.
        let status = unsafe { (api.f.cublasLtMatrixLayoutCreate)(&mut raw, dtype, rows, columns, leading) };
        api.check(status, || format!("cublasLtMatrixLayoutCreate of {stored:?}"))?;
        let layout = Layout(Owned { raw, destroy: api.f.cublasLtMatrixLayoutDestroy });
        let batch = i32::try_from(batch).unwrap_or(i32::MAX);
        layout.set(api, A::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch)?;
        layout.set(api, A::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &batch_stride)?;
        Ok(layout)
    }

    fn set<V: Copy>(&self, api: &Api, which: sys::cublasLtMatrixLayoutAttribute_t, value: &V) -> Result<()> {
        let (value, size) = bytes(value);
        // SAFETY: the descriptor is alive; the value has the size that is said.
        let status = unsafe { (api.f.cublasLtMatrixLayoutSetAttribute)(self.0.raw, which, value, size) };
        api.check(status, || format!("set {which:?}"))
    }

    pub fn raw(&self) -> sys::cublasLtMatrixLayout_t {
        self.0.raw
    }
}

/// What is computed: f32 sums, which operands are transposed, what is done to the result.
pub(super) struct Operation(Owned<sys::cublasLtMatmulDescOpaque_t>);

impl Operation {
    /// `bias` is the type of the bias, if one is added.
    pub fn new(api: &Api, call: &Call, bias: Option<sys::cudaDataType>) -> Result<Operation> {
        use sys::cublasLtMatmulDescAttributes_t as A;
        let mut raw = ptr::null_mut();
        // SAFETY: cuBLASLt writes the descriptor.
        let status = unsafe {
            (api.f.cublasLtMatmulDescCreate)(
                &mut raw,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )
        };
        api.check(status, || "cublasLtMatmulDescCreate".to_owned())?;
        let operation = Operation(Owned { raw, destroy: api.f.cublasLtMatmulDescDestroy });
        operation.set(api, A::CUBLASLT_MATMUL_DESC_TRANSA, &transposition(call.transpose_first))?;
        operation.set(api, A::CUBLASLT_MATMUL_DESC_TRANSB, &transposition(call.transpose_second))?;
        if let Some(dtype) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            operation.set(api, A::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            operation.set(api, A::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(dtype as i32))?;
        }
        Ok(operation)
    }

    fn set<V: Copy>(&self, api: &Api, which: sys::cublasLtMatmulDescAttributes_t, value: &V) -> Result<()> {
        let (value, size) = bytes(value);
        // SAFETY: the descriptor is alive; the value has the size that is said.
        let status = unsafe { (api.f.cublasLtMatmulDescSetAttribute)(self.0.raw, which, value, size) };
        api.check(status, || format!("set {which:?}"))
    }

    /// Changes the address of the bias: whoever shares the operation holds its lock.
    pub fn set_bias(&self, api: &Api, bias: DevicePtr) -> Result<()> {
        self.set(api, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)
    }

    pub fn raw(&self) -> sys::cublasLtMatmulDesc_t {
        self.0.raw
    }
}

/// `cublasOperation_t` (cublas_api.h): `CUBLAS_OP_N` or `CUBLAS_OP_T`.
fn transposition(transposed: bool) -> i32 {
    i32::from(transposed)
}

/// What an algorithm may ask for.
pub(super) struct Preference(Owned<sys::cublasLtMatmulPreferenceOpaque_t>);

impl Preference {
    pub fn new(api: &Api, workspace: usize, alignment: u32) -> Result<Preference> {
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let mut raw = ptr::null_mut();
        // SAFETY: cuBLASLt writes the descriptor.
        let status = unsafe { (api.f.cublasLtMatmulPreferenceCreate)(&mut raw) };
        api.check(status, || "cublasLtMatmulPreferenceCreate".to_owned())?;
        let preference = Preference(Owned { raw, destroy: api.f.cublasLtMatmulPreferenceDestroy });
        preference.set(api, A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace as u64))?;
        for which in [
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(api, which, &alignment)?;
        }
        Ok(preference)
    }

    fn set<V: Copy>(
        &self,
        api: &Api,
        which: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &V,
    ) -> Result<()> {
        let (value, size) = bytes(value);
        // SAFETY: the descriptor is alive; the value has the size that is said.
        let status = unsafe { (api.f.cublasLtMatmulPreferenceSetAttribute)(self.0.raw, which, value, size) };
        api.check(status, || format!("set {which:?}"))
    }

    pub fn raw(&self) -> sys::cublasLtMatmulPreference_t {
        self.0.raw
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dtype, Matmul, Matrix, Order};
    use super::*;

    /// Descriptors need the library and no GPU: what each attribute's type is can be asked of the library itself.
    #[test]
    fn cublaslt_takes_every_attribute_with_the_size_it_is_set_with() {
        let api = match Api::open(None) {
            Ok(api) => api,
            Err(reason) => return println!("skipped: {reason}"),
        };
        let matmul = Matmul {
            m: 3,
            n: 4,
            k: 5,
            batch: 2,
            inputs: Dtype::Bf16,
            output: Dtype::F32,
            a: Matrix::column_major(8).batched(48),
            b: Matrix { order: Order::RowMajor, leading: 4, batch_stride: 0 },
            d: Matrix::row_major(4).batched(12),
            bias: true,
            accumulate: false,
            alignment: 16,
        };
        let call = Call::of(&matmul);
        for stored in [&call.first, &call.second, &call.result] {
            Layout::new(&api, Dtype::Bf16.cuda(), stored, matmul.batch).unwrap();
        }
        let operation = Operation::new(&api, &call, Some(Dtype::F32.cuda())).unwrap();
        operation.set_bias(&api, DevicePtr(256)).unwrap();
        Preference::new(&api, 1 << 20, 16).unwrap();

        // And it does look: the same value one byte short is refused.
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        assert!(operation.set(&api, which, &[0u8; 3]).is_err());
    }
}
