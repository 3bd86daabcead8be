"""PyTorch beside Longhand, on the same machine: the same work, timed the same way, and the same results.

  torch_peers.py --rows attention.json --out peers.json --seconds 60    what was timed of ours, timed of PyTorch's
  torch_peers.py --check exchange.safetensors --out peers.json          our outputs against PyTorch's in float64

The work is read from the rows of a result file, so that shapes cannot differ. A row is timed by CUDA events (on the CPU
by its clock) after a warm-up, with inputs that rotate past the cache, never zeros; ten samples. What is not compiled comes
first, for it takes seconds where compiling takes minutes. What cannot run is listed as missing, with the reason. The output
has the form that `benches/format` describes.
"""

import argparse
import importlib.util
import json
import os
import time
import traceback

import torch
import torch._functorch.config
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "u8": torch.uint8}
DTYPES |= {"int8": torch.int8, "e4m3": torch.float8_e4m3fn}
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


# Each function returns {implementation: measurement thunk} for a row's work.


def attention(work, device, dtype):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    s = work["sizes"]
    batch, tokens, heads, kv_heads, dim = s["B"], s["T"], s["H"], s["Hkv"], s["D"]
    causal = work["variant"].startswith("causal")
    backward = work["operation"].endswith("backward")
    size = batch * tokens * dim * (heads + kv_heads) * 2 * dtype.itemsize
    gqa = {"enable_gqa": True} if heads != kv_heads else {}
    window, softcap = number_after("window", work["variant"]), number_after("softcap", work["variant"])

    def inputs():
        # (B, T, H, D) in memory, as ours; SDPA takes its transpose.
        shapes = [(batch, tokens, n, dim) for n in (heads, kv_heads, kv_heads)]
        return [random(device, dtype, *shape, grad=backward).transpose(1, 2) for shape in shapes]

    def timed(function, inputs=inputs):
        seed = torch.randn_like(inputs()[0])
        return forward_or_backward(work, device, size, inputs, function, [seed])

    def sdpa(backend):
        def function(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, **gqa)

        def masked():
            # SDPA knows no window: it gets a mask of T x T.
            position = torch.arange(tokens, device=device)
            distance = position[:, None] - position[None, :]
            mask = (distance >= 0) & (distance <= window)

            def function(q, k, v):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **gqa)
            return timed(function)

        def none():
            raise NotImplementedError("SDPA has no softcap")
        return none if softcap else masked if window else lambda: timed(function)

    def flex():
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask, score = None, None
        if causal:
            # Uncompiled it holds a T x T matrix.
            make = torch.compile(create_block_mask) if tokens > 16_384 else create_block_mask
            seen = (lambda b, h, q, k: (q >= k) & (q - k <= window)) if window else lambda b, h, q, k: q >= k
            mask = make(seen, None, None, tokens, tokens, device=device)
        if softcap:
            score = lambda score, b, h, q, k: softcap * torch.tanh(score / softcap)
        compiled = torch.compile(flex_attention, dynamic=False)
        return timed(lambda q, k, v: compiled(q, k, v, score_mod=score, block_mask=mask, **gqa))

    def triton_fused():
        fused = triton_tutorial()
        if dtype != torch.float16 or heads != kv_heads or window or softcap or (backward and not causal):
            raise NotImplementedError("Triton's fused attention does f16, as many key heads as query heads, no window or softcap, backward if causal")

        def contiguous():
            return [x.detach().contiguous().requires_grad_(backward) for x in inputs()]
        return timed(lambda q, k, v: fused(q, k, v, causal, dim**-0.5), contiguous)

    found = {"SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION)}
    if device == "cuda":
        found["SDPA cuDNN"] = sdpa(SDPBackend.CUDNN_ATTENTION)
        found["SDPA efficient"] = sdpa(SDPBackend.EFFICIENT_ATTENTION)
        found["FlexAttention compiled"] = flex
        found["Triton fused"] = triton_fused
    return found


def number_after(word, variant):
    """The number that follows a word of the variant, or none."""
    words = variant.split()
    return float(words[words.index(word) + 1]) if word in words else None


def attention_decode(work, device, dtype):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    s = work["sizes"]
    if not work["variant"].startswith("contiguous") or not dtype.is_floating_point or dtype.itemsize == 1:
        return {}  # PyTorch has neither pages nor elements of 8 bits
    # Heads before tokens in memory, as ours.
    q = random(device, dtype, s["B"], s["H"], s["T"], s["D"])
    gqa = {"enable_gqa": True} if s["H"] != s["Hkv"] else {}

    def timed(function):
        k, v = (random(device, dtype, s["B"], s["Hkv"], s["S"], s["D"]) for _ in range(2))

        def run():
            with torch.no_grad():
                return function(q, k, v, **gqa)
        return measure_flushed(run, device)

    def flash(q, k, v, **gqa):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, **gqa)

    def flex():
        from torch.nn.attention.flex_attention import flex_attention

        return timed(torch.compile(flex_attention, dynamic=False))

    # One new token sees all keys: no mask.
    found = {"SDPA flash": lambda: timed(flash)}
    if device == "cuda":
        found["SDPA"] = lambda: timed(F.scaled_dot_product_attention)
        found["FlexAttention compiled"] = flex
    return found


def triton_tutorial():
    """The `attention` of Triton's tutorial: no package has it, so its file is looked for."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get("TRITON_FUSED_ATTENTION") or os.path.join(here, "06-fused-attention.py")
    if not os.path.exists(path):
        raise FileNotFoundError("no 06-fused-attention.py of Triton's tutorials, where TRITON_FUSED_ATTENTION says or beside torch_peers.py")
    spec = importlib.util.spec_from_file_location("triton_tutorial", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention


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


def sampling(work, device, dtype):
    rows, vocabulary = work["sizes"]["N"], work["sizes"]["V"]
    top_k, top_p = int(number_after("top-k", work["variant"])), number_after("top-p", work["variant"])

    def sample(logits):
        # The top-k are sorted already, as top-p wants them.
        values, tokens = torch.topk(logits.float() / 0.8, top_k)
        probabilities = F.softmax(values, -1)
        before = probabilities.cumsum(-1) - probabilities
        chosen = torch.multinomial(probabilities.masked_fill(before >= top_p, 0), 1)
        return tokens.gather(1, chosen)

    def timed(function):
        sets = Cycle(device, rows * vocabulary * dtype.itemsize, lambda: random(device, dtype, rows, vocabulary))
        return measure(lambda: function(sets.take()), device)

    found = {"topk, multinomial eager": lambda: timed(sample)}
    if device == "cuda":
        found["topk, multinomial compiled"] = lambda: timed(torch.compile(sample, dynamic=False))
    return found


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


def rope(work, device, dtype):
    s = work["sizes"]
    batch, tokens, dim = s["B"], s["T"], s["D"]
    size = 2 * batch * tokens * (s["H"] + s["Hkv"]) * dim * dtype.itemsize

    def turn(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def both(q, k, cos, sin):
        return turn(q, cos, sin), turn(k, cos, sin)

    def timed(function):
        # As Hugging Face's apply_rotary_pos_emb, with the tables made ahead.
        angles = torch.arange(tokens, device=device)[:, None] / 10000 ** (torch.arange(0, dim, 2, device=device) / dim)
        tables = [torch.cat([f(angles)] * 2, -1)[:, None, :].to(dtype) for f in (torch.cos, torch.sin)]
        make = lambda: [random(device, dtype, batch, tokens, heads, dim) for heads in (s["H"], s["Hkv"])]
        sets = Cycle(device, size, make)
        return measure(lambda: function(*sets.take(), *tables), device)

    found = {"rotate_half eager": lambda: timed(both)}
    if device == "cuda":
        found["rotate_half compiled"] = lambda: timed(torch.compile(both, dynamic=False))
    return found


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.project = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        split = lambda t: t.view(batch, tokens, self.heads, -1).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(torch.nn.Module):
    def __init__(self, vocabulary, context, width, layers, heads):
        super().__init__()
        self.tokens, self.positions = torch.nn.Embedding(vocabulary, width), torch.nn.Embedding(context, width)
        for table in (self.tokens, self.positions):
            torch.nn.init.normal_(table.weight, std=0.02)
        self.blocks = torch.nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def training_step(work, device, dtype):
    s = work["sizes"]

    def timed(compiled):
        torch.manual_seed(1)
        model = Gpt2(s["V"], s["T"], s["W"], s["L"], s["H"]).to(device, dtype)
        loss_of = torch.compile(model) if compiled else model
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ids = torch.randint(s["V"], (s["B"], s["T"] + 1), device=device)

        def step():
            loss = loss_of(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            return loss.item()
        return measure(step, device)

    found = {"GPT-2 eager": lambda: timed(False)}
    if device == "cuda":
        found["GPT-2 compiled"] = lambda: timed(True)
    return found


OPERATIONS = {
    "attention forward": attention,
    "attention backward": attention,
    "attention decode": attention_decode,
    "layer norm forward": norm,
    "layer norm backward": norm,
    "RMSNorm forward": norm,
    "RMSNorm backward": norm,
    "GELU forward": activation,
    "GELU backward": activation,
    "SwiGLU forward": activation,
    "SwiGLU backward": activation,
    "AdamW": adamw,
    "cross-entropy forward": cross_entropy,
    "cross-entropy backward": cross_entropy,
    "linear cross-entropy": linear_cross_entropy,
    "softmax forward": softmax,
    "softmax backward": softmax,
    "sampling": sampling,
    "matmul": matmul,
    "ceiling matmul": matmul,
    "ceiling copy": copy,
    "embedding forward": embedding,
    "embedding backward": embedding,
    "rope": rope,
    "training step": training_step,
}


def reason(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def is_compiled(implementation):
    return implementation.endswith("compiled") or implementation == "Triton fused"


def peers_of(rows):
    """Each row of ours with each library that does the same: its name and what times it."""
    for row in rows:
        ours = row["implementation"] == "longhand" or row["operation"].startswith("ceiling")
        if ours and row["device"] != "emulated" and row["operation"] in OPERATIONS:
            make = OPERATIONS[row["operation"]]
            for implementation, run in make(row, row["device"], DTYPES[row["dtype"]]).items():
                yield row, implementation, run


def time_rows(rows, seconds, result, write):
    deadline = time.monotonic() + seconds
    # Sorting keeps the order of the rows within each half.
    for row, implementation, run in sorted(peers_of(rows), key=lambda peer: is_compiled(peer[1])):
        name = f"{row['operation']}, {row['dtype']} {row['variant']} {row['axis']}{row['sizes'][row['axis']]}: {implementation}"
        if time.monotonic() > deadline:
            result["missing"].append({"what": name, "why": "out of time"})
            continue
        on_gpu = row["device"] == "cuda"
        try:
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            if is_compiled(implementation):
                # After a few shapes of one function, it would no longer be compiled.
                torch.compiler.reset()
            samples = run()
            peak = torch.cuda.max_memory_allocated() if on_gpu else None
            fields = {key: row[key] for key in ("operation", "device", "dtype", "variant", "sizes", "axis", "amount", "unit")}
            result["rows"].append({**fields, "implementation": implementation, "peak_bytes": peak, "samples": samples})
            print(f"{name}: {sorted(samples)[len(samples) // 2] / 1e6:.3f} ms", flush=True)
        except Exception as error:  # whatever a library lacks, the next one is tried
            traceback.print_exc()
            result["missing"].append({"what": name, "why": reason(error)})
        write()
    write()


def reference_attention(variant, t):
    """By the formula, with the T x T matrix."""
    q, k, v = (t[x].transpose(1, 2) for x in "qkv")
    batch, heads, tokens, dim = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / dim**0.5
    position = torch.arange(tokens)
    distance = position[:, None] - position[None, :]
    if softcap := number_after("softcap", variant):
        scores = softcap * torch.tanh(scores / softcap)
    if "slopes" in t:
        scores = scores - t["slopes"][:, None, None] * distance.abs()
    if variant.startswith("causal"):
        scores = scores.masked_fill(distance < 0, -torch.inf)
    if window := number_after("window", variant):
        scores = scores.masked_fill(distance > window, -torch.inf)
    if "sinks" in t:
        scores = torch.cat((scores, t["sinks"][:, None, None].expand(batch, heads, tokens, 1)), -1)
    return (torch.softmax(scores, -1)[..., :tokens] @ v).transpose(1, 2)


def reference(name, t):
    """The output of an operation of the exchange in float64."""
    operation = name.split("/")[0]
    if operation == "attention":
        return reference_attention(name.split("/")[1], t)
    if operation == "layer_norm":
        return F.layer_norm(t["x"] + t["residual"], t["weight"].shape, t["weight"], t["bias"], 1e-5)
    if operation == "rms_norm":
        return F.rms_norm(t["x"] + t["residual"], t["weight"].shape, t["weight"], 1e-5)
    if operation == "linear_cross_entropy":
        return F.cross_entropy(t["hidden"] @ t["weight"].T, t["targets"])
    if operation == "softmax":
        return F.softmax(t["x"], -1)
    if operation == "swiglu":
        gate, up = (t["x"] + t["bias"]).chunk(2, -1)
        return F.silu(gate) * up
    if operation == "cross_entropy":
        return F.cross_entropy(t["logits"], t["targets"])
    if operation == "linear":
        return t["x"] @ t["weight"] + t["bias"]
    if operation == "gelu":
        return F.gelu(t["x"], approximate=name.split("/")[1])
    if operation == "embedding":
        return F.embedding(t["ids"], t["weight"])
    if operation == "rope":
        angles = (t["positions"][:, None] * t["frequencies"])[:, None, :]
        pairs = [torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles) for x in (t["q"], t["k"])]
        return torch.cat([torch.cat((x.real, x.imag), -1) for x in pairs], 2)
    if operation == "adamw":
        parameter = t["parameter"].clone().requires_grad_()
        parameter.grad = t["gradient"]
        optimiser = torch.optim.AdamW([parameter], lr=0.1)
        for _ in range(3):
            optimiser.step()
        return parameter
    raise ValueError(f"no reference of {operation}")


def check(path, result):
    from safetensors import safe_open

    cases = {}
    with safe_open(path, "pt") as file:
        # Rounding of the type in which ours computed.
        limit = {"f32": 1e-5, "bf16": 2e-2, "f16": 2e-3}[file.metadata()["dtype"]]
        for key in file.keys():
            name, tensor = key.rsplit("/", 1)
            cases.setdefault(name, {})[tensor] = file.get_tensor(key)
    for name, ours in cases.items():
        grads = [key.removeprefix("grad_") for key in ours if key.startswith("grad_")]
        t = {key: x.double() if x.is_floating_point() else x for key, x in ours.items()}
        for key in grads:
            t[key].requires_grad_()
        out = reference(name, t)
        wanted = {"out": out.detach()}
        if grads:
            gradients = torch.autograd.grad((out * t["weights"]).sum(), [t[key] for key in grads])
            wanted |= {f"grad_{key}": gradient for key, gradient in zip(grads, gradients)}
        for key, theirs in wanted.items():
            error = ((t[key] - theirs).norm() / theirs.norm()).item()
            error = error if error == error else None
            what = {"what": f"{name}: {key}", "against": f"PyTorch {torch.__version__}, f64"}
            result["checks"].append({**what, "error": error, "limit": limit, "failure": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="a result file; its rows are timed")
    parser.add_argument("--check", help="a safetensors file; our outputs in it are checked")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    # Else a compiled backward pass frees what the next call of the same graph needs.
    torch._functorch.config.donated_buffer = False
    versions = {"PyTorch": torch.__version__}
    if torch.version.cuda:
        versions["PyTorch's CUDA"] = torch.version.cuda
    result = {"part": "", "date": "", "seconds": 0.0, "machine": {"cpu": "", "cores": 0, "memory": 0, "gpu": None}}
    result |= {"versions": versions, "rows": [], "checks": [], "missing": [], "failure": None}

    def write():
        with open(arguments.out, "w") as file:
            json.dump(result, file)

    if arguments.rows:
        with open(arguments.rows) as file:
            rows = json.load(file)["rows"]
        time_rows(rows, arguments.seconds, result, write)
    if arguments.check:
        check(arguments.check, result)
    write()


if __name__ == "__main__":
    main()
