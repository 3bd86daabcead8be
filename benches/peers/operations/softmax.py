"""Softmax over rows."""

import torch
import torch.nn.functional as F

from timing import forward_or_backward, random


def softmax(work, device, dtype):
    rows, width = work["sizes"]["N"], work["sizes"]["W"]
    backward = work["operation"].endswith("backward")

    def softmax(x):
        return F.softmax(x, -1)

    def timed(function):
        inputs = lambda: [random(device, dtype, rows, width, grad=backward)]
        seed = random(device, dtype, rows, width)
        return forward_or_backward(work, device, 3 * rows * width * dtype.itemsize, inputs, function, [seed])

    found = {"softmax eager": lambda: timed(softmax)}
    if device == "cuda":
        found["softmax compiled"] = lambda: timed(torch.compile(softmax, dynamic=False))
    return found
