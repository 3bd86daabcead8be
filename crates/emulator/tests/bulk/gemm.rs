//! A kernel as compilers emit it: tiles that tensor copies bring are multiplied by a warpgroup, and stored again.

use longhand_emulator::tensor::tma::{Mode, TensorElement, TensorMap};
use longhand_emulator::tensor::wgmma::Swizzle;
use longhand_emulator::{Checks, Fault, Module, Problem, Report, Shape};

use super::gpu;

const TEXT: &str = include_str!("../ptx/tma_gemm.ptx");

/// Of c. None is a multiple of the tiles', 64, 32 and 64.
const SHAPE: [usize; 3] = [100, 40, 328];

fn map(
    element: TensorElement,
    bytes: usize,
    address: u64,
    [rows, columns]: [usize; 2],
    tile: [u16; 2],
) -> TensorMap {
    TensorMap {
        element,
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![(columns * bytes) as u64],
        mode: Mode::Tiled { box_dims: vec![tile[1], tile[0]] },
        element_strides: vec![1, 1],
        swizzle: if element == TensorElement::Bf16 { Swizzle::B128 } else { Swizzle::None },
        fill_nan: false,
    }
}

/// Small integers, whose products and sums are exact.
fn value(row: usize, k: usize, seed: usize) -> f32 {
    ((row * 7 + k * 5 + row * k + seed) % 9) as f32 - 4.0
}

/// What c holds, each of its elements.
fn launch(text: &str) -> Result<(Vec<f32>, Report), Fault> {
    let gpu = gpu(Checks::ALL);
    let module = Module::from_ptx(&gpu, text).unwrap_or_else(|error| panic!("{error}"));
    let [m, n, k] = SHAPE;
    let put = |rows: usize, seed| {
        let values = (0..rows * k).map(|i| half::bf16::from_f32(value(i / k, i % k, seed)));
        let data: Vec<u8> = values.flat_map(half::bf16::to_le_bytes).collect();
        let address = gpu.alloc(data.len() as u64).unwrap();
        gpu.upload(address, &data).unwrap();
        address
    };
    let (a, b) = (put(m, 1), put(n, 2));
    let c = gpu.alloc(4 * (m * n) as u64).unwrap();
    let maps = [
        map(TensorElement::Bf16, 2, a, [m, k], [64, 64]),
        map(TensorElement::Bf16, 2, b, [n, k], [32, 64]),
        map(TensorElement::F32, 4, c, [m, n], [64, 32]),
    ];
    let mut params: Vec<u8> = maps.iter().flat_map(|map| map.encode().unwrap()).collect();
    params.extend((k as u32).to_le_bytes());
    let grid = [n.div_ceil(32) as u32, m.div_ceil(64) as u32, 1];
    let shape = Shape { grid, block: [160, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let report = module.launch("tma_gemm", &shape, &params)?;
    let mut data = vec![0; 4 * m * n];
    gpu.download(c, &mut data).unwrap();
    Ok((data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect(), report))
}

#[test]
fn a_product_of_tiles_that_tensor_copies_bring_is_exact() {
    let (c, report) = launch(TEXT).unwrap_or_else(|fault| panic!("{fault}"));
    let [m, n, k] = SHAPE;
    for (i, c) in c.iter().enumerate() {
        let expected: f32 = (0..k).map(|l| value(i / n, l, 1) * value(i % n, l, 2)).sum();
        assert_eq!(*c, expected, "row {}, column {}", i / n, i % n);
    }
    // Nothing is read or written but what is there.
    assert_eq!(report.global_unique_bytes_read, 2 * (k * (m + n)) as u64);
    assert_eq!(report.global_unique_bytes_written, 4 * (m * n) as u64);
    // 4 tiles, 6 steps of a stage each, and the tile that is stored, as far as it is there.
    assert_eq!(report.total.bulk_bytes, (4 * 6 * 2 * 64 * (64 + 32) + 4 * m * n) as u64);
}

#[test]
fn whatever_is_left_out_of_it_is_found() {
    for (left_out, expected) in [
        ("fence.proxy.async.shared::cta;", "without fence.proxy.async since"),
        ("cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group.read is missing"),
        // The waits for an mbarrier.
        ("done", "1 arrivals, where 0 are pending"),
        ("wgmma.wait_group.sync.aligned 0;", "may still read"),
    ] {
        let rest: String = TEXT.split_inclusive('\n').filter(|line| !line.contains(left_out)).collect();
        assert_ne!(rest, TEXT);
        let fault = launch(&rest).err().unwrap_or_else(|| panic!("no fault without {left_out}"));
        let Problem::Asynchronous(what) = &fault.problem else { panic!("{left_out}: {fault}") };
        assert!(what.contains(expected), "{left_out}: {fault}");
        assert_eq!(fault.place.and_then(|it| it.source).map(|it| it.0).as_deref(), Some("tma_gemm.cu"));
    }
}
