//! The emulated device, and a CUDA device on machines that have one.

mod common;

use longhand_gpu::cublaslt::{Cublaslt, Dtype, Matmul, MatmulArgs, Matrix};
use longhand_gpu::{
    Constants, Device, DevicePtr, Error, Event, Kernel, Launch, Program, Stream, driver_info, emulator,
    params,
};

params! {
    struct Params {
        x: DevicePtr,
        n: i64,
        factor: f32,
        _pad: u32,
    }
}

const SCALE: &str = r#"
#include "constants.cuh"
struct Params { float* x; long long n; float factor; };

extern "C" __global__ void scale(const __grid_constant__ Params p) {
    extern __shared__ float block[];
    const long long i = blockIdx.x * (long long)THREADS + threadIdx.x;
    block[threadIdx.x] = i < p.n ? p.x[i] : 0;
    __syncthreads();
    if (i < p.n) p.x[i] = block[threadIdx.x] * p.factor;
}

extern "C" __global__ void two_parameters(float* x, int n) { x[n] = 0; }
"#;

const THREADS: u32 = 128;

/// The emulated device, and the first GPU where there is one.
fn devices() -> Vec<Device> {
    let emulated = Device::emulated("sm_90a".parse().unwrap()).unwrap();
    std::iter::once(emulated).chain(cuda()).collect()
}

/// The first GPU; None, saying so, without one.
fn cuda() -> Option<Device> {
    if let Err(reason) = driver_info() {
        println!("no CUDA device: {reason}");
        return None;
    }
    Some(Device::cuda(0).unwrap())
}

/// The same device, opened again.
fn again(device: &Device) -> Device {
    if device.is_emulated() { Device::emulated(device.arch()).unwrap() } else { Device::cuda(0).unwrap() }
}

fn program() -> Program {
    let constants = Constants::new().int("THREADS", THREADS);
    Program::new("scale.cu", SCALE).constants(constants).params(Params::LAYOUT)
}

fn scale(device: &Device) -> Kernel {
    device.compile_and_load(&program()).unwrap().kernel("scale").unwrap()
}

fn shape(n: usize) -> Launch {
    let blocks = u32::try_from(n).unwrap().div_ceil(THREADS);
    Launch { grid: [blocks, 1, 1], block: [THREADS, 1, 1], shared_bytes: 4 * THREADS }
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 3.0).collect()
}

/// Uploads, scales, downloads.
fn scaled(kernel: &Kernel, stream: &Stream, n: usize) -> Vec<f32> {
    let x = stream.alloc(4 * n).unwrap();
    x.upload(0, bytemuck::cast_slice(&numbers(n))).unwrap();
    let params = Params { x: x.ptr(), n: n as i64, factor: 2.0, _pad: 0 };
    // SAFETY: the kernel stays within `x`.
    unsafe { kernel.launch(stream, shape(n), &params) }.unwrap();
    let mut result = vec![0f32; n];
    x.download(0, bytemuck::cast_slice_mut(&mut result)).unwrap();
    result
}

#[test]
fn a_device_has_properties_that_can_be() {
    for device in devices() {
        assert!(!device.name().is_empty());
        assert!(device.arch().number() >= 50 && device.multiprocessors() > 0 && device.l2_bytes() > 0);
        assert!(device.shared_bytes_per_block() >= 48 << 10);
        let memory = device.memory().unwrap();
        assert!(memory.free > 0 && memory.free <= memory.total);
        if !device.is_emulated() {
            assert_eq!(driver_info().unwrap().devices[0].name, device.name());
        }
    }
}

#[test]
fn bytes_survive_upload_copy_fill_and_download() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let (from, to) = (stream.alloc(1000).unwrap(), stream.alloc(1000).unwrap());
        let bytes: Vec<u8> = (0..1000).map(|i| (i % 251) as u8).collect();
        from.upload(0, &bytes).unwrap();
        to.fill(9).unwrap();
        // SAFETY: both ranges lie within the buffers.
        unsafe { stream.copy(to.ptr().offset(100), from.ptr(), 500) }.unwrap();
        let mut result = vec![0; 1000];
        to.download(0, &mut result).unwrap();
        assert_eq!(result[..100], [9; 100]);
        assert_eq!(result[100..600], bytes[..500]);
        assert_eq!(result[600..], [9; 400]);
        assert_eq!(from.ptr().0 % 256, 0);
    }
}

#[test]
fn nothing_outside_a_buffer_can_be_copied_and_an_empty_one_is_fine() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let buffer = stream.alloc(10).unwrap();
        for (offset, bytes) in [(0, 11), (10, 1), (usize::MAX, 1)] {
            assert!(matches!(buffer.upload(offset, &vec![0; bytes]), Err(Error::Argument { .. })));
            assert!(matches!(buffer.download(offset, &mut vec![0; bytes]), Err(Error::Argument { .. })));
        }
        let empty = stream.alloc(0).unwrap();
        assert!(empty.is_empty() && empty.ptr().is_null());
        empty.upload(0, &[]).unwrap();
        empty.fill(1).unwrap();
        empty.download(0, &mut []).unwrap();
    }
}

#[test]
fn a_kernel_computes_on_our_streams_and_on_a_foreign_one() {
    if common::compiler().is_none() {
        return;
    }
    for device in devices() {
        let kernel = scale(&device);
        assert_eq!(kernel.resources().unwrap().entry, "scale");
        // SAFETY: CUDA's default stream is always there.
        let foreign = unsafe { Stream::from_raw(&device, 0) };
        for stream in [device.new_stream().unwrap(), foreign] {
            for n in [1, 127, 128, 1000] {
                let expected: Vec<f32> = numbers(n).iter().map(|x| x * 2.0).collect();
                assert_eq!(scaled(&kernel, &stream, n), expected);
            }
        }
    }
}

#[test]
fn a_program_loaded_twice_is_loaded_once() {
    if common::compiler().is_none() {
        return;
    }
    for device in devices() {
        let [first, second] = [(); 2].map(|()| device.compile_and_load(&program()).unwrap());
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

#[test]
fn threads_may_share_a_kernel_and_each_have_a_stream() {
    if common::compiler().is_none() {
        return;
    }
    for device in devices() {
        let kernel = scale(&device);
        std::thread::scope(|scope| {
            for n in 1..5 {
                let (kernel, stream) = (kernel.clone(), device.new_stream().unwrap());
                let expected: Vec<f32> = numbers(300 * n).iter().map(|x| x * 2.0).collect();
                scope.spawn(move || assert_eq!(scaled(&kernel, &stream, 300 * n), expected));
            }
        });
    }
}

#[test]
fn a_launch_that_cannot_be_is_an_error_before_it_reaches_the_device() {
    if common::compiler().is_none() {
        return;
    }
    for device in devices() {
        let module = device.compile_and_load(&program()).unwrap();
        let kernel = module.kernel("scale").unwrap();
        let stream = device.new_stream().unwrap();
        let params = Params { x: DevicePtr::NULL, n: 0, factor: 0.0, _pad: 0 };
        let fine = Launch { grid: [1; 3], block: [THREADS, 1, 1], shared_bytes: 4 * THREADS };
        let launch = |kernel: &Kernel, shape| {
            // SAFETY: none of these launches happens.
            unsafe { kernel.launch(&stream, shape, &params) }.unwrap_err().to_string()
        };

        let error = launch(&kernel, Launch { grid: [1, 0, 1], ..fine });
        assert!(error.contains("scale: shape is ") && error.contains("without 0"), "{error}");
        let error = launch(&kernel, Launch { shared_bytes: 60_000, ..fine });
        assert!(error.contains("dynamic shared memory is 60000, it has to be at most 49152"), "{error}");
        let error = launch(&kernel, Launch { block: [2048, 1, 1], ..fine });
        assert!(error.contains("launch scale (grid 1x1x1, block 2048x1x1, 512 bytes shared)"), "{error}");
        // SAFETY: nor does this one.
        let error = unsafe { kernel.launch(&stream, fine, &0u64) }.unwrap_err().to_string();
        assert!(error.contains("parameter struct is 8 bytes, it has to be 24 bytes"), "{error}");

        let limit = device.shared_bytes_per_block();
        assert!(kernel.clone().with_dynamic_shared(limit).is_ok());
        let error = kernel.with_dynamic_shared(limit + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("at most {limit} bytes")), "{error}");

        let error = module.kernel("scales").unwrap_err().to_string();
        assert!(error.contains("no kernel \"scales\": it has scale, two_parameters"), "{error}");
        let error = module.kernel("two_parameters").unwrap_err().to_string();
        assert!(error.contains("parameter list is 2 parameters, it has to be one struct"), "{error}");
    }
}

#[test]
fn events_order_streams_and_time_them() {
    for device in devices() {
        let [first, second] = [(); 2].map(|()| device.new_stream().unwrap());
        let [start, end] = [(); 2].map(|()| Event::new(&device).unwrap());
        let buffer = first.alloc(1 << 20).unwrap();
        first.record(&start).unwrap();
        buffer.fill(7).unwrap();
        first.record(&end).unwrap();
        second.wait(&end).unwrap();
        let mut last = [0];
        // SAFETY: the byte lies in the buffer.
        unsafe { second.download(buffer.ptr().offset((1 << 20) - 1), &mut last) }.unwrap();
        assert_eq!(last, [7]);
        let milliseconds = end.elapsed_ms(&start).unwrap();
        assert!((0.0..1000.0).contains(&milliseconds), "{milliseconds}");

        let other = Event::new(&again(&device)).unwrap();
        for refused in [first.record(&other), first.wait(&other), end.elapsed_ms(&other).map(|_| ())] {
            assert!(matches!(refused, Err(Error::Argument { argument: "event", .. })), "{refused:?}");
        }
    }
}

#[test]
fn too_large_an_allocation_is_an_error_that_says_what_is_free() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let total = device.memory().unwrap().total;
        match stream.alloc(total * 2) {
            Err(Error::OutOfMemory { requested, free, .. }) => {
                assert_eq!(requested, total * 2);
                assert!(free > 0 && free <= total);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Small whole numbers, whose products and sums are exact in every type.
fn exact_product(dtype: Dtype, transposed: bool, bias: bool) {
    let Some(device) = cuda() else { return };
    let cublaslt = match Cublaslt::new(&device) {
        Ok(cublaslt) => cublaslt,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (m, n, k, batch) = (48, 32, 64, 3);
    let (a, b) = match transposed {
        true => (Matrix::column_major(m as i64), Matrix::column_major(k as i64)),
        false => (Matrix::row_major(k as i64), Matrix::row_major(n as i64)),
    };
    let plan = cublaslt
        .plan(&Matmul {
            m,
            n,
            k,
            batch,
            inputs: dtype,
            output: Dtype::F32,
            a: a.batched((m * k) as i64),
            b: b.batched(0),
            d: Matrix::row_major(n as i64).batched((m * n) as i64),
            bias,
            accumulate: false,
            alignment: 16,
        })
        .unwrap();
    let value = |seed: usize, i: usize| ((i * 7 + seed) % 5) as f32 - 2.0;
    let stream = device.new_stream().unwrap();
    let upload = |seed: usize, n: usize, dtype: Dtype| {
        let bytes: Vec<u8> = (0..n)
            .flat_map(|i| match (dtype, value(seed, i)) {
                (Dtype::F32, x) => x.to_le_bytes().to_vec(),
                (Dtype::Bf16, x) => x.to_le_bytes()[2..].to_vec(),
                // -2, -1, 0, 1, 2 in half precision.
                (Dtype::F16, x) => {
                    [0xc000u16, 0xbc00, 0, 0x3c00, 0x4000][(x + 2.0) as usize].to_le_bytes().to_vec()
                }
            })
            .collect();
        let buffer = stream.alloc(bytes.len()).unwrap();
        buffer.upload(0, &bytes).unwrap();
        buffer
    };
    let (a, b) = (upload(1, batch * m * k, dtype), upload(2, k * n, dtype));
    let added = upload(3, n, Dtype::F32);
    let d = stream.alloc(4 * batch * m * n).unwrap();
    let workspace = stream.alloc(plan.workspace_bytes()).unwrap();
    let bias_ptr = if bias { added.ptr() } else { DevicePtr::NULL };
    let args = MatmulArgs { a: a.ptr(), b: b.ptr(), bias: bias_ptr, d: d.ptr(), workspace: workspace.ptr() };
    // SAFETY: every buffer has as many elements as the plan says.
    unsafe { plan.launch(&stream, &args) }.unwrap();
    let mut result = vec![0f32; batch * m * n];
    d.download(0, bytemuck::cast_slice_mut(&mut result)).unwrap();
    for (index, &result) in result.iter().enumerate() {
        let (batch, i, j) = (index / (m * n), index / n % m, index % n);
        let product = |l: usize| {
            let (ia, ib) = if transposed { (i + l * m, l + j * k) } else { (i * k + l, l * n + j) };
            value(1, batch * m * k + ia) * value(2, ib)
        };
        let sum: f32 = (0..k).map(product).sum();
        assert_eq!(result, sum + if bias { value(3, j) } else { 0.0 }, "at ({batch}, {i}, {j})");
    }
}

#[test]
fn cublaslt_multiplies_row_major_matrices_exactly() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        exact_product(dtype, false, false);
        exact_product(dtype, true, true);
    }
}

const FAULTY: &str = r#"
struct Params { float* x; long long n; float factor; };

// Reads one element beyond x.
extern "C" __global__ void shift(const __grid_constant__ Params p) {
    p.x[threadIdx.x] = p.x[threadIdx.x + 1] * p.factor;
}
"#;

#[test]
fn an_emulated_device_tells_which_thread_read_out_of_bounds_at_which_line_and_goes_on() {
    if common::compiler().is_none() {
        return;
    }
    let device = Device::emulated("sm_90a".parse().unwrap()).unwrap();
    let program = Program::new("shift.cu", FAULTY).params(Params::LAYOUT);
    let shift = device.compile_and_load(&program).unwrap().kernel("shift").unwrap();
    let stream = device.new_stream().unwrap();
    let x = stream.alloc(4 * 20).unwrap();
    x.fill(0).unwrap();
    let params = Params { x: x.ptr(), n: 20, factor: 1.0, _pad: 0 };
    let launch = |threads: u32| {
        let shape = Launch { grid: [1; 3], block: [threads, 1, 1], shared_bytes: 0 };
        // SAFETY: on the emulator, what is out of bounds is an error.
        unsafe { shift.launch(&stream, shape, &params) }
    };
    let error = launch(20).unwrap_err();
    let text = error.to_string();
    let Error::Fault { fault, .. } = error else { panic!("{text}") };
    assert!(matches!(fault.problem, emulator::Problem::OutOfBounds { .. }), "{text}");
    assert_eq!(fault.place.unwrap().lane, 19);
    for part in ["launch shift (grid 1x1x1, block 20x1x1, 0 bytes shared)", "shift.cu:6"] {
        assert!(text.contains(part), "{text}");
    }
    stream.synchronize().unwrap();
    assert_eq!(scaled(&scale(&device), &stream, 5), [-6.0, -4.0, -2.0, 0.0, 2.0]);
}

#[test]
fn an_emulated_device_keeps_what_launches_did_when_it_is_asked_to() {
    if common::compiler().is_none() {
        return;
    }
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    let (kernel, stream) = (scale(&device), device.new_stream().unwrap());
    scaled(&kernel, &stream, 300);
    assert!(device.take_reports().is_empty());
    device.record_reports(true);
    scaled(&kernel, &stream, 300);
    scaled(&kernel, &stream, 1);
    let bytes: Vec<u64> = device.take_reports().iter().map(|report| report.total.global_bytes).collect();
    assert_eq!(bytes, [300 * 8, 8]);
    assert!(device.take_reports().is_empty());
    device.record_reports(false);
    scaled(&kernel, &stream, 1);
    assert!(device.take_reports().is_empty());
}

#[test]
fn an_emulated_device_has_no_cublaslt_and_says_so() {
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    let error = Cublaslt::new(&device).err().unwrap().to_string();
    assert_eq!(error, "emulated sm_80 has no cuBLASLt");
}

#[test]
fn the_peak_of_memory_is_the_most_that_was_allocated_at_once_since_it_was_reset() {
    const BYTES: usize = 32 << 20;
    for device in devices() {
        let device = again(&device);
        let stream = device.new_stream().unwrap();
        let kept = stream.alloc(BYTES).unwrap();
        drop([stream.alloc(BYTES).unwrap(), stream.alloc(BYTES).unwrap()]);
        drop(stream.alloc(BYTES).unwrap());
        stream.synchronize().unwrap();
        assert_eq!(device.peak_memory().unwrap(), 3 * BYTES, "{device:?}");
        device.reset_peak_memory().unwrap();
        assert_eq!(device.peak_memory().unwrap(), BYTES, "{device:?}");
        drop(kept);
    }
}
