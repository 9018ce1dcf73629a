//! Memory with a tensor's verified bytes, which Python sees without a copy: by the buffer protocol and by
//! DLPack. It lives as long as anything looks at it.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::dlpack;

/// Bytes that stay where they are, and that nothing in Rust reads or writes any more: whoever holds the memory
/// answers for that among themselves, as with every tensor.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    /// What lets the bytes go.
    _keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    Loaded(#[expect(dead_code, reason = "it is held to be dropped")] Bytes),
    Made(#[expect(dead_code, reason = "it is held to be dropped")] Vec<u8>),
}

// SAFETY: an address and a length; what is done with them is Python's affair, as the type says.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Takes what a load delivered, without a copy unless somebody else still holds it.
    pub(crate) fn loaded(bytes: Bytes) -> Self {
        if bytes.is_empty() || !bytes.is_unique() {
            return Self::made(bytes.to_vec());
        }
        // The memory was lent for this delivery alone, and writable while it arrived.
        let start = NonNull::from(&*bytes).cast();
        Self { start, len: bytes.len(), _keeper: Keeper::Loaded(bytes) }
    }

    pub(crate) fn made(mut bytes: Vec<u8>) -> Self {
        let start = NonNull::from(bytes.as_mut_slice()).cast();
        Self { start, len: bytes.len(), _keeper: Keeper::Made(bytes) }
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// A tensor's bytes, row-major.
///
/// Attributes:
///     dtype (str): the element type as safetensors spells it, `BF16`
///     shape (tuple[int, ...]): its dimensions
///     nbytes (int): its bytes
///
/// `memoryview(buffer)` sees them as unsigned bytes, writable; `torch.from_dlpack(buffer)`,
/// `numpy.from_dlpack(buffer)` and `jax.dlpack.from_dlpack(buffer)` see the tensor. None of them copies.
#[pyclass(frozen, module = "tenpak._tenpak")]
pub(crate) struct Buffer {
    memory: Arc<Memory>,
    shape: Vec<u64>,
    dtype: &'static str,
}

impl Buffer {
    pub(crate) fn new(memory: Memory, shape: Vec<u64>, dtype: &'static str) -> Self {
        Self { memory: Arc::new(memory), shape, dtype }
    }
}

#[pymethods]
impl Buffer {
    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        pyo3::types::PyTuple::new(py, &self.shape)
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.memory.len
    }

    fn __len__(&self) -> usize {
        self.memory.len
    }

    fn __repr__(&self) -> String {
        let dims: Vec<_> = self.shape.iter().map(u64::to_string).collect();
        format!("Buffer({}, [{}])", self.dtype, dims.join(", "))
    }

    /// The memory as a capsule of DLPack; `stream` and `dl_device` may name the CPU only.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        if dl_device.is_some_and(|(kind, _)| kind != dlpack::CPU) {
            return Err(PyBufferError::new_err("the bytes lie in host memory"));
        }
        let memory = match copy {
            Some(true) => {
                // SAFETY: the memory is alive, and initialized: it was verified.
                let bytes = unsafe {
                    std::slice::from_raw_parts(self.memory.address().cast_const(), self.memory.len)
                };
                Arc::new(Memory::made(bytes.to_vec()))
            }
            _ => self.memory.clone(),
        };
        let Some(dtype) = dlpack::dtype(self.dtype) else {
            let text = format!("DLPack has no type for {}", self.dtype);
            return Err(PyTypeError::new_err(text));
        };
        let versioned = max_version.is_some_and(|(major, _)| major >= 1);
        dlpack::capsule(py, memory, &self.shape, dtype, versioned)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    /// The bytes as a memoryview's source.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view"));
        }
        let memory = slf.get().memory.clone();
        let len = isize::try_from(memory.len).map_err(|_| PyBufferError::new_err("too long"))?;
        let start = memory.address().cast::<c_void>();
        // SAFETY: `view` is the caller's to fill; the object that it comes to own keeps the memory.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags) };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}
