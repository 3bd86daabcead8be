//! What attention and training allocate, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use longhand_tensor::ops::AttentionOptions;
use longhand_tensor::{Device, Dtype, Tensor, no_grad, ops};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests run one at a time: they share the counters.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The most bytes that were live during `body` beyond those at its start.
fn peak(body: impl FnOnce()) -> usize {
    let start = LIVE.load(Ordering::Relaxed);
    PEAK.store(start, Ordering::Relaxed);
    body();
    PEAK.load(Ordering::Relaxed).saturating_sub(start)
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Dtype::F32, &Device::Cpu).unwrap()
}

#[test]
fn the_memory_of_attention_grows_with_its_length_and_not_with_the_square() {
    let _guard = ONE_AT_A_TIME.lock();
    let run = |tokens: usize| {
        let q = zeros(&[1, tokens, 2, 16]).requires_grad();
        let options = AttentionOptions { causal: true, scale: None };
        peak(|| {
            let out = ops::attention(&q, &q, &q, &options).unwrap();
            out.sum_all().unwrap().backward().unwrap();
        })
    };
    run(256); // starts the threads
    let (short, long) = (run(1024), run(4096));
    assert!(long < 5 * short, "{short} bytes for 1024 tokens, {long} for 4096");
    // The scores of one head alone would be 64 MiB.
    assert!(long < 16 << 20, "{long} bytes");
}

/// Activations of the next two tests, in bytes: large beside the buffers that other tests have left to be used again.
const ACTIVATION: usize = 4 << 20;

#[test]
fn inference_keeps_nothing_and_a_frozen_weight_saves_no_input() {
    let _guard = ONE_AT_A_TIME.lock();
    let (x, frozen) = (zeros(&[ACTIVATION / 4 / 64, 64]), zeros(&[64, 64]));
    let run = |layers: usize, trained: bool, recording: bool| {
        let x = if trained { x.requires_grad() } else { x.clone() };
        let most = peak(|| {
            let forward = || (0..layers).fold(x.clone(), |x, _| ops::linear(&x, &frozen, None).unwrap());
            if recording {
                forward()
            } else {
                no_grad(forward)
            };
        });
        most as f64 / ACTIVATION as f64
    };
    run(2, true, true);
    // Only the newest two are alive, whether a gradient will pass or not.
    for (trained, recording) in [(true, false), (false, true), (true, true)] {
        let found = run(32, trained, recording);
        assert!(found < 4.0, "{found} activations with trained = {trained}, recording = {recording}");
    }
}

#[test]
fn backward_frees_what_it_has_passed() {
    let _guard = ONE_AT_A_TIME.lock();
    let x = zeros(&[ACTIVATION / 4]);
    let run = |layers: usize| {
        let x = x.requires_grad();
        let mut forward = 0;
        let whole = peak(|| {
            let start = LIVE.load(Ordering::Relaxed);
            let y = (0..layers).fold(x.clone(), |x, _| x.gelu(ops::Gelu::Tanh).unwrap()).sum_all().unwrap();
            forward = LIVE.load(Ordering::Relaxed).saturating_sub(start);
            y.backward().unwrap();
        });
        (forward as f64 / ACTIVATION as f64, whole as f64 / ACTIVATION as f64)
    };
    run(2);
    let (forward, whole) = run(32);
    // Forward keeps one activation per layer (some in buffers that were left); backward adds a few gradients.
    assert!(forward > 16.0 && whole < forward + 4.0, "{forward} activations after forward, {whole} at most");
}
