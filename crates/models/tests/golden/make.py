"""Makes the tiny GPT-2 that the tests load, and what transformers computes with it.

    python make.py          (needs torch and transformers; the versions used are in expected.safetensors)

tiny/                   what GPT2LMHeadModel.save_pretrained writes: config.json and model.safetensors
expected.safetensors    ids, targets, logits, loss and gradients, and the logits of a few config variants

Every parameter is random, biases and norms too, so that one put in the wrong place shows.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
IGNORED = -100  # what torch skips in the loss
GRADIENTS = [
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.h.0.ln_1.weight",
    "transformer.h.0.attn.c_attn.weight",
    "transformer.h.0.attn.c_attn.bias",
    "transformer.h.1.attn.c_proj.weight",
    "transformer.h.1.ln_2.bias",
    "transformer.h.1.mlp.c_fc.weight",
    "transformer.h.0.mlp.c_proj.bias",
    "transformer.ln_f.weight",
]
VARIANTS = {
    "gelu": {"activation_function": "gelu"},
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "upcast": {"reorder_and_upcast_attn": True},
    "untied": {"tie_word_embeddings": False},
}

torch.manual_seed(20)
base = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 80,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def build(**changes):
    return GPT2LMHeadModel._from_config(GPT2Config(**base, **changes), attn_implementation="eager").eval()


model = build()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
        parameter.normal_(centre, 0.2)
head = torch.randn(base["vocab_size"], base["n_embd"]) * 0.2
model.save_pretrained(HERE / "tiny")
(HERE / "tiny" / "generation_config.json").unlink(missing_ok=True)

ids = torch.randint(base["vocab_size"], (2, 17))
targets = torch.randint(base["vocab_size"], (2, 17))
targets[0, 3] = targets[1, 16] = IGNORED

logits = model(ids).logits
loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
loss.backward()
gradients = dict(model.named_parameters())

prompt = ids[:1, :3]
greedy = model.generate(
    prompt,
    attention_mask=torch.ones_like(prompt),  # or else it guesses one from padding tokens
    max_new_tokens=12,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=None,
)

expected = {
    "ids": ids.int(),
    "targets": targets.int(),
    "logits": logits.detach(),
    "loss": loss.detach().reshape(1),
    "greedy": greedy.int(),
    "lm_head": head,
}
expected |= {f"gradient.{name}": gradients[name].grad for name in GRADIENTS}

state = model.state_dict()
for name, changes in VARIANTS.items():
    variant = build(**changes)
    variant.load_state_dict(state | ({"lm_head.weight": head} if name == "untied" else {}))
    expected[f"logits.{name}"] = variant(ids).logits.detach()
    change = (expected[f"logits.{name}"] - logits).abs().max().item()
    print(f"{name}: logits move by {change:.1e}")
    assert change > 1e-3 or name == "upcast"  # the tests' tolerance is 1e-4

save_file(
    {name: tensor.contiguous() for name, tensor in expected.items()},
    HERE / "expected.safetensors",
    {"torch": torch.__version__, "transformers": transformers.__version__},
)
