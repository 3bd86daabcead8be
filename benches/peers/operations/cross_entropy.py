"""Cross-entropy, and a whole output head."""

import torch
import torch.nn.functional as F

from timing import forward_or_backward, measure, random


def cross_entropy(work, device, dtype):
    rows, vocabulary = work["sizes"]["N"], work["sizes"]["V"]
    backward = work["operation"].endswith("backward")

    def inputs():
        targets = torch.randint(vocabulary, (rows,), device=device)
        return random(device, dtype, rows, vocabulary, grad=backward), targets

    def timed(function):
        return forward_or_backward(work, device, rows * vocabulary * dtype.itemsize, inputs, function)

    found = {"cross_entropy eager": lambda: timed(F.cross_entropy)}
    if device == "cuda":
        found["cross_entropy compiled"] = lambda: timed(torch.compile(F.cross_entropy, dynamic=False))
    return found


def linear_cross_entropy(work, device, dtype):
    s = work["sizes"]
    rows, width, vocabulary = s["N"], s["W"], s["V"]

    def eager(hidden, weight, targets):
        return F.cross_entropy(F.linear(hidden, weight), targets)

    def chunked(hidden, weight, targets):
        return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions())

    def timed(function):
        hidden, weight = random(device, dtype, rows, width, grad=True), random(device, dtype, vocabulary, width, grad=True)
        targets = torch.randint(vocabulary, (rows,), device=device)

        def both():
            return torch.autograd.grad(function(hidden, weight, targets), (hidden, weight))
        return measure(both, device)

    found = {"linear, cross_entropy eager": lambda: timed(eager), "linear_cross_entropy chunked": lambda: timed(chunked)}
    if device == "cuda":
        found["linear, cross_entropy compiled"] = lambda: timed(torch.compile(eager, dynamic=False))
    return found
