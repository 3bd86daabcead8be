"""Layer norm and RMSNorm of a sum with the residual."""

import torch
import torch.nn.functional as F

from timing import forward_or_backward, random


def norm(work, device, dtype):
    rows, width = work["sizes"]["N"], work["sizes"]["W"]
    backward = work["operation"].endswith("backward")

    def layer_norm(x, residual, weight, bias):
        total = x + residual
        return F.layer_norm(total, (width,), weight, bias), total

    def rms_norm(x, residual, weight, bias):
        total = x + residual
        return F.rms_norm(total, (width,), weight), total

    def inputs():
        return [random(device, dtype, *shape, grad=backward) for shape in ((rows, width), (rows, width), (width,), (width,))]

    def timed(function):
        seeds = [random(device, dtype, rows, width) for _ in range(2)]
        return forward_or_backward(work, device, 4 * rows * width * dtype.itemsize, inputs, function, seeds)

    function = rms_norm if work["operation"].startswith("RMSNorm") else layer_norm
    found = {f"{function.__name__} eager": lambda: timed(function)}
    if device == "cuda":
        found[f"{function.__name__} compiled"] = lambda: timed(torch.compile(function, dynamic=False))
    return found
