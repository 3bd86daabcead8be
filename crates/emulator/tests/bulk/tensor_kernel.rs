//! A kernel that copies parts of tensors, and how it is launched.

use longhand_emulator::tensor::tma::{Mode, TensorElement, TensorMap};
use longhand_emulator::tensor::wgmma::Swizzle;
use longhand_emulator::{Checks, Fault, Module, Problem, Report, Shape};

use super::gpu;

/// An entry `k` of one warp whose first lane has: `%map`, the address of a tensor map; `%in` and `%out`, of 64 KiB each;
/// `%c0` to `%c4`, coordinates; `%o0` to `%o2`, offsets; `tile`, 32 KiB of shared memory; `bar`, shared memory for a
/// barrier. `%box` is how many bytes to expect there. `%global_map` is where the map lies in global memory too.
pub fn kernel(body: &str) -> String {
    format!(
        "
.version 8.6
.target sm_100a
.address_size 64
.visible .entry k(
    .param .align 64 .b8 map[128], .param .u64 in, .param .u64 out, .param .u64 global_map, .param .u32 box,
    .param .align 4 .b8 at[32])
{{
.reg .pred %p<8>, %q;
.reg .b16 %h<4>, %o<3>;
.reg .b32 %r<16>, %c<5>, %box, %rank, %t;
.reg .b64 %rd<16>, %map, %in, %out, %global_map, %policy;
.shared .align 1024 .b8 tile[32768];
.shared .align 8 .b64 bar;
mov.b64 %map, map;
cvta.param.u64 %map, %map;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
ld.param.u64 %global_map, [global_map];
ld.param.u32 %box, [box];
ld.param.u32 %c0, [at];
ld.param.u32 %c1, [at+4];
ld.param.u32 %c2, [at+8];
ld.param.u32 %c3, [at+12];
ld.param.u32 %c4, [at+16];
ld.param.u16 %o0, [at+20];
ld.param.u16 %o1, [at+22];
ld.param.u16 %o2, [at+24];
mov.u64 %policy, 0;
mov.u32 %rank, %cluster_ctarank;
mov.u32 %t, %tid.x;
setp.eq.u32 %q, %t, 0;
{body}
}}
"
    )
}

pub const BYTES: usize = 65_536;

/// What a launch is given.
pub struct Given {
    pub map: TensorMap,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub at: [i32; 5],
    pub offsets: [u16; 3],
    pub cluster: u32,
    pub checks: Checks,
}

impl Given {
    pub fn new(map: TensorMap) -> Given {
        // No two of the words of a tensor are alike, as far as they have room for it.
        let input = (0..BYTES as u32 / 4).flat_map(|i| i.wrapping_mul(0x9E37_79B1).to_le_bytes()).collect();
        Given {
            map,
            input,
            output: vec![0x11; BYTES],
            at: [0; 5],
            offsets: [0; 3],
            cluster: 1,
            checks: Checks::ALL,
        }
    }

    /// The map's tensor is the input, or the output.
    pub fn launch(&self, body: &str, of_output: bool) -> Result<(Vec<u8>, Report), Fault> {
        let gpu = gpu(self.checks);
        let module = Module::from_ptx(&gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
        let put = |data: &[u8], bytes: usize| {
            let address = gpu.alloc(bytes as u64).unwrap();
            gpu.upload(address, data).unwrap();
            address
        };
        let (input, output) = (put(&self.input, BYTES), put(&self.output, BYTES));
        let base = if of_output { output } else { input };
        let map = TensorMap { address: base + self.map.address, ..self.map.clone() }.encode().unwrap();
        let global_map = put(&map, 128);
        let mut params = map.to_vec();
        params.extend([input, output, global_map].iter().flat_map(|it| it.to_le_bytes()));
        params.extend((self.map.box_bytes() as u32).to_le_bytes());
        params.extend(self.at.iter().flat_map(|it| it.to_le_bytes()));
        params.extend(self.offsets.iter().flat_map(|it| it.to_le_bytes()));
        params.resize(module.params("k").unwrap().iter().map(|it| it.0 + it.1).max().unwrap(), 0);
        let cluster = [self.cluster, 1, 1];
        let shape = Shape { grid: cluster, block: [32, 1, 1], cluster, dynamic_shared: 0 };
        let report = module.launch("k", &shape, &params)?;
        let mut out = vec![0; BYTES];
        gpu.download(output, &mut out).unwrap();
        Ok((out, report))
    }

    #[track_caller]
    pub fn problem(&self, body: &str) -> Problem {
        match self.launch(body, false) {
            Err(fault) => fault.problem,
            Ok(_) => panic!("no fault: {body}"),
        }
    }
}

pub const EXPECT: &str = "@%q mbarrier.init.shared::cta.b64 [bar], 1;
    @%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], %box; bar.warp.sync -1;";
pub const WAIT: &str = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra WAIT;";

/// The first lane copies so many bytes, as many as are expected, of the tile to the output as they lie there.
pub const SHOW: &str = "@%q cp.async.bulk.global.shared::cta.bulk_group [%out], [tile], %box;
    @%q cp.async.bulk.commit_group; @%q cp.async.bulk.wait_group 0;";

/// Fills as many bytes of the tile with those of the input.
pub const FILL: &str =
    "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%in], %box, [bar];";

pub const DONE: &str = "@%q cp.async.bulk.commit_group; @%q cp.async.bulk.wait_group 0;";

pub fn coordinates(rank: usize) -> String {
    (0..rank).map(|axis| format!("%c{axis}")).collect::<Vec<_>>().join(", ")
}

pub fn load(rank: usize) -> String {
    format!(
        "@%q cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes
            [tile], [%map, {{{}}}], [bar];",
        coordinates(rank)
    )
}

pub fn store(rank: usize) -> String {
    format!(
        "@%q cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%map, {{{}}}], [tile];",
        coordinates(rank)
    )
}

pub fn reduce(rank: usize, name: &str) -> String {
    format!(
        "@%q cp.reduce.async.bulk.tensor.{rank}d.global.shared::cta.{name}.tile.bulk_group.L2::cache_hint
            [%map, {{{}}}], [tile], %policy;",
        coordinates(rank)
    )
}

/// 20 rows of 64 elements of 4 bytes, and boxes of 8 rows of 32.
pub fn plain() -> TensorMap {
    TensorMap {
        element: TensorElement::U32,
        address: 0,
        dims: vec![64, 20],
        strides: vec![256],
        mode: Mode::Tiled { box_dims: vec![32, 8] },
        element_strides: vec![1, 1],
        swizzle: Swizzle::None,
        fill_nan: false,
    }
}

/// The word of the input at a row and column of the plain tensor.
pub fn word(given: &Given, row: usize, column: usize) -> &[u8] {
    &given.input[256 * row + 4 * column..][..4]
}

/// 3 images of 6 by 9 pixels of 16 channels of 2 bytes, of which 8 channels of 40 pixels are copied, for filters of 3
/// by 3 on images padded by 1.
pub fn images(strides: [u8; 2]) -> TensorMap {
    TensorMap {
        element: TensorElement::F16,
        address: 0,
        dims: vec![16, 9, 6, 3],
        strides: vec![32, 32 * 9, 32 * 9 * 6],
        mode: Mode::Im2col { lower: vec![-1, -1], upper: vec![-1, -1], channels: 8, pixels: 40 },
        element_strides: vec![1, strides[0], strides[1], 1],
        swizzle: Swizzle::None,
        fill_nan: true,
    }
}
