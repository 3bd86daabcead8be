//! Tensors of which elements lie further apart than 32 bits count: in the emulator's memory, which takes no more of the
//! host than what is written.

use longhand_gpu::nvrtc::locate;
use longhand_gpu::{Buffer, Device, DevicePtr, Stream};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionBackwardArgs, AttentionForwardArgs, AttentionShape, Bias, Heads, Operands, Strides,
};

/// Batches, tokens and heads.
const SIZES: [usize; 3] = [2, 3, 2];
const ROWS: usize = 2 * 3 * 2;
const DIM: usize = 64;
const ROW_BYTES: usize = DIM * 2;
/// From one tensor to the next, in the same buffer.
const TENSOR_BYTES: usize = ROWS * ROW_BYTES;
/// Of a contiguous tensor: from one batch, token and head to the next.
const NEAR: [usize; 3] = [3 * 2 * DIM, 2 * DIM, DIM];

/// Tensors `(2, 3, 2, 64)`, whose rows lie by these strides.
struct Tensors {
    buffer: Buffer,
    strides: [usize; 3],
}

impl Tensors {
    fn new(stream: &Stream, strides: [usize; 3]) -> Tensors {
        let reach: usize = strides.iter().zip(SIZES).map(|(stride, size)| stride * (size - 1)).sum();
        let tensors = Tensors { buffer: stream.alloc(reach * 2 + 8 * TENSOR_BYTES).unwrap(), strides };
        for (tensor, row) in (0..4).flat_map(|tensor| (0..ROWS).map(move |row| (tensor, row))) {
            let value = |i: usize| ((7 * i + 13 * row + 29 * tensor) % 32) as f32 / 16.0 - 1.0;
            let values: Vec<u8> =
                (0..DIM).flat_map(|i| ((value(i).to_bits() >> 16) as u16).to_le_bytes()).collect();
            tensors.buffer.upload(tensors.offset(tensor, row), &values).unwrap();
        }
        tensors
    }

    fn offset(&self, tensor: usize, row: usize) -> usize {
        let [batch, token, head] = self.strides;
        let [_, tokens, heads] = SIZES;
        let elements = row / heads / tokens * batch + row / heads % tokens * token + row % heads * head;
        tensor * TENSOR_BYTES + elements * 2
    }

    fn heads(&self, tensor: usize) -> Heads {
        let [batch, token, head] = self.strides.map(|stride| stride as i64);
        let data = self.buffer.ptr().offset(self.offset(tensor, 0) as i64);
        Heads { data, strides: Strides { batch, token, head } }
    }

    fn read(&self, tensor: usize) -> Vec<u8> {
        let mut rows = vec![0; TENSOR_BYTES];
        for (row, values) in rows.chunks_exact_mut(ROW_BYTES).enumerate() {
            self.buffer.download(self.offset(tensor, row), values).unwrap();
        }
        rows
    }
}

/// out, dq, dk and dv.
fn attention(device: &Device, strides: [usize; 3]) -> Vec<Vec<u8>> {
    let stream = device.new_stream().unwrap();
    let tensors = Tensors::new(&stream, strides);
    let [q, k, v, dout, out, dq, dk, dv] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| tensors.heads(i));
    let [batch, tokens, heads] = SIZES;
    let shape = AttentionShape { batch, queries: tokens, keys: tokens, heads, kv_heads: heads };
    let scale = 0.125;
    let operands = Operands::default();
    let lse = stream.alloc(4 * ROWS).unwrap();
    let described = Attention::new(Dtype::Bf16, DIM).causal(true);
    let forward = described.forward(device).unwrap();
    let args = AttentionForwardArgs { shape, scale, q, k, v, out, lse: lse.ptr(), operands };
    // SAFETY: all of it lies within the buffers above.
    unsafe { forward.launch(&stream, &args) }.unwrap();
    let backward = described.backward(device).unwrap();
    let workspace = stream.alloc(backward.workspace_bytes(&shape)).unwrap();
    let args = AttentionBackwardArgs {
        shape,
        scale,
        q,
        k,
        v,
        out,
        dout,
        lse: lse.ptr(),
        dlse: DevicePtr::NULL,
        workspace: workspace.ptr(),
        dq,
        dk,
        dv,
        dbias: Bias::default(),
        dsinks: DevicePtr::NULL,
        operands,
    };
    // SAFETY: as above.
    unsafe { backward.launch(&stream, &args) }.unwrap();
    (4..8).map(|tensor| tensors.read(tensor)).collect()
}

#[test]
fn attention_is_the_same_when_batches_tokens_or_heads_lie_four_billion_elements_apart() {
    if let Err(error) = locate() {
        println!("skipped: {error}");
        return;
    }
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    let near = attention(&device, NEAR);
    assert!(near.iter().all(|tensor| tensor.iter().any(|&byte| byte != 0)));
    for dim in 0..3 {
        let mut strides = NEAR;
        strides[dim] = (1 << 32) + 8;
        assert_eq!(attention(&device, strides), near, "dimension {dim}");
    }
}
