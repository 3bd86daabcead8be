"""Rotary position embedding, as Hugging Face's apply_rotary_pos_emb: with the tables made ahead."""

import torch

from timing import Cycle, measure, random


def turn(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def tables_of(tokens, dim, device, dtype):
    """Cosines and sines, (T, 1, D)."""
    angles = torch.arange(tokens, device=device)[:, None] / 10000 ** (torch.arange(0, dim, 2, device=device) / dim)
    return [torch.cat([f(angles)] * 2, -1)[:, None, :].to(dtype) for f in (torch.cos, torch.sin)]


def rope(work, device, dtype):
    s = work["sizes"]
    batch, tokens, dim = s["B"], s["T"], s["D"]
    size = 2 * batch * tokens * (s["H"] + s["Hkv"]) * dim * dtype.itemsize

    def both(q, k, cos, sin):
        return turn(q, cos, sin), turn(k, cos, sin)

    def timed(function):
        tables = tables_of(tokens, dim, device, dtype)
        make = lambda: [random(device, dtype, batch, tokens, heads, dim) for heads in (s["H"], s["Hkv"])]
        sets = Cycle(device, size, make)
        return measure(lambda: function(*sets.take(), *tables), device)

    found = {"rotate_half eager": lambda: timed(both)}
    if device == "cuda":
        found["rotate_half compiled"] = lambda: timed(torch.compile(both, dynamic=False))
    return found
