"""Attention of a few new tokens over a cache in one piece."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from timing import measure_flushed, random


def attention_decode(work, device, dtype):
    s = work["sizes"]
    if not work["variant"].startswith("contiguous") or not dtype.is_floating_point or dtype.itemsize == 1:
        return {"SDPA flash": neither_pages_nor_bytes}
    # Heads before tokens in memory, as ours.
    q = random(device, dtype, s["B"], s["H"], s["T"], s["D"])
    gqa = {"enable_gqa": True} if s["H"] != s["Hkv"] else {}

    def timed(function):
        k, v = (random(device, dtype, s["B"], s["Hkv"], s["S"], s["D"]) for _ in range(2))

        def run():
            with torch.no_grad():
                return function(q, k, v, **gqa)
        return measure_flushed(run, device)

    def flash(q, k, v, **gqa):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, **gqa)

    def flex():
        from torch.nn.attention.flex_attention import flex_attention

        return timed(torch.compile(flex_attention, dynamic=False))

    # One new token sees all keys: no mask.
    found = {"SDPA flash": lambda: timed(flash)}
    if device == "cuda":
        found["SDPA"] = lambda: timed(F.scaled_dot_product_attention)
        found["FlexAttention compiled"] = flex
    return found


def neither_pages_nor_bytes():
    raise NotImplementedError("SDPA has neither pages nor elements of 8 bits")
