"""Rows of a table."""

import torch
import torch.nn.functional as F

from timing import forward_or_backward, random


def embedding(work, device, dtype):
    s = work["sizes"]
    backward = work["operation"].endswith("backward")

    def inputs():
        return random(device, dtype, s["V"], s["W"], grad=backward), torch.randint(s["V"], (s["N"],), device=device)

    def timed():
        size = s["V"] * s["W"] * dtype.itemsize
        seed = random(device, dtype, s["N"], s["W"])
        return forward_or_backward(work, device, size, inputs, lambda table, ids: F.embedding(ids, table), [seed])

    return {"embedding eager": timed}
