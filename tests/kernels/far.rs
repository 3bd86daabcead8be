//! Tensors of which elements lie further apart than 32 bits count: in the emulator's memory, which takes no more of the
//! host than what is written.

use longhand_gpu::nvrtc::locate;
use longhand_gpu::{Buffer, Device, DevicePtr, Stream};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionBackwardArgs, AttentionForwardArgs, AttentionShape, Bias, Heads, Operands, Strides,
};

const TOKENS: usize = 3;
const DIM: usize = 64;
const ROW_BYTES: usize = DIM * 2;
/// From one tensor to the next, in the same buffer.
const TENSOR_BYTES: usize = TOKENS * ROW_BYTES;

/// Tensors `(1, 3, 1, 64)` of which one token's row lies `stride` elements behind the other's.
struct Tensors {
    buffer: Buffer,
    stride: usize,
}

impl Tensors {
    fn new(stream: &Stream, stride: usize) -> Tensors {
        let buffer = stream.alloc((TOKENS - 1) * stride * 2 + 8 * TENSOR_BYTES).unwrap();
        let tensors = Tensors { buffer, stride };
        for (tensor, token) in (0..4).flat_map(|tensor| (0..TOKENS).map(move |token| (tensor, token))) {
            let value = |i: usize| ((7 * i + 13 * token + 29 * tensor) % 32) as f32 / 16.0 - 1.0;
            let row: Vec<u8> =
                (0..DIM).flat_map(|i| ((value(i).to_bits() >> 16) as u16).to_le_bytes()).collect();
            tensors.buffer.upload(tensors.offset(tensor, token), &row).unwrap();
        }
        tensors
    }

    fn offset(&self, tensor: usize, token: usize) -> usize {
        tensor * TENSOR_BYTES + token * self.stride * 2
    }

    fn heads(&self, tensor: usize) -> Heads {
        let strides = Strides { batch: 0, token: self.stride as i64, head: 0 };
        Heads { data: self.buffer.ptr().offset(self.offset(tensor, 0) as i64), strides }
    }

    fn read(&self, tensor: usize) -> Vec<u8> {
        let mut rows = vec![0; TENSOR_BYTES];
        for (token, row) in rows.chunks_exact_mut(ROW_BYTES).enumerate() {
            self.buffer.download(self.offset(tensor, token), row).unwrap();
        }
        rows
    }
}

/// out, grad_q, grad_k and grad_v.
fn attention(device: &Device, stride: usize) -> Vec<Vec<u8>> {
    let stream = device.new_stream().unwrap();
    let tensors = Tensors::new(&stream, stride);
    let [q, k, v, grad_out, out, grad_q, grad_k, grad_v] = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| tensors.heads(i));
    let shape = AttentionShape { batch: 1, queries: TOKENS, keys: TOKENS, heads: 1, kv_heads: 1 };
    let scale = 0.125;
    let operands = Operands::default();
    let lse = stream.alloc(4 * TOKENS).unwrap();
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
        grad_out,
        lse: lse.ptr(),
        workspace: workspace.ptr(),
        grad_q,
        grad_k,
        grad_v,
        grad_bias: Bias::default(),
        grad_sinks: DevicePtr::NULL,
        operands,
    };
    // SAFETY: as above.
    unsafe { backward.launch(&stream, &args) }.unwrap();
    (4..8).map(|tensor| tensors.read(tensor)).collect()
}

#[test]
fn attention_is_the_same_when_tokens_lie_four_billion_elements_apart() {
    if let Err(error) = locate() {
        println!("skipped: {error}");
        return;
    }
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    let near = attention(&device, DIM * 8 * TOKENS);
    assert!(near.iter().all(|tensor| tensor.iter().any(|&byte| byte != 0)));
    assert_eq!(attention(&device, (1 << 32) + 8), near);
}
