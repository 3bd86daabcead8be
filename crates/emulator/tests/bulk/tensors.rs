//! Copies of parts of tensors, against plain index arithmetic.

use longhand_emulator::tensor::tma::{Mode, TensorElement, TensorMap};
use longhand_emulator::tensor::wgmma::Swizzle;
use proptest::prelude::*;

use super::tensor_kernel::*;

const SWIZZLES: [(Swizzle, u32); 4] =
    [(Swizzle::None, 1), (Swizzle::B32, 2), (Swizzle::B64, 4), (Swizzle::B128, 8)];

const ELEMENTS: [(TensorElement, usize); 10] = [
    (TensorElement::U8, 1),
    (TensorElement::U16, 2),
    (TensorElement::U32, 4),
    (TensorElement::S32, 4),
    (TensorElement::U64, 8),
    (TensorElement::S64, 8),
    (TensorElement::F16, 2),
    (TensorElement::F32, 4),
    (TensorElement::F64, 8),
    (TensorElement::Bf16, 2),
];

/// A drawn tensor and box: the map, whose address is an offset, bytes of an element, and the units of its swizzle.
#[derive(Clone, Debug)]
struct Drawn {
    map: TensorMap,
    size: usize,
    units: u32,
    at: [i32; 5],
}

impl Drawn {
    fn box_dims(&self) -> &[u16] {
        match &self.map.mode {
            Mode::Tiled { box_dims } => box_dims,
            Mode::Im2col { .. } => &[],
        }
    }

    /// For each element of the box in the order they have in shared memory: where its bytes lie there, and its offset
    /// in the memory of the tensor, None outside.
    fn elements(&self) -> Vec<(usize, Option<usize>)> {
        let map = &self.map;
        let step = |axis: usize| if axis == 0 { 1 } else { usize::from(map.element_strides[axis]) };
        let counts: Vec<usize> = self
            .box_dims()
            .iter()
            .enumerate()
            .map(|(axis, it)| usize::from(*it).div_ceil(step(axis)))
            .collect();
        (0..counts.iter().product())
            .map(|number: usize| {
                let mut rest = number;
                let mut offset = Some(map.address as i64);
                for (axis, count) in counts.iter().enumerate() {
                    let index = i64::from(self.at[axis]) + (rest % count * step(axis)) as i64;
                    rest /= count;
                    let stride = if axis == 0 { self.size as i64 } else { map.strides[axis - 1] as i64 };
                    let inside = index >= 0 && index < map.dims[axis] as i64;
                    offset = offset.filter(|_| inside).map(|it| it + index * stride);
                }
                (self.swizzled(number * self.size), offset.map(|it| it as usize))
            })
            .collect()
    }

    /// PTX ISA, "Swizzling Modes": of each 128 bytes, the units of 16 are exchanged as the number of the 128 bytes says.
    fn swizzled(&self, place: usize) -> usize {
        let (line, unit) = (place / 128, place / 16 % 8);
        line * 128 + (unit ^ (line % self.units as usize)) * 16 + place % 16
    }
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let axis = (1..9u64, 0..3u64, 1..5u16, 1..4u8);
    let element = prop::sample::select(ELEMENTS.to_vec());
    let swizzle = prop::sample::select(SWIZZLES.to_vec());
    let axes = prop::collection::vec(axis, 0..5);
    let start = prop::array::uniform5(-5..10i32);
    (element, swizzle, 1..9u16, 1..48u64, 0..4u64, any::<bool>(), axes, start)
        .prop_map(|((element, size), (swizzle, units), row, width, first, nan, axes, at)| {
            let row = if swizzle == Swizzle::None { row } else { row.min(units as u16) };
            let mut strides = Vec::new();
            let mut stride = (width * size as u64).next_multiple_of(16);
            for (dim, gap, _, _) in &axes {
                strides.push(stride);
                stride = stride * dim + 16 * gap;
            }
            let float = matches!(
                element,
                TensorElement::F16 | TensorElement::F32 | TensorElement::F64 | TensorElement::Bf16
            );
            let mut box_dims = vec![row * 16 / size as u16];
            box_dims.extend(axes.iter().map(|it| it.2));
            let mut dims = vec![width];
            dims.extend(axes.iter().map(|it| it.0));
            let mut element_strides = vec![1];
            element_strides.extend(axes.iter().map(|it| it.3));
            let map = TensorMap {
                element,
                address: 16 * first,
                dims,
                strides,
                mode: Mode::Tiled { box_dims },
                element_strides,
                swizzle,
                fill_nan: nan && float,
            };
            Drawn { map, size, units, at }
        })
        .prop_filter("the tensor must have room", |drawn| {
            let map = &drawn.map;
            let last: u64 =
                map.strides.iter().zip(&map.dims[1..]).map(|(stride, dim)| stride * (dim - 1)).sum();
            // A swizzle moves bytes within 128: the box must be made of such lines.
            let whole = map.swizzle == Swizzle::None || map.box_bytes().is_multiple_of(128);
            map.address + last + map.dims[0] * 8 <= BYTES as u64 && map.box_bytes() <= 32_768 && whole
        })
}

fn given(drawn: &Drawn) -> Given {
    Given { at: drawn.at, ..Given::new(drawn.map.clone()) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_box_is_loaded_element_by_element(drawn in drawn()) {
        let given = given(&drawn);
        let (out, _) = given.launch(&format!("{EXPECT} {} {WAIT} {SHOW}", load(drawn.map.dims.len())), false)
            .map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        let fill = if drawn.map.fill_nan { 0xFF } else { 0 };
        for (place, offset) in drawn.elements() {
            for byte in 0..drawn.size {
                let expected = offset.map_or(fill, |it| given.input[it + byte]);
                prop_assert_eq!(out[place + byte], expected, "at {}", place);
            }
        }
    }

    #[test]
    fn a_box_is_stored_element_by_element_and_nothing_else(drawn in drawn()) {
        let given = given(&drawn);
        let body = format!("{EXPECT} {FILL} {WAIT} {} {DONE}", store(drawn.map.dims.len()));
        let (out, report) = given.launch(&body, true).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        let mut expected = given.output.clone();
        let mut inside = std::collections::BTreeSet::new();
        for (place, offset) in drawn.elements() {
            for byte in 0..drawn.size {
                if let Some(offset) = offset {
                    expected[offset + byte] = given.input[place + byte];
                    inside.insert(offset + byte);
                }
            }
        }
        prop_assert_eq!(out, expected);
        prop_assert_eq!(report.global_unique_bytes_written, inside.len() as u64);
    }

    #[test]
    fn a_box_is_added_element_by_element_and_nothing_else(drawn in drawn()) {
        let drawn = Drawn { map: TensorMap { fill_nan: false, ..drawn.map }, ..drawn };
        let element = match drawn.size {
            4 => TensorElement::U32,
            8 => TensorElement::U64,
            _ => return Ok(()),
        };
        let drawn = Drawn { map: TensorMap { element, ..drawn.map }, ..drawn };
        let given = given(&drawn);
        let body = format!("{EXPECT} {FILL} {WAIT} {} {DONE}", reduce(drawn.map.dims.len(), "add"));
        let (out, _) = given.launch(&body, true).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        let word = |data: &[u8]| {
            let mut word = [0; 8];
            word[..drawn.size].copy_from_slice(&data[..drawn.size]);
            u64::from_le_bytes(word)
        };
        let mut expected = given.output.clone();
        for (place, offset) in drawn.elements() {
            if let Some(offset) = offset {
                let sum = word(&expected[offset..]).wrapping_add(word(&given.input[place..]));
                expected[offset..offset + drawn.size].copy_from_slice(&sum.to_le_bytes()[..drawn.size]);
            }
        }
        prop_assert_eq!(out, expected);
    }
}

#[test]
fn every_spelling_of_a_load_is_the_same() {
    let given = Given { at: [16, 3, 0, 0, 0], ..Given::new(plain()) };
    for form in [
        "2d.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1}], [bar];",
        "2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1}], [bar];",
        "2d.shared::cluster.global.mbarrier::complete_tx::bytes.tile [tile], [%map, {%c0, %c1}], [bar];",
        "2d.tile.shared::cta.global.mbarrier::complete_tx::bytes.cta_group::1 [tile], [%map, {%c0, %c1}], [bar];",
        "2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [tile], [%map, {16, 3}], [bar], %policy;",
        "2d.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%global_map, {%c0, %c1}], [bar];",
        "2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [tile], [%map, {%c0, %c1}], [bar], 1;",
    ] {
        let body = format!("{EXPECT} @%q cp.async.bulk.tensor.{form} {WAIT} {SHOW}");
        let (out, _) = given.launch(&body, false).unwrap_or_else(|fault| panic!("{form}: {fault}"));
        assert!(
            (0..8).all(|i| (0..32).all(|k| out[128 * i + 4 * k..][..4] == *word(&given, 3 + i, 16 + k))),
            "{form}"
        );
    }
}

#[test]
fn each_block_of_the_mask_gets_what_is_multicast() {
    let sync = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";
    for cluster in [2, 4] {
        // Each block loads some of the 8 rows for all.
        let rows = 8 / cluster;
        let map = TensorMap { mode: Mode::Tiled { box_dims: vec![32, rows as u16] }, ..plain() };
        let given = Given { cluster, at: [8, 2, 0, 0, 0], ..Given::new(map) };
        let mask = (1 << cluster) - 1;
        let body = format!(
            "mul.lo.u32 %box, %box, {cluster}; {EXPECT} fence.mbarrier_init.release.cluster; {sync}
            mad.lo.u32 %c1, %rank, {rows}, %c1; mul.lo.u32 %r1, %rank, {}; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
            mov.b16 %h1, {mask};
            @%q cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
                [%r1], [%map, {{%c0, %c1}}], [bar], %h1;
            {WAIT} mul.wide.u32 %rd1, %rank, 1024; add.s64 %out, %out, %rd1; {SHOW} {sync}",
            128 * rows
        );
        let (out, report) = given.launch(&body, false).unwrap_or_else(|fault| panic!("{fault}"));
        for block in 0..cluster as usize {
            let same = |i: usize, k: usize| {
                out[1024 * block + 128 * i + 4 * k..][..4] == *word(&given, 2 + i, 8 + k)
            };
            assert!((0..8).all(|i| (0..32).all(|k| same(i, k))), "{cluster}, {block}");
        }
        assert_eq!(report.global_unique_bytes_read, 1024);
        // Each block's load goes to all, and each stores what it has.
        assert_eq!(report.total.bulk_bytes, u64::from(2 * 1024 * cluster));
    }
}

#[test]
fn rows_are_gathered_and_scattered() {
    let map = TensorMap { mode: Mode::Tiled { box_dims: vec![32, 1] }, swizzle: Swizzle::B128, ..plain() };
    let given = Given { at: [16, 7, 19, 0, 40], ..Given::new(map) };
    let rows = [Some(7), Some(19), Some(0), None];
    let at = "{%c0, %c1, %c2, %c3, %c4}";
    let body = format!(
        "mul.lo.u32 %box, %box, 4; {EXPECT}
        @%q cp.async.bulk.tensor.2d.shared::cta.global.tile::gather4.mbarrier::complete_tx::bytes [tile], [%map, {at}], [bar];
        {WAIT} {SHOW}"
    );
    let (out, _) = given.launch(&body, false).unwrap_or_else(|fault| panic!("{fault}"));
    // Units of 16 bytes are exchanged by the number of the row.
    let place = |i: usize, k: usize| 128 * i + ((k / 4) ^ i) * 16 + k % 4 * 4;
    for (i, row) in rows.iter().enumerate() {
        for k in 0..32 {
            let expected = row.map_or(&[0; 4][..], |row| word(&given, row, 16 + k));
            assert_eq!(&out[place(i, k)..][..4], expected, "{i}, {k}");
        }
    }
    let body = format!(
        "mul.lo.u32 %box, %box, 4; {EXPECT} {FILL} {WAIT}
        @%q cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group [%map, {at}], [tile]; {DONE}"
    );
    let (out, _) = given.launch(&body, true).unwrap_or_else(|fault| panic!("{fault}"));
    let mut expected = given.output.clone();
    for (i, row) in rows.iter().enumerate() {
        for k in 0..32 {
            if let Some(row) = row {
                expected[256 * row + 64 + 4 * k..][..4].copy_from_slice(&given.input[place(i, k)..][..4]);
            }
        }
    }
    assert_eq!(out, expected);
}

/// The pixels, by width, height and image, that 40 places of a filter have its element at an offset at.
fn pixels(given: &Given) -> Vec<[i32; 3]> {
    let [_, _, step_w, step_h] =
        [0, 0, given.map.element_strides[1], given.map.element_strides[2]].map(usize::from);
    let all = (0..4).flat_map(|n| {
        (-1..=4).step_by(step_h).flat_map(move |h| (-1..=7).step_by(step_w).map(move |w| [w, h, n]))
    });
    let first = [given.at[1], given.at[2], given.at[3]];
    let [ow, oh] = [given.offsets[0], given.offsets[1]].map(i32::from);
    all.skip_while(|it| *it != first).map(|[w, h, n]| [w + ow, h + oh, n]).take(40).collect()
}

fn offset_of([w, h, n]: [i32; 3]) -> Option<usize> {
    let inside = (0..9).contains(&w) && (0..6).contains(&h) && (0..3).contains(&n);
    inside.then(|| (32 * w + 32 * 9 * h + 32 * 9 * 6 * n) as usize)
}

#[test]
fn the_pixels_under_an_element_of_a_filter_are_a_column() {
    for (at, offsets, strides) in [
        ([8, -1, -1, 0], [0, 0], [1, 1]),
        ([0, 4, 3, 0], [2, 1], [1, 1]),
        ([8, 7, 4, 1], [0, 2], [1, 1]),
        ([0, 1, -1, 2], [1, 1], [1, 1]),
        ([0, 1, 1, 1], [2, 2], [2, 2]),
    ] {
        let [c, w, h, n] = at;
        let given = Given {
            at: [c, w, h, n, 0],
            offsets: [offsets[0], offsets[1], 0],
            ..Given::new(images(strides))
        };
        let load = "@%q cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes
            [tile], [%map, {%c0, %c1, %c2, %c3}], [bar], {%o0, %o1};";
        let (out, _) = given
            .launch(&format!("{EXPECT} {load} {WAIT} {SHOW}"), false)
            .unwrap_or_else(|it| panic!("{it}"));
        let pixels = pixels(&given);
        for i in 0..40 {
            // Where images are over, nothing is left but what lies outside.
            let expected = pixels
                .get(i)
                .and_then(|it| offset_of(*it))
                .map(|it| &given.input[it + 2 * c as usize..][..16]);
            assert_eq!(&out[16 * i..][..16], expected.unwrap_or(&[0xFF; 16]), "{at:?} {offsets:?} pixel {i}");
        }
    }
}

#[test]
fn a_column_of_pixels_is_stored_without_offsets() {
    let given = Given { at: [8, 4, 3, 0, 0], ..Given::new(images([1, 1])) };
    let store = "@%q cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group
        [%map, {%c0, %c1, %c2, %c3}], [tile];";
    let (out, _) = given.launch(&format!("{EXPECT} {FILL} {WAIT} {store} {DONE}"), true).unwrap();
    let mut expected = given.output.clone();
    for (i, pixel) in pixels(&given).into_iter().enumerate() {
        if let Some(offset) = offset_of(pixel) {
            expected[offset + 16..][..16].copy_from_slice(&given.input[16 * i..][..16]);
        }
    }
    assert_eq!(out, expected);
}

#[test]
fn reductions_are_those_of_their_names() {
    type F = fn(u64, u64) -> u64;
    let cases: [(&str, TensorElement, usize, F); 11] = [
        ("add", TensorElement::S32, 4, |a, b| u64::from((a as u32).wrapping_add(b as u32))),
        ("min", TensorElement::U32, 4, u64::min),
        ("max", TensorElement::S32, 4, |a, b| u64::from((a as i32).max(b as i32) as u32)),
        ("min", TensorElement::S64, 8, |a, b| (a as i64).min(b as i64) as u64),
        ("max", TensorElement::U64, 8, u64::max),
        ("inc", TensorElement::U32, 4, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", TensorElement::U32, 4, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and", TensorElement::S64, 8, |a, b| a & b),
        ("or", TensorElement::U32, 4, |a, b| a | b),
        ("xor", TensorElement::S32, 4, |a, b| a ^ b),
        ("add", TensorElement::F32, 4, |a, b| {
            let [a, b] = [a, b].map(|it| f32::from_bits(it as u32));
            u64::from((a + b).to_bits())
        }),
    ];
    for (name, element, size, f) in cases {
        let map = TensorMap {
            element,
            dims: vec![64],
            strides: vec![],
            mode: Mode::Tiled { box_dims: vec![64] },
            element_strides: vec![1],
            ..plain()
        };
        let mut given = Given::new(map);
        if element == TensorElement::F32 {
            given.input = (0..BYTES / 4).flat_map(|i| (i as f32 * 0.37 - 9.0).to_le_bytes()).collect();
            given.output = (0..BYTES / 4).flat_map(|i| (i as f32 * 1.9 - 30.0).to_le_bytes()).collect();
        } else {
            given.output = given.input.iter().map(|it| it.wrapping_mul(59)).collect();
        }
        let body = format!("{EXPECT} {FILL} {WAIT} {} {DONE}", reduce(1, name));
        let (out, _) =
            given.launch(&body, true).unwrap_or_else(|fault| panic!("{name} {element:?}: {fault}"));
        let word = |data: &[u8]| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(&data[..size]);
            u64::from_le_bytes(word)
        };
        for i in (0..64 * size).step_by(size) {
            let expected = f(word(&given.output[i..]), word(&given.input[i..]));
            assert_eq!(word(&out[i..]), expected, "{name} {element:?} at {i}");
        }
        assert_eq!(out[64 * size..], given.output[64 * size..]);
    }
}

#[test]
fn halves_are_added() {
    let map = TensorMap { element: TensorElement::Bf16, ..plain() };
    let map = TensorMap { dims: vec![64, 20], strides: vec![128], ..map };
    let mut given = Given::new(map);
    let of = |f: fn(usize) -> f32| -> Vec<u8> {
        (0..BYTES / 2).flat_map(|i| half::bf16::from_f32(f(i)).to_le_bytes()).collect()
    };
    given.input = of(|i| (i % 200) as f32 * 0.5);
    given.output = of(|i| (i % 77) as f32 - 20.0);
    let body = format!("{EXPECT} {FILL} {WAIT} {} {DONE}", reduce(2, "add"));
    let (out, _) = given.launch(&body, true).unwrap();
    let value = |data: &[u8], i: usize| half::bf16::from_le_bytes([data[2 * i], data[2 * i + 1]]).to_f32();
    for row in 0..8 {
        for k in 0..32 {
            let place = 64 * row + k;
            let sum = half::bf16::from_f32(value(&given.output, place) + value(&given.input, 32 * row + k));
            assert_eq!(value(&out, place), sum.to_f32(), "{row}, {k}");
        }
    }
}

/// Replaces all that tells the plain tensor, at an address that lies in a register, in a map in shared memory.
fn replace_all(map: &str) -> String {
    let field = |field: &str, ty: &str, operands: &str| {
        format!("@%q tensormap.replace.tile.{field}.shared::cta.b1024.{ty} [{map}], {operands};")
    };
    [
        field("global_address", "b64", "%in"),
        field("rank", "b32", "1"),
        field("box_dim", "b32", "0, %r8"),
        field("box_dim", "b32", "1, 8"),
        field("global_dim", "b32", "0, 64"),
        field("global_dim", "b32", "1, 20"),
        field("global_stride", "b64", "0, 256"),
        field("element_stride", "b32", "0, 1"),
        field("element_stride", "b32", "1, 1"),
        field("elemtype", "b32", "2"),
        field("interleave_layout", "b32", "0"),
        field("swizzle_mode", "b32", "0"),
        field("swizzle_atomicity", "b32", "0"),
        field("fill_mode", "b32", "0"),
    ]
    .concat()
}

#[test]
fn a_map_that_a_kernel_makes_is_the_one_that_the_host_makes() {
    let given = Given { at: [16, 3, 0, 0, 0], ..Given::new(plain()) };
    let body = format!(
        "mov.u32 %r8, 32; mov.u32 %r9, tile; mad.lo.u32 %r9, %t, 4, %r9; mov.u32 %r10, 0; st.shared.u32 [%r9+16384], %r10;
        bar.warp.sync -1; mov.u32 %r9, tile; add.u32 %r9, %r9, 16384; {} bar.warp.sync -1;
        tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%out+32768], [%r9], 128;
        add.s64 %map, %out, 32768; fence.proxy.tensormap::generic.acquire.gpu [%map], 128;
        {EXPECT} {} {WAIT} {SHOW}",
        replace_all("%r9"),
        load(2)
    );
    let (out, _) = given.launch(&body, false).unwrap_or_else(|fault| panic!("{fault}"));
    assert!((0..8).all(|i| (0..32).all(|k| out[128 * i + 4 * k..][..4] == *word(&given, 3 + i, 16 + k))));
}

#[test]
fn a_field_that_is_replaced_changes_nothing_else() {
    let given = Given::new(plain());
    let body = format!(
        "add.s64 %rd1, %in, 512;
        @%q tensormap.replace.tile.global_address.global.b1024.b64 [%global_map], %rd1;
        @%q tensormap.replace.tile.swizzle_mode.b1024.b32 [%global_map], 3;
        mov.u64 %map, %global_map; {EXPECT} {} {WAIT} {SHOW}",
        load(2)
    );
    let (out, _) = given.launch(&body, false).unwrap_or_else(|fault| panic!("{fault}"));
    let place = |i: usize, k: usize| 128 * i + ((k / 4) ^ i) * 16 + k % 4 * 4;
    assert!((0..8).all(|i| (0..32).all(|k| out[place(i, k)..][..4] == *word(&given, 2 + i, k))));
}
