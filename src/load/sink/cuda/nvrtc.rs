//! NVRTC: compiles the CUDA kernels. The library is looked for when it is first needed.

use std::ffi::{CStr, CString};
use std::path::Path;

use cudarc::nvrtc::{result, sys};

use super::super::device::DeviceError;
use crate::dequant::kernel::Family;

/// Names the library, for a copy that is not where the system looks.
const VARIABLE: &str = "TENPAK_NVRTC";

/// Finds the library.
fn find() -> Result<(), DeviceError> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = Path::new(&path);
        // It opens its other half by name, wherever the system looks.
        let beside = path.parent().and_then(|folder| folder.read_dir().ok());
        for file in beside.into_iter().flatten().flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("libnvrtc-builtins.so") {
                open(&file.path())?;
            }
        }
        open(path)?;
    }
    // SAFETY: opens the library by its well-known names, or the one that was just opened.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(DeviceError::NoCompiler("there is no libnvrtc".to_owned()))
}

/// Opens a library for good: from now on its own name finds it.
fn open(path: &Path) -> Result<(), DeviceError> {
    // SAFETY: the user names the library, whose initialization is the CUDA toolkit's.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
        DeviceError::NoCompiler(format!("{} (from {VARIABLE}): {error}", path.display()))
    })?;
    std::mem::forget(library);
    Ok(())
}

/// A program of NVRTC's, destroyed when dropped.
struct Compiling(sys::nvrtcProgram);

impl Drop for Compiling {
    fn drop(&mut self) {
        // SAFETY: made by `create_program`, and destroyed once. A refusal leaks it.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Machine code of a family's kernels for an architecture (`sm_90`).
///
/// # Errors
/// If NVRTC is not installed, or does not know the architecture.
pub fn compile(family: Family, architecture: &str) -> Result<Vec<u8>, DeviceError> {
    let name = family.entries().first().copied().unwrap_or_default();
    compile_source(name, &family.cuda(), architecture)
}

/// Machine code of kernels, called `name` where they do not compile, for an architecture.
///
/// # Errors
/// If NVRTC is not installed, or they do not compile.
pub fn compile_source(
    name: &'static str,
    source: &str,
    architecture: &str,
) -> Result<Vec<u8>, DeviceError> {
    find()?;
    let failed = |log: String| DeviceError::Compile { kernel: name, log };
    let source = CString::new(source).map_err(|error| failed(error.to_string()))?;
    let program =
        result::create_program(&source, None).map_err(|error| failed(error.to_string()))?;
    let program = Compiling(program);
    // Products are rounded before they are added to, as the reference does.
    let options = [format!("--gpu-architecture={architecture}"), "--fmad=false".to_owned()];
    // SAFETY: the program is alive.
    if let Err(error) = unsafe { result::compile_program(program.0, &options) } {
        return Err(failed(log(&program).unwrap_or_else(|| error.to_string())));
    }
    let mut size = 0;
    // SAFETY: the program is alive; one number is written.
    let asked = unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) };
    asked.result().map_err(|error| failed(error.to_string()))?;
    let mut code = vec![0_u8; size];
    // SAFETY: the program is alive, and writes `size` bytes.
    let got = unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) };
    got.result().map_err(|error| failed(error.to_string()))?;
    Ok(code)
}

/// What the compiler says.
fn log(program: &Compiling) -> Option<String> {
    // SAFETY: the program is alive.
    let raw = unsafe { result::get_program_log(program.0) }.ok()?;
    let bytes: Vec<u8> = raw.iter().map(|c| c.cast_unsigned()).collect();
    Some(CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned())
}
