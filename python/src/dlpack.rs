//! Memory in the form of DLPack, both that of today and that before it had versions.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::buffer::Memory;

/// The device kind of host memory.
pub(crate) const CPU: i32 = 1;

const BEFORE: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    version: [u32; 2],
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// What a capsule keeps alive: freed by its consumer, from any thread.
struct Kept {
    _memory: Arc<Memory>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// The type of DLPack that a type of safetensors is.
pub(crate) fn dtype(name: &str) -> Option<DataType> {
    let (code, bits) = match name {
        "I8" => (0, 8),
        "I16" => (0, 16),
        "I32" => (0, 32),
        "I64" => (0, 64),
        "U8" | "BYTES" => (1, 8),
        "U16" => (1, 16),
        "U32" => (1, 32),
        "U64" => (1, 64),
        "F16" => (2, 16),
        "F32" => (2, 32),
        "F64" => (2, 64),
        "BF16" => (4, 16),
        "C64" => (5, 64),
        "BOOL" => (6, 8),
        "F8_E4M3" => (10, 8),
        "F8_E4M3FNUZ" => (11, 8),
        "F8_E5M2" => (12, 8),
        "F8_E5M2FNUZ" => (13, 8),
        "F8_E8M0" => (14, 8),
        _ => return None,
    };
    Some(DataType { code, bits, lanes: 1 })
}

/// A capsule with the memory, which its consumer frees.
pub(crate) fn capsule<'py>(
    py: Python<'py>,
    memory: Arc<Memory>,
    dims: &[u64],
    dtype: DataType,
    versioned: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let shape: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
    let mut strides = vec![1; shape.len()];
    let mut stride = 1;
    for (own, dim) in strides.iter_mut().zip(&shape).rev() {
        *own = stride;
        stride *= (*dim).max(1);
    }
    let data = memory.address().cast();
    let mut kept = Box::new(Kept { _memory: memory, shape, strides });
    let tensor = DlTensor {
        data,
        device: [CPU, 0],
        ndim: kept.shape.len() as i32,
        dtype,
        shape: kept.shape.as_mut_ptr(),
        strides: kept.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let context = Box::into_raw(kept).cast();
    let (pointer, name, destructor): (*mut c_void, _, ffi::PyCapsule_Destructor) = if versioned {
        let deleter = Some(free_versioned as unsafe extern "C" fn(*mut ManagedVersioned));
        let managed = ManagedVersioned { version: [1, 0], context, deleter, flags: 0, tensor };
        (Box::into_raw(Box::new(managed)).cast(), VERSIONED, drop_versioned)
    } else {
        let deleter = Some(free as unsafe extern "C" fn(*mut Managed));
        let managed = Managed { tensor, context, deleter };
        (Box::into_raw(Box::new(managed)).cast(), BEFORE, drop_unused)
    };
    // SAFETY: the name is static, the pointer is not null, and the destructor frees what it points to.
    unsafe {
        let capsule = ffi::PyCapsule_New(pointer, name.as_ptr(), Some(destructor));
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

unsafe extern "C" fn free(managed: *mut Managed) {
    // SAFETY: both were boxed by `capsule`, and a consumer frees once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Kept>()));
    }
}

unsafe extern "C" fn free_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: both were boxed by `capsule`, and a consumer frees once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Kept>()));
    }
}

/// A capsule that nobody consumed: a consumer renames it.
unsafe extern "C" fn drop_unused(capsule: *mut ffi::PyObject) {
    // SAFETY: the capsule is alive during its destructor; under its first name its pointer is ours.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, BEFORE.as_ptr()) == 1 {
            free(ffi::PyCapsule_GetPointer(capsule, BEFORE.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            free_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}
