"""PyTorch beside Longhand, on the same machine: the same work, timed the same way, and the same results.

  torch_peers.py --rows attention.json --out peers.json --seconds 60    what was timed of ours, timed of PyTorch's
  torch_peers.py --check exchange.safetensors --out peers.json          our outputs against PyTorch's in float64

The work is read from the rows of a result file, so that shapes cannot differ. A row is timed by CUDA events (on the CPU
by its clock) after a warm-up, with inputs that rotate past the cache, never zeros; ten samples. What cannot run is listed
as missing, with the reason. The output has the form that `benches/format` describes.
"""

import argparse
import json
import time
import traceback

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "u8": torch.uint8}
SAMPLES = 10
SAMPLE_SECONDS = 0.03


class Clock:
    """Time on the device: by events on a GPU, else by the processor's clock."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def time(self, call, count):
        if not self.cuda:
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


def measure(call, device, prepare=None):
    """Nanoseconds per call, each sample. With `prepare`, what it returns is consumed by one call and made outside the time."""
    clock = Clock(device)
    if prepare is not None:
        first = clock.time(lambda ready=prepare(): call(ready), 1)
        count = max(1, min(20, int(SAMPLE_SECONDS * 1e9 / max(first, 1))))

        def sample():
            total = 0.0
            for _ in range(count):
                ready = prepare()
                total += clock.time(lambda: call(ready), 1)
            return total / count

        return [sample() for _ in range(SAMPLES)]
    clock.time(call, 1)
    first = clock.time(call, 2)
    count = max(1, int(SAMPLE_SECONDS * 1e9 / max(first, 1)))
    clock.time(call, count)
    return [clock.time(call, count) for _ in range(SAMPLES)]


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

    def inputs():
        # (B, T, H, D) in memory, as ours; SDPA takes its transpose.
        shapes = [(batch, tokens, n, dim) for n in (heads, kv_heads, kv_heads)]
        return [random(device, dtype, *shape, grad=backward).transpose(1, 2) for shape in shapes]

    def timed(function):
        sets = Cycle(device, size, inputs)
        if not backward:
            def run():
                with torch.no_grad():
                    return function(*sets.take())
            return measure(run, device)
        seed = torch.randn(batch, tokens, heads, dim, device=device, dtype=dtype).transpose(1, 2)

        def prepare():
            leaves = [x.detach().requires_grad_() for x in sets.take()]
            return function(*leaves), leaves
        return measure(lambda ready: torch.autograd.grad(ready[0], ready[1], seed), device, prepare)

    def sdpa(backend):
        def run():
            def function(q, k, v):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)
            return timed(function)
        return run

    def flex():
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask = None
        if causal:
            mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, tokens, tokens, device=device)
        compiled = torch.compile(flex_attention, dynamic=False)
        return timed(lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=heads != kv_heads))

    def triton_fused():
        raise NotImplementedError("Triton ships its fused attention as a tutorial, not in its package")

    found = {"SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION)}
    if device == "cuda":
        found["SDPA cuDNN"] = sdpa(SDPBackend.CUDNN_ATTENTION)
        found["SDPA efficient"] = sdpa(SDPBackend.EFFICIENT_ATTENTION)
        found["FlexAttention compiled"] = flex
        found["Triton fused"] = triton_fused
    return found


def layer_norm(work, device, dtype):
    rows, width = work["sizes"]["N"], work["sizes"]["W"]
    backward = work["operation"].endswith("backward")

    def norm(x, residual, weight, bias):
        total = x + residual
        return F.layer_norm(total, (width,), weight, bias), total

    def rms(x, residual, weight, bias):
        total = x + residual
        return F.rms_norm(total, (width,), weight), total

    def inputs():
        make = lambda *shape: random(device, dtype, *shape, grad=backward)
        return [make(rows, width), make(rows, width), make(width), make(width)]

    def timed(function):
        sets = Cycle(device, 4 * rows * width * dtype.itemsize, inputs)
        if not backward:
            def run():
                with torch.no_grad():
                    return function(*sets.take())
            return measure(run, device)
        seeds = [random(device, dtype, rows, width) for _ in range(2)]

        def prepare():
            leaves = sets.take()
            return function(*leaves), leaves
        call = lambda ready: torch.autograd.grad(ready[0], ready[1], seeds, allow_unused=True)
        return measure(call, device, prepare)

    name, function = ("rms_norm", rms) if work["operation"].startswith("RMSNorm") else ("layer_norm", norm)
    found = {f"{name} eager": lambda: timed(function)}
    if device == "cuda":
        found[f"{name} compiled"] = lambda: timed(torch.compile(function, dynamic=False))
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
        sets = Cycle(device, rows * vocabulary * dtype.itemsize, inputs)
        if not backward:
            def run():
                with torch.no_grad():
                    return function(*sets.take())
            return measure(run, device)

        def prepare():
            logits, targets = sets.take()
            return function(logits, targets), logits
        return measure(lambda ready: torch.autograd.grad(ready[0], ready[1]), device, prepare)

    found = {"cross_entropy eager": lambda: timed(F.cross_entropy)}
    if device == "cuda":
        found["cross_entropy compiled"] = lambda: timed(torch.compile(F.cross_entropy, dynamic=False))
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

    def run():
        def make():
            return random(device, dtype, s["V"], s["W"], grad=backward), torch.randint(s["V"], (s["N"],), device=device)
        sets = Cycle(device, s["V"] * s["W"] * dtype.itemsize, make)
        if not backward:
            def look_up():
                table, ids = sets.take()
                with torch.no_grad():
                    return F.embedding(ids, table)
            return measure(look_up, device)
        seed = random(device, dtype, s["N"], s["W"])

        def prepare():
            table, ids = sets.take()
            return F.embedding(ids, table), table
        return measure(lambda ready: torch.autograd.grad(ready[0], ready[1], seed), device, prepare)

    return {"embedding eager": run}


def rope(work, device, dtype):
    s = work["sizes"]
    batch, tokens, dim = s["B"], s["T"], s["D"]
    size = 2 * batch * tokens * (s["H"] + s["Hkv"]) * dim * dtype.itemsize
    angles = torch.arange(tokens, device=device)[:, None] / 10000 ** (torch.arange(0, dim, 2, device=device) / dim)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None, :].to(dtype) for f in (torch.cos, torch.sin))

    # As Hugging Face's apply_rotary_pos_emb, with the tables made ahead.
    def turn(x):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def both(q, k):
        return turn(q), turn(k)

    def timed(function):
        make = lambda: [random(device, dtype, batch, tokens, heads, dim) for heads in (s["H"], s["Hkv"])]
        sets = Cycle(device, size, make)
        return measure(lambda: function(*sets.take()), device)

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
    "layer norm forward": layer_norm,
    "layer norm backward": layer_norm,
    "RMSNorm forward": layer_norm,
    "RMSNorm backward": layer_norm,
    "AdamW": adamw,
    "cross-entropy forward": cross_entropy,
    "cross-entropy backward": cross_entropy,
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


def time_rows(rows, seconds, result, write):
    deadline = time.monotonic() + seconds
    for row in [row for row in rows if row["implementation"] == "longhand" or row["operation"].startswith("ceiling")]:
        device, make = row["device"], OPERATIONS.get(row["operation"])
        length = row["sizes"][row["axis"]]
        name = f"{row['operation']}, {row['dtype']} {row['variant']} {row['axis']}{length}"
        if make is None or device == "emulated":
            continue
        for implementation, run in make(row, device, DTYPES[row["dtype"]]).items():
            if time.monotonic() > deadline:
                result["missing"].append({"what": f"{name}: {implementation}", "why": "out of time"})
                continue
            try:
                if device == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                samples = run()
                peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
                fields = {key: row[key] for key in ("operation", "device", "dtype", "variant", "sizes", "axis", "amount", "unit")}
                result["rows"].append({**fields, "implementation": implementation, "peak_bytes": peak, "samples": samples})
                print(f"{name}: {implementation}: {sorted(samples)[len(samples) // 2] / 1e6:.3f} ms", flush=True)
            except Exception as error:  # whatever a library lacks, the next one is tried
                traceback.print_exc()
                result["missing"].append({"what": f"{name}: {implementation}", "why": reason(error)})
        write()


def reference(name, t):
    """The output of an operation of the exchange in float64."""
    operation = name.split("/")[0]
    if operation == "attention":
        q, k, v = (t[x].transpose(1, 2) for x in "qkv")
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal="/causal" in name).transpose(1, 2)
    if operation == "layer_norm":
        return F.layer_norm(t["x"] + t["residual"], t["weight"].shape, t["weight"], t["bias"], 1e-5)
    if operation == "cross_entropy":
        return F.cross_entropy(t["logits"], t["targets"])
    if operation == "linear":
        return t["x"] @ t["weight"] + t["bias"]
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
        wanted = dict(zip(grads, torch.autograd.grad((out * t["weights"]).sum(), [t[key] for key in grads])))
        pairs = [("out", out.detach())] + [(f"grad_{key}", wanted[key]) for key in grads]
        for key, theirs in pairs:
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
