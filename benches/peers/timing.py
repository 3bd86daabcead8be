"""How PyTorch's work is timed, and the inputs it is given."""

import time

import torch

SAMPLES = 10
SAMPLE_SECONDS = 0.03
WARM_UP_SECONDS = 0.1
# Of what takes so long that ten samples would take minutes, these must do.
FEWEST_SAMPLES = 3
MOST_SECONDS = 10


def clock(call, count, device):
    """Nanoseconds per call: by events on a GPU, else by the processor's clock."""
    if device != "cuda":
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        return (time.perf_counter_ns() - start) / count
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e6 / count


def measure(call, device):
    """Nanoseconds per call, each sample."""
    clock(call, 1, device)
    start = time.monotonic()
    each = clock(call, 1, device)
    count = max(1, int(SAMPLE_SECONDS * 1e9 / max(each, 1)))
    while time.monotonic() - start < WARM_UP_SECONDS:
        clock(call, count, device)
    samples, start = [], time.monotonic()
    while len(samples) < SAMPLES and (len(samples) < FEWEST_SAMPLES or time.monotonic() - start < MOST_SECONDS):
        samples.append(clock(call, count, device))
    return samples


def measure_flushed(call, device):
    """As `measure`, each call by itself after a GPU's second-level cache was filled with something else."""
    if device != "cuda":
        return measure(call, device)
    other = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device=device)

    def flushed(count):
        nanoseconds = 0
        for _ in range(count):
            other.zero_()
            nanoseconds += clock(call, 1, device)
        return nanoseconds / count
    count = max(1, int(SAMPLE_SECONDS * 1e9 / max(flushed(3), 1)))
    return [flushed(min(count, 100)) for _ in range(SAMPLES)]


def forward_or_backward(work, device, size, inputs, function, seeds=None):
    """Times `function` without gradients, or its gradients alone. `inputs` are leaves first, and `size` their bytes."""
    if work["operation"].endswith("backward"):
        def graph():
            leaves = inputs()
            return function(*leaves), [leaf for leaf in leaves if leaf.requires_grad]

        # Of a graph that is kept: its forward pass stays outside, and calls follow each other as ours do.
        sets = Cycle(device, size, graph)
        return measure(lambda: torch.autograd.grad(*sets.take(), seeds, retain_graph=True, allow_unused=True), device)
    sets = Cycle(device, size, inputs)

    def run():
        with torch.no_grad():
            return function(*sets.take())
    return measure(run, device)


class Cycle:
    """Sets of inputs that take turns, as many as go through more than twice the second-level cache."""

    def __init__(self, device, size, make):
        sets = 1
        if device == "cuda":
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            sets = min(64, 2 * cache // max(size, 1) + 1)
        self.sets = [make() for _ in range(sets)]
        self.at = 0

    def take(self):
        self.at = (self.at + 1) % len(self.sets)
        return self.sets[self.at]


def random(device, dtype, *shape, grad=False):
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype).requires_grad_(grad)


def number_after(word, variant):
    """The number that follows a word of the variant, or none."""
    words = variant.split()
    return float(words[words.index(word) + 1]) if word in words else None
