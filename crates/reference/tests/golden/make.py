"""Computes golden.safetensors beside this file: what PyTorch says, in float64, of every operation of the oracle.

    python make.py          (needs torch and safetensors; the torch version is kept in the file's metadata)
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20240229)
torch.set_default_dtype(torch.float64)
golden = {}


def keep(operation, **tensors):
    for name, tensor in tensors.items():
        golden[f"{operation}.{name}"] = tensor.detach().clone().contiguous()


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def attention(name, T, S, mask):
    q, k, v, dout = leaf(2, T, 4, 8), leaf(2, S, 2, 8), leaf(2, S, 2, 8), torch.randn(2, T, 4, 8)
    scale = 0.3
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)
    out.backward(dout)
    keys = heads_first[1].repeat_interleave(2, dim=1)
    scores = (scale * heads_first[0] @ keys.transpose(2, 3)).masked_fill(~mask, -torch.inf)
    keep(name, q=q, k=k, v=v, dout=dout, out=out, lse=scores.logsumexp(-1), dq=q.grad, dk=k.grad, dv=v.grad)


def layer_norm():
    x, residual, weight, bias = leaf(3, 7), leaf(3, 7), leaf(7), leaf(7)
    dout, dsum = torch.randn(3, 7), torch.randn(3, 7)
    total = x + residual
    out, mean, rstd = torch.native_layer_norm(total, (7,), weight, bias, 1e-5)
    torch.autograd.backward([out, total], [dout, dsum])
    keep("layer_norm", x=x, residual=residual, weight=weight, bias=bias, dout=dout, dsum=dsum, sum=total, out=out)
    keep("layer_norm", mean=mean, rstd=rstd, dx=x.grad, dweight=weight.grad, dbias=bias.grad)
    assert torch.equal(x.grad, residual.grad)


def adamw():
    param, grads = leaf(11), torch.randn(5, 11)
    keep("adamw", before=param, grads=grads)
    optimizer = torch.optim.AdamW([param], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
    for grad in grads:
        param.grad = grad
        optimizer.step()
    state = optimizer.state[param]
    keep("adamw", after=param, m=state["exp_avg"], v=state["exp_avg_sq"])


def cross_entropy():
    logits, targets = leaf(6, 9), torch.tensor([0, 8, -100, 3, 3, -100])
    loss = F.cross_entropy(logits, targets, ignore_index=-100)
    loss.backward(torch.tensor(0.7))
    keep("cross_entropy", logits=logits, loss=loss, dlogits=logits.grad)


def gelu():
    for approximate in ("tanh", "none"):
        x = torch.linspace(-9, 9, 73).requires_grad_()
        dout = torch.randn(73)
        out = F.gelu(x, approximate=approximate)
        out.backward(dout)
        keep({"tanh": "gelu_tanh", "none": "gelu_erf"}[approximate], x=x, dout=dout, out=out, dx=x.grad)
    x = torch.linspace(-7, 7, 113)
    keep("erf", x=x, erf=torch.erf(x), erfc=torch.erfc(x))


def linear():
    x, weight, bias, dy = leaf(4, 3), leaf(3, 5), leaf(5), torch.randn(4, 5)
    y = F.linear(x, weight.T, bias)
    y.backward(dy)
    keep("linear", x=x, weight=weight, bias=bias, dy=dy, y=y, dx=x.grad, dweight=weight.grad, dbias=bias.grad)


def embedding():
    weight, ids, dout = leaf(5, 3), torch.tensor([4, 0, 4, 2]), torch.randn(4, 3)
    out = F.embedding(ids, weight)
    out.backward(dout)
    keep("embedding", weight=weight, dout=dout, out=out, dweight=weight.grad)


def causal(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril(S - T)


attention("attention_causal", 5, 7, causal(5, 7))
attention("attention_more_queries", 6, 4, causal(6, 4))  # the first two see no key
attention("attention_full", 3, 6, torch.ones(3, 6, dtype=torch.bool))
layer_norm()
adamw()
cross_entropy()
gelu()
linear()
embedding()

path = Path(__file__).with_name("golden.safetensors")
save_file(golden, path, metadata={"made_by": "make.py", "torch": torch.__version__})
print(f"{path}: {len(golden)} tensors, {path.stat().st_size} bytes, torch {torch.__version__}")
