"""Writes a GPT-2 folder with random weights, in the Hub's own layout, for tests and benches.

The tokenizer is a byte-level BPE trained on a few lines, so every byte has a token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import ByteLevelBPETokenizer

END = "<|endoftext|>"
LINES = (
    "Once upon a time there was a fox who kept a key under the door.",
    "The key was small, the door was old, and nobody knew where it led.",
    "It was raining. The fox said: open the door, and let the story in.",
)


def write_model(
    path: Path,
    *,
    layers: int = 2,
    width: int = 32,
    heads: int = 4,
    context: int = 64,
    vocabulary: int | None = None,
    dtype: Any = np.float32,
    prefix: str = "",
    seed: int = 0,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write the folder and return its path; the vocabulary is the tokenizer's if not given."""
    path.mkdir(parents=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    vocabulary = vocabulary or tokenizer.get_vocab_size()
    (path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "gpt2",
                "architectures": ["GPT2LMHeadModel"],
                "vocab_size": vocabulary,
                "n_positions": context,
                "n_ctx": context,
                "n_embd": width,
                "n_layer": layers,
                "n_head": heads,
                "activation_function": "gelu_new",
                "layer_norm_epsilon": 1e-5,
                "eos_token_id": tokenizer.token_to_id(END),
                **(config or {}),
            }
        )
    )
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    tensors = random_tensors(layers, width, context, vocabulary, seed) | (extra or {})
    save_file(
        {
            prefix + name: np.ascontiguousarray(value.astype(dtype))
            for name, value in tensors.items()
        },
        path / "model.safetensors",
    )
    return path


def train_tokenizer() -> ByteLevelBPETokenizer:
    """A tokenizer of about 300 tokens: an end marker, every byte, and some words."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(LINES, vocab_size=400, special_tokens=[END], show_progress=False)
    return tokenizer


def random_tensors(
    layers: int, width: int, context: int, vocabulary: int, seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Weights large enough that the logits differ, as fp32 by their Hub names."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.2, mean: float = 0.0) -> np.ndarray[Any, Any]:
        drawn = random.standard_normal(shape, np.float32)
        drawn *= scale
        drawn += mean
        return drawn

    tensors = {"wte.weight": normal(vocabulary, width), "wpe.weight": normal(context, width)}
    for layer in range(layers):
        for norm in ("ln_1", "ln_2"):
            tensors[f"h.{layer}.{norm}.weight"] = normal(width, mean=1.0)
            tensors[f"h.{layer}.{norm}.bias"] = normal(width)
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            tensors[f"h.{layer}.{name}.weight"] = normal(inputs, outputs, scale=inputs**-0.5)
            tensors[f"h.{layer}.{name}.bias"] = normal(outputs)
    tensors["ln_f.weight"] = normal(width, mean=1.0)
    tensors["ln_f.bias"] = normal(width)
    return tensors
