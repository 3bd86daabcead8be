"""AdamW steps."""

import torch

from timing import Cycle, measure, random


def adamw(work, device, dtype):
    count = work["sizes"]["P"]

    def timed(**how):
        def make():
            parameter = torch.nn.Parameter(random(device, dtype, count).detach())
            parameter.grad = random(device, dtype, count)
            optimiser = torch.optim.AdamW([parameter], lr=1e-5, weight_decay=0.01, **how)
            optimiser.step()
            return optimiser
        sets = Cycle(device, 16 * count, make)
        return measure(lambda: sets.take().step(), device)

    return {"AdamW fused": lambda: timed(fused=True), "AdamW foreach": lambda: timed(foreach=True)}
