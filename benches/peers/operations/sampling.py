"""Draws from the most likely tokens."""

import torch
import torch.nn.functional as F

from timing import Cycle, measure, number_after, random


def sample_top(logits, top_k, top_p):
    # The top-k are sorted already, as top-p wants them.
    values, tokens = torch.topk(logits.float() / 0.8, top_k)
    probabilities = F.softmax(values, -1)
    before = probabilities.cumsum(-1) - probabilities
    chosen = torch.multinomial(probabilities.masked_fill(before >= top_p, 0), 1)
    return tokens.gather(1, chosen)


def sampling(work, device, dtype):
    rows, vocabulary = work["sizes"]["N"], work["sizes"]["V"]
    top_k, top_p = int(number_after("top-k", work["variant"])), number_after("top-p", work["variant"])

    def sample(logits):
        return sample_top(logits, top_k, top_p)

    def timed(function):
        sets = Cycle(device, rows * vocabulary * dtype.itemsize, lambda: random(device, dtype, rows, vocabulary))
        return measure(lambda: function(sets.take()), device)

    found = {"topk, multinomial eager": lambda: timed(sample)}
    if device == "cuda":
        found["topk, multinomial compiled"] = lambda: timed(torch.compile(sample, dynamic=False))
    return found
