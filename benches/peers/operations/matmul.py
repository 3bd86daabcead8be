"""Matrix products, and copies: the ceilings."""

import torch

from timing import Cycle, measure, random


def matmul(work, device, dtype):
    s = work["sizes"]
    m, n, k = s["M"], s["N"], s["K"]

    def run():
        make = lambda: (random(device, dtype, m, k), random(device, dtype, k, n))
        sets = Cycle(device, (m * k + k * n) * dtype.itemsize, make)
        return measure(lambda: torch.matmul(*sets.take()), device)

    return {"torch.matmul": run}


def copy(work, device, dtype):
    def run():
        source = torch.randint(255, (work["sizes"]["bytes"],), device=device, dtype=dtype)
        target = torch.empty_like(source)
        return measure(lambda: target.copy_(source), device)

    return {"copy_": run}
