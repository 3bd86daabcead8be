"""Checks that a folder trained by Longhand is an ordinary Hugging Face model: transformers loads it with nothing
missing or unexpected, tokenizes as Longhand does, and computes the same logits to 1e-4.

    cargo run --release -- train --out runs/check
    python crates/train/tests/check_logits.py runs/check

Needs torch and transformers (ran with torch 2.15.0, transformers 5.23.0).
"""

import json
import subprocess
import sys

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

TEXTS = [
    "fn main() {\n    println!(\"Hello, world\");\n}\n",
    "/// The gradient of the loss by the weights, (N, W), row-major. Grüße, 世界 \U0001f980\r\n",
    "One block per row. The row stays in registers between the two passes over it, so each input is read once.",
]


def longhand(folder, text):
    command = ["cargo", "run", "--release", "--quiet", "-p", "longhand-train", "--example", "logits", "--", folder, text]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(folder):
    model, loading = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[kind], f"{kind}: {loading[kind]}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens, {type(tokenizer).__name__}")
    worst = 0.0
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        found = longhand(folder, text)
        assert found["ids"] == ids, f"tokens differ: {found['ids']} and {ids}"
        assert tokenizer.decode(ids) == text, "the text does not come back from its tokens"
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0]
        actual = torch.tensor(found["logits"]).reshape(expected.shape)
        difference = (actual - expected).abs().max().item()
        print(f"{len(ids):4} tokens: logits from {expected.min():.2f} to {expected.max():.2f}, differ by {difference:.1e}")
        worst = max(worst, difference)
    assert worst < 1e-4, f"logits differ by {worst}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
