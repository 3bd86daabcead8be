"""Longhand and PyTorch on one CPU, in turns: A B A B, so that what else the machine does slows both alike.

  cargo build --release -p longhand-benches --bin longhand-turns
  turns.py --longhand target/release/longhand-turns --out turns.json [--only attention] [--rounds 7] [--threads 2]

Prints a table of medians, and of ratios: PyTorch's time over Longhand's, the median over the rounds of what was measured one
right after the other; above 1, Longhand is faster. Peak memory is that of a process of its own for each, beyond what it had
before the model was made.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ATTENTION = [{"work": work, "tokens": tokens, "dtype": dtype}
             for dtype in ("f32", "bf16")
             for work in ("attention forward", "attention forward + backward")
             for tokens in (1024, 4096, 8192)]
MATMUL = [{"work": "matmul", "tokens": 2048, "dtype": dtype} for dtype in ("f32", "bf16")]
STEP = [{"work": "training step", "tokens": tokens, "dtype": "f32"} for tokens in (512, 1024, 2048)]
WORKS = MATMUL + ATTENTION + STEP


class Ours:
    """The program at `path`, which does as it is told, line by line."""

    def __init__(self, path, threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"longhand-turns ended at {what}")
        return json.loads(line)

    def prepare(self, work):
        self.ask(work)

    def run(self, times):
        return self.ask({"run": times})["nanoseconds"]

    def peak(self):
        return self.ask({"peak": True})["bytes"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Theirs:
    """PyTorch, in a process of its own."""

    def __init__(self, threads):
        command = [sys.executable, os.path.abspath(__file__), "--serve", "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    ask, prepare, run, peak, close = Ours.ask, Ours.prepare, Ours.run, Ours.peak, Ours.close


def serve(threads):
    import torch
    import torch.nn.functional as F

    from operations.training_step import Gpt2

    torch.set_num_threads(threads)

    def attention(work, dtype, backward):
        torch.manual_seed(1)
        draw = lambda: torch.randn(1, work["tokens"], 12, 64).to(dtype)
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

    def matmul(work, dtype):
        a, b = torch.randn(work["tokens"], 768).to(dtype), torch.randn(768, 3072).to(dtype)
        return lambda: a @ b

    def step(work, dtype):
        torch.manual_seed(1)
        tokens = work["tokens"]
        model = Gpt2(50257, tokens, 768, 12, 12).to(dtype)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ids = torch.randint(50257, (1, tokens + 1))

        def run():
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss.item()
        return run

    def prepare(work):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[work["dtype"]]
        kind = work["work"]
        if kind.startswith("attention"):
            return attention(work, dtype, kind.endswith("backward"))
        return {"matmul": matmul, "training step": step}[kind](work, dtype)

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
        else:
            run = None
            run, answer = prepare(asked), {}
        print(json.dumps(answer), flush=True)


def peak_of_this_process():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def in_turns(ours, theirs, work, rounds):
    """Nanoseconds per call of each, round by round."""
    for side in (ours, theirs):
        side.prepare(work)
    counts = []
    for side in (ours, theirs):
        side.run(1)
        counts.append(max(1, int(0.3e9 / side.run(1))))
    return [[side.run(count) / count for side, count in zip((ours, theirs), counts)] for _ in range(rounds)]


def memory(start, work):
    """Peak bytes of two steps in a new process, beyond what it has before."""
    side = start()
    before = side.peak()
    side.prepare(work)
    side.run(2)
    peak = side.peak() - before
    side.close()
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longhand")
    parser.add_argument("--out")
    parser.add_argument("--only", default="", help="a part of the works' names")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.threads)

    ours, theirs = Ours(arguments.longhand, arguments.threads), Theirs(arguments.threads)
    found = []
    print("| work | T | type | Longhand | PyTorch | takes | peak memory | PyTorch's | share |\n|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for work in (work for work in WORKS if arguments.only in work["work"]):
        rounds = in_turns(ours, theirs, work, arguments.rounds)
        mine, other = (statistics.median(round[side] for round in rounds) for side in (0, 1))
        ratio = statistics.median(round[1] / round[0] for round in rounds)
        row = {**work, "rounds": rounds, "ratio": ratio}
        cells = [work["work"], work["tokens"], work["dtype"], f"{mine / 1e6:.1f} ms", f"{other / 1e6:.1f} ms", f"{ratio:.2f}x"]
        if work["work"] == "training step":
            peaks = [memory(lambda: Ours(arguments.longhand, arguments.threads), work),
                     memory(lambda: Theirs(arguments.threads), work)]
            row["peak_bytes"] = peaks
            cells += [f"{peaks[0] / 1e6:.0f} MB", f"{peaks[1] / 1e6:.0f} MB", f"{peaks[0] / peaks[1]:.2f}"]
        else:
            cells += ["", "", ""]
        found.append(row)
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        if arguments.out:
            with open(arguments.out, "w") as file:
                json.dump({"threads": arguments.threads, "rows": found}, file, indent=1)
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
