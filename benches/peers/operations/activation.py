"""GELU and SwiGLU of a sum with the bias."""

import torch
import torch.nn.functional as F

from timing import forward_or_backward, random


def activation(work, device, dtype):
    rows, width = work["sizes"]["N"], work["sizes"]["W"]
    gated, backward = work["operation"].startswith("SwiGLU"), work["operation"].endswith("backward")
    columns = 2 * width if gated else width

    def gelu(x, bias):
        return F.gelu(x + bias, approximate="tanh")

    def swiglu(x, bias):
        gate, up = (x + bias).chunk(2, -1)
        return F.silu(gate) * up

    def inputs():
        return [random(device, dtype, *shape, grad=backward) for shape in ((rows, columns), (columns,))]

    def timed(function):
        size = rows * (2 * columns + width) * dtype.itemsize
        seed = random(device, dtype, rows, width)
        return forward_or_backward(work, device, size, inputs, function, [seed])

    function = swiglu if gated else gelu
    found = {f"{function.__name__} eager": lambda: timed(function)}
    if device == "cuda":
        found[f"{function.__name__} compiled"] = lambda: timed(torch.compile(function, dynamic=False))
    return found
