"""Our outputs against PyTorch's in float64."""

import torch
import torch.nn.functional as F

from timing import number_after


def reference_attention(variant, t):
    """By the formula, with the T x S matrix. The queries are the last of the tokens."""
    q, k, v = (t[x].transpose(1, 2) for x in "qkv")
    batch, heads, tokens, dim = q.shape
    keys = k.shape[2]
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / dim**0.5
    position = torch.arange(keys)
    distance = position[keys - tokens :, None] - position[None, :]
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
    return (torch.softmax(scores, -1)[..., :keys] @ v).transpose(1, 2)


def turned(x, positions, frequencies):
    """(B, T, H, D), of which elements i and i + D / 2 are a pair."""
    angles = (positions[:, None] * frequencies)[:, None, :]
    pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), -1)


def reference(name, t):
    """The output of an operation of the exchange in float64."""
    operation = name.split("/")[0]
    if operation == "attention":
        return reference_attention(name.split("/")[1], t)
    if operation == "attention_decode":
        positions = torch.arange(t["k"].shape[1])
        q = turned(t["q"], positions[-t["q"].shape[1] :], t["frequencies"])
        return reference_attention("causal", {"q": q, "k": turned(t["k"], positions, t["frequencies"]), "v": t["v"]})
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
        return torch.cat([turned(x, t["positions"], t["frequencies"]) for x in (t["q"], t["k"])], 2)
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
