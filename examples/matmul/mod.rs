//! What the examples that multiply on a device share: a matrix product in WGSL, of bf16 weights as they
//! lie in device memory and f32 vectors; the same on the host; numbers from a seed.

use half::bf16;
use tenpak::load::sink::wgpu::Gpu;

pub type Failure = Box<dyn std::error::Error>;

/// A product per thread: row `r` of the weights with the vector.
const SHADER: &str = "
@group(0) @binding(0) var<storage, read> weights: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
override COLS: u32;
override ROWS: u32;

@compute @workgroup_size(64)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= ROWS {
        return;
    }
    var sum = 0.0;
    for (var pair = 0u; pair < COLS / 2u; pair++) {
        let two = weights[id.x * (COLS / 2u) + pair];
        sum += bitcast<f32>(two << 16u) * x[2u * pair];
        sum += bitcast<f32>(two & 0xffff0000u) * x[2u * pair + 1u];
    }
    y[id.x] = sum;
}";

/// `weights * x` on the device, of `rows` rows of bf16; the columns are as many as `x` has, and even.
pub fn on_the_device(
    gpu: &Gpu,
    weights: &wgpu::Buffer,
    rows: u32,
    x: &[f32],
) -> Result<Vec<f32>, Failure> {
    let (device, queue) = (gpu.device(), gpu.queue());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("product"),
        source: wgpu::ShaderSource::Wgsl(SHADER.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("product"),
        layout: None,
        module: &module,
        entry_point: Some("product"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("ROWS", f64::from(rows)), ("COLS", x.len() as f64)],
            zero_initialize_workgroup_memory: true,
        },
        cache: None,
    });
    let bytes: Vec<u8> = x.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (x, y) = (gpu.upload(&bytes)?, gpu.alloc(4 * u64::from(rows))?);
    let entries: Vec<_> = (0..)
        .zip([weights, &x, &y])
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(rows.div_ceil(64), 1, 1);
    drop(pass);
    queue.submit([encoder.finish()]);
    let bytes = gpu.read(&y, 4 * u64::from(rows))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

/// The same on the host, in f64.
pub fn on_the_host(weights: &[u8], x: &[f32]) -> Vec<f64> {
    let value = |half: &[u8; 2]| f64::from(bf16::from_le_bytes(*half).to_f32());
    let rows = weights.as_chunks::<2>().0.chunks(x.len());
    rows.map(|row| row.iter().zip(x).map(|(w, x)| value(w) * f64::from(*x)).sum()).collect()
}

/// The largest difference, as a part of the largest value.
pub fn error(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let pairs = found.iter().zip(expected);
    let worst = pairs.fold(0.0_f64, |most, (a, b)| most.max((f64::from(*a) - b).abs()));
    if found.len() == expected.len() { worst / largest } else { f64::INFINITY }
}

/// `count` numbers from -1 to 1.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
