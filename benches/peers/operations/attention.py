"""Attention forward and backward: SDPA's backends, FlexAttention, Triton's fused attention."""

import importlib.util
import os

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from timing import forward_or_backward, number_after, random


def attention(work, device, dtype):
    s = work["sizes"]
    batch, tokens, heads, kv_heads, dim = s["B"], s["T"], s["H"], s["Hkv"], s["D"]
    causal = work["variant"].startswith("causal")
    backward = work["operation"].endswith("backward")
    size = batch * tokens * dim * (heads + kv_heads) * 2 * dtype.itemsize
    gqa = {"enable_gqa": True} if heads != kv_heads else {}
    window, softcap = number_after("window", work["variant"]), number_after("softcap", work["variant"])

    def inputs():
        # (B, T, H, D) in memory, as ours; SDPA takes its transpose.
        shapes = [(batch, tokens, n, dim) for n in (heads, kv_heads, kv_heads)]
        return [random(device, dtype, *shape, grad=backward).transpose(1, 2) for shape in shapes]

    def timed(function, inputs=inputs):
        seed = torch.randn_like(inputs()[0])
        return forward_or_backward(work, device, size, inputs, function, [seed])

    def sdpa(backend):
        def function(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, **gqa)

        def masked():
            # SDPA knows no window: it gets a mask of T x T.
            position = torch.arange(tokens, device=device)
            distance = position[:, None] - position[None, :]
            mask = (distance >= 0) & (distance <= window)

            def function(q, k, v):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **gqa)
            return timed(function)

        def none():
            raise NotImplementedError("SDPA has no softcap")
        return none if softcap else masked if window else lambda: timed(function)

    def flex():
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask, score = None, None
        if causal:
            # Uncompiled it holds a T x T matrix.
            make = torch.compile(create_block_mask) if tokens > 16_384 else create_block_mask
            seen = (lambda b, h, q, k: (q >= k) & (q - k <= window)) if window else lambda b, h, q, k: q >= k
            mask = make(seen, None, None, tokens, tokens, device=device)
        if softcap:
            score = lambda score, b, h, q, k: softcap * torch.tanh(score / softcap)
        compiled = torch.compile(flex_attention, dynamic=False)
        return timed(lambda q, k, v: compiled(q, k, v, score_mod=score, block_mask=mask, **gqa))

    def triton_fused():
        fused = triton_tutorial()
        if dtype != torch.float16 or heads != kv_heads or window or softcap or (backward and not causal):
            raise NotImplementedError("Triton's fused attention does f16, as many key heads as query heads, no window or softcap, backward if causal")

        def contiguous():
            return [x.detach().contiguous().requires_grad_(backward) for x in inputs()]
        return timed(lambda q, k, v: fused(q, k, v, causal, dim**-0.5), contiguous)

    found = {"SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION)}
    if device == "cuda":
        found["SDPA cuDNN"] = sdpa(SDPBackend.CUDNN_ATTENTION)
        found["SDPA efficient"] = sdpa(SDPBackend.EFFICIENT_ATTENTION)
        found["FlexAttention compiled"] = flex
        found["Triton fused"] = triton_fused
    return found


def triton_tutorial():
    """The `attention` of Triton's tutorial: no package has it, so its file is looked for."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.environ.get("TRITON_FUSED_ATTENTION") or os.path.join(here, "06-fused-attention.py")
    if not os.path.exists(path):
        raise FileNotFoundError("no 06-fused-attention.py of Triton's tutorials, where TRITON_FUSED_ATTENTION says or beside torch_peers.py")
    spec = importlib.util.spec_from_file_location("triton_tutorial", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention
