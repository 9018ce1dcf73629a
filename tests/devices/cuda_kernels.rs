//! The CUDA kernels: compiled for every architecture, run on the host, and on a device if there is one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use tenpak::dequant::kernel::{Family, Launch, suffix};
use tenpak::dequant::split::{Limits, runs};
use tenpak::dequant::{Float, Layout, Part, Weight, convert, dequantize, sample};
use tenpak::load::sink::cuda::{Cuda, CudaParts, nvrtc};
use tenpak::load::sink::device::DeviceError;

use super::compare::assert_same;
use super::wgpu_kernels::floats;

/// Names NVRTC's library as `tests/setup.sh` installs it.
pub fn use_nvrtc() {
    static NAMED: Once = Once::new();
    NAMED.call_once(|| {
        if std::env::var_os("TENPAK_NVRTC").is_some() {
            return;
        }
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
        let library = packages.read_dir().into_iter().flatten().flatten().find_map(|python| {
            let library = python.path().join("site-packages/nvidia/cu13/lib/libnvrtc.so.13");
            library.exists().then_some(library)
        });
        let library = library.expect("tests/setup.sh installs nvidia-cuda-nvrtc");
        // SAFETY: once, before anything in this process reads the variable.
        unsafe { std::env::set_var("TENPAK_NVRTC", library) };
    });
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    use_nvrtc();
    for family in Family::ALL {
        for architecture in ["sm_80", "sm_90", "sm_100"] {
            let code = nvrtc::compile(family, architecture).unwrap();
            for entry in family.entries() {
                for out in Float::ALL {
                    let name = format!("{entry}_{}", suffix(out));
                    let there = code.windows(name.len()).any(|window| window == name.as_bytes());
                    assert!(there, "{family:?} for {architecture} lacks {name}");
                }
            }
        }
    }
}

#[test]
fn a_kernel_that_does_not_compile_says_why() {
    use_nvrtc();
    match nvrtc::compile(Family::Int8, "sm_1") {
        Err(DeviceError::Compile { log, .. }) => assert!(log.contains("architecture"), "{log}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn on_a_device_every_kernel_equals_the_reference_and_without_one_it_says_so() {
    use_nvrtc();
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => {
            assert!(!Path::new("/dev/nvidia0").exists(), "there is a device: {error}");
            assert!(matches!(error, DeviceError::NoDriver(_)), "{error}");
            return;
        }
    };
    for from in Float::ALL {
        let bytes = floats(from);
        let memory = cuda.upload(&bytes).unwrap();
        for to in Float::ALL.into_iter().filter(|to| *to != from) {
            let expected = convert(&bytes, from, to);
            let result = cuda.convert(&memory, bytes.len() as u64 / from.size(), from, to).unwrap();
            assert!(cuda.read(&result, expected.len() as u64).unwrap() == expected);
        }
    }
    for (name, weight) in sample::cases(300, 520) {
        let parts = sample::parts(&weight, 7);
        let bound = CudaParts(parts.0.each_ref().map(|part| Some(cuda.upload(part).unwrap())));
        for out in Float::ALL {
            let expected = dequantize(&weight, &parts.borrow(), out).unwrap();
            let result = cuda.dequantize(&weight, &bound, out).unwrap();
            let got = cuda.read(&result, expected.len() as u64).unwrap();
            assert_same(&name, out, &got, &expected);
        }
    }
}

/// Memory that ends `SLACK` bytes before a page that nobody may touch.
pub struct Fenced {
    map: *mut libc::c_void,
    size: usize,
    start: usize,
}

const PAGE: usize = 4096;
const SLACK: usize = 16;

impl Fenced {
    fn new(bytes: &[u8]) -> Self {
        // Aligned as on a device, so that slack and rounding lie behind the bytes.
        Self::with_room(bytes, bytes.len().next_multiple_of(16) + SLACK)
    }

    /// Nothing behind the bytes, which are whole words.
    pub fn exact(bytes: &[u8]) -> Self {
        Self::with_room(bytes, bytes.len())
    }

    fn with_room(bytes: &[u8], used: usize) -> Self {
        let size = used.next_multiple_of(PAGE) + PAGE;
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory of our own; the last page of it is closed.
        let map = unsafe {
            let map = libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0);
            assert!(map != libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.byte_add(size - PAGE), PAGE, libc::PROT_NONE), 0);
            map
        };
        let start = size - PAGE - used;
        // SAFETY: `used` bytes from `start` on are open, and at least as long as `bytes`.
        unsafe {
            let at = map.byte_add(start).cast::<u8>();
            std::ptr::write_bytes(at, 0xa5, used);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
        }
        Self { map, size, start }
    }

    pub fn at(&self) -> *mut u8 {
        // SAFETY: within the map.
        unsafe { self.map.byte_add(self.start).cast() }
    }

    pub fn read(&self, len: usize) -> Vec<u8> {
        // SAFETY: `len` bytes were asked for when it was made.
        unsafe { std::slice::from_raw_parts(self.at(), len) }.to_vec()
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and not used again.
        unsafe { libc::munmap(self.map, self.size) };
    }
}

/// A family's kernels as a library for the host.
fn host_library(dir: &Path, family: Family) -> libloading::Library {
    built(dir, &format!("{family:?}"), &family.cuda(), "launch.h")
}

/// Kernels as a library for the host, with what launches them.
pub fn built(dir: &Path, name: &str, kernels: &str, launch: &str) -> libloading::Library {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices/cuda_host");
    let source: PathBuf = dir.join(format!("{name}.cpp"));
    let library = dir.join(format!("{name}.so"));
    let text = format!("#include \"shim.h\"\n{kernels}\n#include \"{launch}\"\n");
    std::fs::write(&source, text).unwrap();
    let built = Command::new("c++")
        .args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-w",
            "-shared",
            "-fPIC",
        ])
        .arg("-I")
        .arg(host)
        .arg("-o")
        .args([&library, &source])
        .status()
        .expect("tests/setup.sh installs a C++ compiler");
    assert!(built.success(), "{name}");
    // SAFETY: the library just built has no initialization but that of its own variables.
    unsafe { libloading::Library::new(library) }.unwrap()
}

type LaunchFn = unsafe extern "C" fn(*const (), u32, *const u8, *const *const u8, *mut u8);

/// Runs one launch on the host.
fn launch_on_host(
    library: &libloading::Library,
    launch: &Launch,
    at: [*const u8; 5],
    out: Float,
    result: *mut u8,
) {
    let name = format!("{}_{}", launch.program.entry, suffix(out));
    // SAFETY: the signatures are those of `launch.h` and of every kernel; memory is as large as
    // on a device, and a kernel that goes beyond it faults.
    unsafe {
        let start = library.get::<LaunchFn>(b"launch").unwrap();
        let kernel = library.get::<*const ()>(name.as_bytes()).unwrap();
        let params = launch.params.to_bytes();
        start(*kernel, launch.cuda_blocks() as u32, params.as_ptr(), at.as_ptr(), result);
    }
}

fn run_on_host(library: &libloading::Library, weight: &Weight, seed: u64, out: Float) -> Vec<u8> {
    let parts = sample::parts(weight, seed);
    let bound = parts.0.each_ref().map(|part| Fenced::new(part));
    let len = (weight.elements() * out.size()) as usize;
    let result = Fenced::new(&vec![0x5a; len.next_multiple_of(32) - SLACK]);
    for run in runs(weight, out, Limits { binding: 4 << 20, align: 256 }).unwrap() {
        let launch = Launch::new(&run);
        let at: [*const u8; 5] = std::array::from_fn(|i| {
            let start = if run.parts[i].is_empty() { 0 } else { run.parts[i].start as usize };
            bound[i].at().wrapping_add(start).cast_const()
        });
        let result = result.at().wrapping_add(run.out.start as usize);
        launch_on_host(library, &launch, at, out, result);
    }
    result.read(len)
}

#[test]
fn run_on_the_host_every_kernel_equals_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = sample::cases(70, 270);
    // Some in runs: 4 MiB are bound at most.
    cases.extend(sample::cases(4200, 256).into_iter().filter(|(name, _)| {
        ["nf4 nested", "int8", "gptq4 2", "awq", "packed4 2", "fp8 per block", "q8_0"]
            .iter()
            .any(|kind| name.starts_with(kind))
    }));
    for family in Family::ALL {
        let library = host_library(dir.path(), family);
        for (name, weight) in &cases {
            let first =
                &runs(weight, Float::F32, Limits { binding: 1 << 40, align: 256 }).unwrap()[0];
            if Launch::new(first).program.family != family {
                continue;
            }
            let parts = sample::parts(weight, 7);
            for out in Float::ALL {
                let expected = dequantize(weight, &parts.borrow(), out).unwrap();
                assert_same(name, out, &run_on_host(&library, weight, 7, out), &expected);
            }
        }
    }
}

#[test]
fn run_on_the_host_conversions_are_the_references_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let library = host_library(dir.path(), Family::Convert);
    for from in Float::ALL {
        let bytes = floats(from);
        let memory = Fenced::new(&bytes);
        let elements = bytes.len() as u64 / from.size();
        for to in Float::ALL.into_iter().filter(|to| *to != from) {
            let expected = convert(&bytes, from, to);
            let result = Fenced::new(&vec![0x5a; expected.len().next_multiple_of(32) - SLACK]);
            let at = [memory.at().cast_const(); 5];
            launch_on_host(&library, &Launch::convert(elements, from), at, to, result.at());
            assert!(result.read(expected.len()) == expected, "{from:?} to {to:?}");
        }
    }
}

/// Memory that is there when it is touched, of any size.
struct Sparse {
    map: *mut u8,
    size: usize,
}

impl Sparse {
    fn new(size: usize) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory of our own.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
        assert!(map != libc::MAP_FAILED);
        Self { map: map.cast(), size }
    }

    fn bytes(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.size);
        // SAFETY: within the map, and one test's own.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(at), len) }
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and not used again.
        unsafe { libc::munmap(self.map.cast(), self.size) };
    }
}

/// Of a weight of more than 4 GiB, its last run is the reference's: 256 blocks of threads of it, which is
/// all that touches memory.
#[test]
fn run_on_the_host_the_end_of_a_weight_beyond_4_gib_equals_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let library = host_library(dir.path(), Family::Bnb4);
    let layout = Layout::Bnb4 { block: 64, nested: None };
    // 2^33 + 2^20 elements: 4 GiB of codes, 32 GiB of f32.
    let (rows, cols) = ((1 << 13) + 1, 1 << 20);
    let weight = Weight::new(layout, rows, cols, Float::F32).unwrap();
    let small = Weight::new(layout, 1, 1 << 20, Float::F32).unwrap();
    let parts = sample::parts(&small, 3);
    let lens = [Part::Codes, Part::Scales].map(|part| weight.part_len(part) as usize);
    assert!(lens[0] > 4 << 30);
    let mut whole = lens.map(|len| Sparse::new(len + 64));
    for ((whole, len), part) in whole.iter_mut().zip(lens).zip(&parts.0) {
        whole.bytes(len - part.len(), part.len()).copy_from_slice(part);
    }
    for out in Float::ALL {
        let expected = dequantize(&small, &parts.borrow(), out).unwrap();
        let len = (weight.elements() * out.size()) as usize;
        let mut result = Sparse::new(len + 64);
        let runs = runs(&weight, out, Limits { binding: u64::MAX, align: 256 }).unwrap();
        let run = runs.last().unwrap();
        assert!(runs.len() > 1 && run.parts[0].start >= 4 << 30 && run.elements == 1 << 20);
        let mut at = [parts.0[4].as_ptr(); 5];
        for (at, (whole, range)) in at.iter_mut().zip(whole.iter_mut().zip(&run.parts)) {
            *at = whole.bytes(range.start as usize, 1).as_ptr();
        }
        let table = Fenced::new(&parts.0[4]);
        at[4] = table.at();
        let target = result.bytes(run.out.start as usize, 1).as_mut_ptr();
        launch_on_host(&library, &Launch::new(run), at, out, target);
        let got = result.bytes(len - expected.len(), expected.len());
        assert_same("beyond 4 GiB", out, got, &expected);
    }
}
