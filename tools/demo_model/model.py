"""Define GPT-2's architecture for training, and its weights under the Hub's names.

It does not generate text: evaluate.py does, from the exported files. The reference is OpenAI's
GPT-2 as in https://huggingface.co/openai-community/gpt2 (November 2026): layer norm before each
part, tanh GELU, tied head, and Conv1D weights stored as (in, out).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes of the model."""

    vocabulary: int = 2048
    layers: int = 6
    width: int = 160
    heads: int = 5
    context: int = 512


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.ln_1 = nn.LayerNorm(shape.width)
        self.c_attn = nn.Linear(shape.width, 3 * shape.width)
        self.attn_proj = nn.Linear(shape.width, shape.width)
        self.ln_2 = nn.LayerNorm(shape.width)
        self.c_fc = nn.Linear(shape.width, 4 * shape.width)
        self.mlp_proj = nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape; `mask` is True where a row may look."""
        batch, time, width = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(batch, time, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn_proj(attended.transpose(1, 2).reshape(batch, time, width))
        hidden = functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        return x + self.mlp_proj(hidden)


class StoryModel(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith("proj.weight")
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the final hidden states of (batch, time) token ids."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        hidden: Tensor = self.ln_f(x)
        return hidden

    def loss(self, tokens: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss in nats over the targets that are not -100."""
        hidden = self(tokens, mask)
        kept = targets != -100
        logits = hidden[kept] @ self.wte.weight.T
        return functional.cross_entropy(logits.float(), targets[kept])


_HUB_NAMES = {
    "ln_1": "ln_1",
    "c_attn": "attn.c_attn",
    "attn_proj": "attn.c_proj",
    "ln_2": "ln_2",
    "c_fc": "mlp.c_fc",
    "mlp_proj": "mlp.c_proj",
}


def _hub_name(key: str) -> tuple[str, bool]:
    """Return the Hub's name of a parameter, and whether it is stored transposed."""
    if not key.startswith("blocks."):
        return key, False
    _, number, part, leaf = key.split(".")
    is_transposed = leaf == "weight" and not part.startswith("ln")
    return f"h.{number}.{_HUB_NAMES[part]}.{leaf}", is_transposed


def hub_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and transpose a state dict into fp16 tensors as the Hub's GPT-2 has them."""
    weights = {}
    for key, value in state.items():
        name, is_transposed = _hub_name(key)
        stored = value.T if is_transposed else value
        weights[name] = stored.detach().to(torch.float16).contiguous()
    return weights


def load_hub_weights(model: StoryModel, weights: dict[str, Tensor]) -> None:
    """Set the parameters from tensors that `hub_weights` made."""
    state = {}
    for key in model.state_dict():
        name, is_transposed = _hub_name(key)
        state[key] = weights[name].T.float() if is_transposed else weights[name].float()
    model.load_state_dict(state)
