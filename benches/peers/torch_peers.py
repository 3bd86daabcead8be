"""PyTorch beside Longhand, on the same machine: the same work, timed the same way, and the same results.

  torch_peers.py --rows attention.json --out peers.json --seconds 60    what was timed of ours, timed of PyTorch's
  torch_peers.py --check exchange.safetensors --out peers.json          our outputs against PyTorch's in float64

The work is read from the rows of a result file, so that shapes cannot differ. A row is timed by CUDA events (on the CPU
by its clock) after a warm-up, with inputs that rotate past the cache, never zeros; ten samples. What is not compiled comes
first, for it takes seconds where compiling takes minutes. What cannot run is listed as missing, with the reason. The output
has the form that `benches/format` describes.
"""

import argparse
import json
import time
import traceback

import torch
import torch._functorch.config

from check import check
from operations import OPERATIONS

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "u8": torch.uint8}
DTYPES |= {"int8": torch.int8, "e4m3": torch.float8_e4m3fn}


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
