//! Tensor maps against plain index arithmetic.

use proptest::prelude::*;

use super::*;

fn maps() -> impl Strategy<Value = TensorMap> {
    let axis = (1..20u64, 0..4u64, 1..5u16, 1..4u8);
    let swizzles = prop::sample::select(SWIZZLES.to_vec());
    let elements = prop::sample::select(ELEMENTS.to_vec());
    (elements, swizzles, 1..9u16, 1..64u64, proptest::collection::vec(axis, 0..5)).prop_map(
        |(element, swizzle, units, width, axes)| {
            let size = element.bytes();
            let units = if swizzle == Swizzle::None { units } else { units.min(swizzle.units() as u16) };
            let mut strides = Vec::new();
            let mut stride = (width * size).next_multiple_of(16);
            for (dim, gap, _, _) in &axes {
                strides.push(stride);
                stride *= dim;
                stride += 16 * gap;
            }
            let with = |first, rest: Vec<_>| [vec![first], rest].concat();
            let with16 = |first, rest: Vec<u16>| [vec![first], rest].concat();
            TensorMap {
                element,
                address: 0x1000,
                dims: with(width, axes.iter().map(|it| it.0).collect()),
                strides,
                mode: Mode::Tiled {
                    box_dims: with16(units * 16 / size as u16, axes.iter().map(|it| it.2).collect()),
                },
                element_strides: [vec![1], axes.iter().map(|it| it.3).collect()].concat(),
                swizzle,
                fill_nan: false,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again(map in maps()) {
        let bytes = map.encode().unwrap();
        prop_assert_eq!(TensorMap::decode(&bytes).unwrap(), map);
    }

    #[test]
    fn no_bytes_decode_to_a_map_that_breaks_the_rules(map in maps(), at in 8..128usize, value: u8) {
        let mut bytes = map.encode().unwrap();
        bytes[at] = value;
        if let Ok(map) = TensorMap::decode(&bytes) {
            prop_assert!(map.check().is_ok());
        }
    }

    /// Element by element: where it lies in the tensor, and where in shared memory.
    #[test]
    fn the_chunks_of_a_box_are_its_elements(map in maps(), start in proptest::array::uniform5(-6..24i32)) {
        let size = map.element.bytes() as u32;
        let shared = 2048;
        let mut found = std::collections::BTreeMap::new();
        for chunk in map.chunks(&start, shared).unwrap() {
            for byte in 0..chunk.bytes {
                let global = chunk.global.map(|it| it + u64::from(byte));
                prop_assert!(found.insert(chunk.shared + byte, global).is_none(), "a byte twice");
            }
        }
        let Mode::Tiled { box_dims } = &map.mode else { panic!() };
        let counts: Vec<u32> = (0..map.dims.len())
            .map(|axis| u32::from(box_dims[axis]).div_ceil(u32::from(map.element_strides[axis])))
            .collect();
        let total: u32 = counts.iter().product();
        prop_assert_eq!(u64::from(total * size), map.box_bytes());
        prop_assert_eq!(found.len() as u64, map.box_bytes());
        for number in 0..total {
            let mut rest = number;
            let mut global = Some(map.address);
            for (axis, count) in counts.iter().enumerate() {
                let index = start[axis] + (rest % count) as i32 * i32::from(map.element_strides[axis]);
                rest /= count;
                let stride = if axis == 0 { u64::from(size) } else { map.strides[axis - 1] };
                global = match global {
                    Some(global) if index >= 0 && (index as u64) < map.dims[axis] => Some(global + index as u64 * stride),
                    _ => None,
                };
            }
            for byte in 0..size {
                let plain = shared + number * size + byte;
                // The published patterns: units of 16 bytes, numbered by bits 4 to 6, change with bits 7 to 9.
                let rows = plain >> 7 & (map.swizzle.units() - 1);
                let swizzled = plain ^ rows << 4;
                prop_assert_eq!(found.get(&swizzled), Some(&global.map(|it| it + u64::from(byte))));
            }
        }
    }
}

#[test]
fn broken_rules_are_told_by_name() {
    let good = TensorMap {
        element: TensorElement::Bf16,
        address: 512,
        dims: vec![100, 7],
        strides: vec![208],
        mode: Mode::Tiled { box_dims: vec![64, 4] },
        element_strides: vec![1, 1],
        swizzle: Swizzle::B128,
        fill_nan: true,
    };
    assert_eq!(good.check(), Ok(()));
    let part = |change: fn(&mut TensorMap)| {
        let mut map = good.clone();
        change(&mut map);
        map.encode().expect_err("a broken rule").part
    };
    assert_eq!(part(|map| map.address = 8), "address");
    assert_eq!(part(|map| map.strides[0] = 200), "stride");
    assert_eq!(part(|map| map.mode = Mode::Tiled { box_dims: vec![64, 257] }), "box dimension");
    assert_eq!(part(|map| map.element_strides[1] = 9), "element stride");
    assert_eq!(
        part(|map| map.mode = Mode::Tiled { box_dims: vec![72, 4] }),
        "bytes along the first dimension"
    );
    assert_eq!(part(|map| map.dims.clear()), "rank");
    assert_eq!(part(|map| map.element = TensorElement::U16), "fill");
    assert_eq!(TensorMap::decode(&[0; 128]).expect_err("no map").part, "magic");
}

#[test]
fn a_map_of_images_is_decoded_again_and_keeps_its_rules() {
    let good = TensorMap {
        element: TensorElement::F16,
        address: 512,
        dims: vec![64, 14, 9, 3],
        strides: vec![128, 2048, 32768],
        mode: Mode::Im2col { lower: vec![-1, -128], upper: vec![127, 0], channels: 64, pixels: 1024 },
        element_strides: vec![1, 2, 2, 1],
        swizzle: Swizzle::B128,
        fill_nan: false,
    };
    assert_eq!(TensorMap::decode(&good.encode().unwrap()).as_ref(), Ok(&good));
    let part = |change: fn(&mut Vec<i16>, &mut u16, &mut u16)| {
        let mut map = good.clone();
        let Mode::Im2col { lower, channels, pixels, .. } = &mut map.mode else { panic!() };
        change(lower, channels, pixels);
        map.encode().expect_err("a broken rule").part
    };
    assert_eq!(part(|lower, _, _| lower[1] = -129), "corner");
    assert_eq!(part(|lower, _, _| lower.push(0)), "number of corners");
    assert_eq!(part(|_, channels, _| *channels = 257), "number of channels");
    assert_eq!(part(|_, channels, _| *channels = 4), "bytes along the first dimension");
    assert_eq!(part(|_, _, pixels| *pixels = 1025), "number of pixels");
}
