//! Where elements live.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::cpu::pool;
use crate::{Dtype, Element, memory};

/// Elements in the memory of the CPU. An implementation detail of [`Element`].
#[doc(hidden)]
#[derive(Debug)]
pub enum Host {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bf16(Vec<half::bf16>),
    F16(Vec<half::f16>),
    U32(Vec<u32>),
}

/// The elements of one or many tensors (views share them).
pub(crate) struct Storage {
    pub(crate) data: Data,
    version: AtomicU64,
}

pub(crate) enum Data {
    Cpu(RwLock<Host>),
    Gpu(longhand_gpu::Buffer),
}

impl Storage {
    pub(crate) fn cpu(host: Host) -> Self {
        pool::adopt(&host);
        memory::add(host.bytes());
        Storage { data: Data::Cpu(RwLock::new(host)), version: AtomicU64::new(0) }
    }

    pub(crate) fn gpu(buffer: longhand_gpu::Buffer) -> Self {
        memory::add(buffer.len());
        Storage { data: Data::Gpu(buffer), version: AtomicU64::new(0) }
    }

    /// How often the elements were changed in place.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says that the elements were changed in place.
    pub(crate) fn bump_version(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}

/// Read access to a tensor's elements in CPU memory, from its first element on.
pub(crate) struct Read<'a, E> {
    guard: RwLockReadGuard<'a, Host>,
    offset: usize,
    element: PhantomData<E>,
}

impl<'a, E: Element> Read<'a, E> {
    /// `None` when the elements are of another type.
    pub(crate) fn new(lock: &'a RwLock<Host>, offset: usize) -> Option<Self> {
        let guard = lock.read().unwrap_or_else(PoisonError::into_inner);
        E::slice(&guard)?;
        Some(Read { guard, offset, element: PhantomData })
    }
}

impl<E: Element> Deref for Read<'_, E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        E::slice(&self.guard).map_or(&[], |all| &all[self.offset..])
    }
}

/// Write access to a tensor's elements in CPU memory, from its first element on.
pub(crate) struct Write<'a, E> {
    guard: RwLockWriteGuard<'a, Host>,
    offset: usize,
    element: PhantomData<E>,
}

impl<'a, E: Element> Write<'a, E> {
    /// `None` when the elements are of another type.
    pub(crate) fn new(lock: &'a RwLock<Host>, offset: usize) -> Option<Self> {
        let guard = lock.write().unwrap_or_else(PoisonError::into_inner);
        E::slice(&guard)?;
        Some(Write { guard, offset, element: PhantomData })
    }
}

impl<E: Element> Deref for Write<'_, E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        E::slice(&self.guard).map_or(&[], |all| &all[self.offset..])
    }
}

impl<E: Element> DerefMut for Write<'_, E> {
    fn deref_mut(&mut self) -> &mut [E] {
        E::slice_mut(&mut self.guard).map_or(&mut [], |all| &mut all[self.offset..])
    }
}

impl Host {
    /// `count` zeros.
    pub(crate) fn zeros(dtype: Dtype, count: usize) -> Host {
        crate::dtype::with_element!(dtype, E => E::into_host(pool::zeros::<E>(count)))
    }

    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Host::F64(_) => Dtype::F64,
            Host::F32(_) => Dtype::F32,
            Host::Bf16(_) => Dtype::Bf16,
            Host::F16(_) => Dtype::F16,
            Host::U32(_) => Dtype::U32,
        }
    }

    /// What the allocation takes.
    pub(crate) fn bytes(&self) -> usize {
        let elements = match self {
            Host::F64(values) => values.capacity(),
            Host::F32(values) => values.capacity(),
            Host::Bf16(values) => values.capacity(),
            Host::F16(values) => values.capacity(),
            Host::U32(values) => values.capacity(),
        };
        elements * self.dtype().size()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match &mut self.data {
            Data::Cpu(lock) => {
                let host = lock.get_mut().unwrap_or_else(PoisonError::into_inner);
                memory::remove(host.bytes());
                pool::give_back(std::mem::replace(host, Host::U32(Vec::new())));
            }
            Data::Gpu(buffer) => memory::remove(buffer.len()),
        }
    }
}
