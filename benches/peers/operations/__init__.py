"""What PyTorch has of each operation.

Each function takes a row's work, its device and its type, and returns {implementation: what times it}.
"""

from .activation import activation
from .adamw import adamw
from .attention import attention
from .cross_entropy import cross_entropy, linear_cross_entropy
from .decode import attention_decode
from .embedding import embedding
from .matmul import copy, matmul
from .norm import norm
from .rope import rope
from .sampling import sampling
from .softmax import softmax
from .training_step import training_step

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
