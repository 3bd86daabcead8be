"""Longhand and PyTorch on one CPU, in turns: A B A B, so that what else the machine does slows both alike.

  cargo build --release -p longhand-benches --bin longhand-turns
  turns.py --longhand target/release/longhand-turns --out turns.json [--only "training step"] [--rounds 7] [--seconds 600]

Each work has a process of its own for each of the two, which take turns: a round is one of ours and then one of PyTorch's,
of as many calls as fill a third of a second. Prints medians, and the median over the rounds of PyTorch's time over ours:
above 1, Longhand is faster. Peak memory, of training steps, is what the process had at most beyond what it began with. The
output has the form that `benches/format` describes: the samples of a row are its rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROUND_NANOSECONDS = 0.3e9
# Of what takes so long that all rounds would take minutes, these must do.
FEWEST_ROUNDS = 3
MOST_SECONDS = 30


def attention(operation, products, tokens, dtype):
    sizes = {"B": 1, "T": tokens, "H": 12, "Hkv": 12, "D": 64}
    # A causal mask lets half of the pairs through; each product is 2 D operations for each.
    flops = products * 12 * tokens**2 * 64
    return {"operation": operation, "dtype": dtype, "variant": "causal D64", "sizes": sizes, "axis": "T", "amount": flops, "unit": "FLOP"}


def decode(keys, dtype):
    sizes = {"B": 1, "T": 1, "H": 12, "Hkv": 12, "D": 64, "S": keys}
    moved = 2 * keys * 12 * 64 * {"f32": 4, "bf16": 2}[dtype]
    return {"operation": "attention decode", "dtype": dtype, "variant": "contiguous D64", "sizes": sizes, "axis": "S", "amount": moved, "unit": "byte"}


def matmul(rows, dtype):
    sizes = {"M": rows, "K": 768, "N": 3072}
    return {"operation": "matmul", "dtype": dtype, "variant": "K768 N3072", "sizes": sizes, "axis": "M", "amount": 2 * rows * 768 * 3072, "unit": "FLOP"}


def layer_norm(rows, width):
    sizes = {"N": rows, "W": width}
    # Forward reads two matrices and writes two, backward reads three and writes one.
    return {"operation": "layer norm forward + backward", "dtype": "f32", "variant": "residual", "sizes": sizes, "axis": "W", "amount": 8 * 4 * rows * width, "unit": "byte"}


def rope(tokens):
    sizes = {"B": 1, "T": tokens, "H": 8, "Hkv": 2, "D": 128}
    return {"operation": "rope", "dtype": "f32", "variant": "D128 H8/2", "sizes": sizes, "axis": "T", "amount": 2 * 4 * tokens * 10 * 128, "unit": "byte"}


def adamw(count):
    return {"operation": "AdamW", "dtype": "f32", "variant": "", "sizes": {"P": count}, "axis": "P", "amount": 28 * count, "unit": "byte"}


def softmax(rows, width):
    sizes = {"N": rows, "W": width}
    # Forward reads a matrix and writes one, backward reads two and writes one.
    return {"operation": "softmax forward + backward", "dtype": "f32", "variant": "", "sizes": sizes, "axis": "W", "amount": 5 * 4 * rows * width, "unit": "byte"}


def linear_cross_entropy(vocabulary):
    sizes = {"N": 1024, "W": 256, "V": vocabulary}
    return {"operation": "linear cross-entropy", "dtype": "f32", "variant": "W256", "sizes": sizes, "axis": "V", "amount": 3 * 2 * 1024 * 256 * vocabulary, "unit": "FLOP"}


def sampling(vocabulary):
    sizes = {"N": 16, "V": vocabulary}
    return {"operation": "sampling", "dtype": "f32", "variant": "top-k 50 top-p 0.9", "sizes": sizes, "axis": "V", "amount": 4 * 16 * vocabulary, "unit": "byte"}


def copy():
    count = 512 << 20
    return {"operation": "copy", "dtype": "u8", "variant": "", "sizes": {"bytes": count}, "axis": "bytes", "amount": 2 * count, "unit": "byte"}


def training_step(tokens):
    sizes = {"B": 1, "T": tokens, "V": 50257, "W": 768, "L": 12, "H": 12}
    return {"operation": "training step", "dtype": "f32", "variant": "GPT-2 124M", "sizes": sizes, "axis": "T", "amount": tokens, "unit": "token"}


WORKS = [
    *(attention("attention forward", 2, tokens, "f32") for tokens in (1024, 4096, 8192)),
    *(attention("attention forward + backward", 7, tokens, "f32") for tokens in (1024, 4096, 8192)),
    *(training_step(tokens) for tokens in (512, 1024, 2048)),
    copy(),
    *(decode(keys, dtype) for keys in (16_384, 65_536) for dtype in ("f32", "bf16")),
    *(layer_norm((1 << 22) // width, width) for width in (768, 16_384, 131_072)),
    *(rope(tokens) for tokens in (1024, 16_384)),
    *(adamw(1 << power) for power in (20, 24, 26)),
    *(softmax((1 << 22) // width, width) for width in (1024, 262_144)),
    *(sampling(vocabulary) for vocabulary in (65_536, 262_144)),
    *(linear_cross_entropy(vocabulary) for vocabulary in (32_768, 65_536)),
    *(matmul(2048, dtype) for dtype in ("f32", "bf16")),
    *(attention("attention forward", 2, tokens, "bf16") for tokens in (1024, 4096, 8192)),
    *(attention("attention forward + backward", 7, tokens, "bf16") for tokens in (1024, 4096, 8192)),
]


class Side:
    """A program that does as it is told, line by line."""

    def __init__(self, command, threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.command = command

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.command[0]} ended at {what}")
        return json.loads(line)

    def run(self, times):
        return self.ask({"run": times})["nanoseconds"]

    def peak(self):
        return self.ask({"peak": True})["bytes"]


def serve(threads):
    """What is at the other end of PyTorch's side."""
    import torch
    import torch.nn.functional as F

    from operations.rope import tables_of, turn
    from operations.sampling import sample_top
    from operations.training_step import step_of_gpt2

    torch.set_num_threads(threads)
    torch.manual_seed(1)

    def attention(sizes, dtype, backward):
        draw = lambda: torch.randn(1, sizes["T"], sizes["H"], sizes["D"]).to(dtype)
        inputs, weights = [draw().requires_grad_(backward) for _ in range(3)], draw()

        def forward():
            q, k, v = (x.transpose(1, 2) for x in inputs)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        def run():
            if not backward:
                with torch.no_grad():
                    forward()
            else:
                torch.autograd.grad((forward() * weights).sum(), inputs)
        return run

    def decode(sizes, dtype):
        q, k, v = (torch.randn(1, sizes["H"], tokens, sizes["D"]).to(dtype) for tokens in (1, sizes["S"], sizes["S"]))

        def run():
            with torch.no_grad():
                F.scaled_dot_product_attention(q, k, v)
        return run

    def matmul(sizes, dtype):
        a, b = torch.randn(sizes["M"], sizes["K"]).to(dtype), torch.randn(sizes["K"], sizes["N"]).to(dtype)
        return lambda: a @ b

    def layer_norm(sizes):
        matrix = lambda: torch.randn(sizes["N"], sizes["W"])
        seeds = [matrix(), matrix()]
        inputs = [x.requires_grad_() for x in (matrix(), matrix(), torch.randn(sizes["W"]), torch.randn(sizes["W"]))]

        def run():
            x, residual, weight, bias = inputs
            total = x + residual
            torch.autograd.grad((F.layer_norm(total, (sizes["W"],), weight, bias), total), inputs, seeds)
        return run

    def rope(sizes):
        q, k = (torch.randn(1, sizes["T"], heads, sizes["D"]) for heads in (sizes["H"], sizes["Hkv"]))
        tables = tables_of(sizes["T"], sizes["D"], "cpu", torch.float32)
        return lambda: (turn(q, *tables), turn(k, *tables))

    def adamw(sizes):
        parameter = torch.nn.Parameter(torch.randn(sizes["P"]))
        parameter.grad = torch.randn(sizes["P"])
        return torch.optim.AdamW([parameter], lr=1e-5, weight_decay=0.01, fused=True).step

    def softmax(sizes):
        x, seed = torch.randn(sizes["N"], sizes["W"], requires_grad=True), torch.randn(sizes["N"], sizes["W"])
        return lambda: torch.autograd.grad(F.softmax(x, -1), x, seed)

    def linear_cross_entropy(sizes):
        hidden, weight = (torch.randn(rows, sizes["W"], requires_grad=True) for rows in (sizes["N"], sizes["V"]))
        targets = torch.randint(sizes["V"], (sizes["N"],))
        return lambda: torch.autograd.grad(F.cross_entropy(F.linear(hidden, weight), targets), (hidden, weight))

    def sampling(sizes):
        logits = torch.randn(sizes["N"], sizes["V"])
        return lambda: sample_top(logits, 50, 0.9)

    def copy(sizes):
        source, target = (torch.ones(sizes["bytes"], dtype=torch.uint8) for _ in range(2))
        return lambda: target.copy_(source)

    def prepare(work):
        sizes, dtype = work["sizes"], {"f32": torch.float32, "bf16": torch.bfloat16, "u8": torch.uint8}[work["dtype"]]
        return {
            "attention forward": lambda: attention(sizes, dtype, False),
            "attention forward + backward": lambda: attention(sizes, dtype, True),
            "attention decode": lambda: decode(sizes, dtype),
            "matmul": lambda: matmul(sizes, dtype),
            "layer norm forward + backward": lambda: layer_norm(sizes),
            "rope": lambda: rope(sizes),
            "AdamW": lambda: adamw(sizes),
            "softmax forward + backward": lambda: softmax(sizes),
            "linear cross-entropy": lambda: linear_cross_entropy(sizes),
            "sampling": lambda: sampling(sizes),
            "copy": lambda: copy(sizes),
            "training step": lambda: step_of_gpt2(sizes, "cpu", dtype),
        }[work["operation"]]()

    run = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "run" in asked:
            start = time.perf_counter_ns()
            for _ in range(asked["run"]):
                run()
            answer = {"nanoseconds": time.perf_counter_ns() - start}
        elif "peak" in asked:
            answer = {"bytes": peak_of_this_process()}
        elif "version" in asked:
            answer = {"version": torch.__version__}
        else:
            run, answer = prepare(asked), {}
        print(json.dumps(answer), flush=True)


def peak_of_this_process():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def in_turns(sides, work, rounds):
    """Of each side nanoseconds per call, round by round, and its peak memory."""
    before = [side.peak() for side in sides]
    counts = []
    for side in sides:
        side.ask(work)
        each = side.run(1)
        # The first call makes what the others find; of what takes seconds, it is a part too small to matter.
        each = side.run(1) if each < ROUND_NANOSECONDS else each
        counts.append(max(1, int(ROUND_NANOSECONDS / each)))
    samples, start = [], time.monotonic()
    while len(samples) < rounds and (len(samples) < FEWEST_ROUNDS or time.monotonic() - start < MOST_SECONDS):
        samples.append([side.run(count) / count for side, count in zip(sides, counts)])
    # That of anything smaller is that of drawing its inputs.
    peaks = [side.peak() - peak if work["unit"] == "token" else None for side, peak in zip(sides, before)]
    return list(zip(*samples)), peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longhand", help="the program longhand-turns")
    parser.add_argument("--out")
    parser.add_argument("--only", default="", help="a part of the operations' names")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no other work is begun")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.threads)

    deadline = time.monotonic() + arguments.seconds
    ours = [arguments.longhand]
    theirs = [sys.executable, os.path.abspath(__file__), "--serve", "--threads", str(arguments.threads)]
    with Side(theirs, arguments.threads) as side:
        versions = {"PyTorch": side.ask({"version": True})["version"]}
    result = {"part": "turns", "date": "", "seconds": 0.0, "machine": {"cpu": "", "cores": 0, "memory": 0, "gpu": None}}
    result |= {"versions": versions, "rows": [], "checks": [], "missing": [], "failure": None}

    def write():
        if arguments.out:
            with open(arguments.out, "w") as file:
                json.dump(result, file)

    print("| work | size | type | Longhand | PyTorch | takes | peak memory | PyTorch's | share |\n|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for work in (work for work in WORKS if arguments.only in work["operation"]):
        name = [work["operation"], f"{work['axis']} {work['sizes'][work['axis']]}", work["dtype"]]
        if time.monotonic() > deadline:
            result["missing"].append({"what": "in turns: " + " ".join(name), "why": "out of time"})
            continue
        with Side(ours, arguments.threads) as mine, Side(theirs, arguments.threads) as other:
            samples, peaks = in_turns((mine, other), work, arguments.rounds)
        for implementation, times, peak in zip(("longhand", "PyTorch"), samples, peaks):
            result["rows"].append({**work, "device": "cpu", "implementation": implementation, "peak_bytes": peak, "samples": times})
        ratio = statistics.median(b / a for a, b in zip(*samples))
        cells = name + [f"{statistics.median(times) / 1e6:.1f} ms" for times in samples] + [f"{ratio:.2f}x"]
        cells += [f"{peak / 1e6:.0f} MB" for peak in peaks] + [f"{peaks[0] / peaks[1]:.2f}"] if all(peaks) else [""] * 3
        print("| " + " | ".join(cells) + " |", flush=True)
        write()
    write()


if __name__ == "__main__":
    main()
