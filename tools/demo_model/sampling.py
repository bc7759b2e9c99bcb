"""Run an exported GPT-2 folder with numpy alone, one sequence at a time; it is not made for speed.

It shares no code with training or with Keyhole's engine, so that it can catch a mistake in either.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = NDArray[np.float32]


def softmax(x: Array) -> Array:
    """Return the softmax over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True)
    return result


class ExportedModel:
    """The files of one folder, ready to score and sample."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text("utf-8"))
        self.sampling = json.loads((folder / "generation_config.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        files = load_file(folder / "model.safetensors")
        self.weights: dict[str, Array] = {k: v.astype(np.float32) for k, v in files.items()}
        self.end: int = self.config["eos_token_id"]

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_epsilon"])
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _attend(self, x: Array, layer: int, cache: list[tuple[Array, Array]]) -> Array:
        heads = self.config["n_head"]
        qkv = self._linear(x, f"h.{layer}.attn.c_attn")
        q, k, v = (part.reshape(len(x), heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, -1))
        if layer < len(cache):
            past_k, past_v = cache[layer]
            k, v = np.concatenate((past_k, k), 1), np.concatenate((past_v, v), 1)
            cache[layer] = (k, v)
        else:
            cache.append((k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1], dtype=np.float32)
        hidden = np.triu(np.ones(scores.shape[1:], dtype=bool), k.shape[1] - len(x) + 1)
        scores = np.where(hidden, np.float32(-1e9), scores)
        return (softmax(scores) @ v).swapaxes(0, 1).reshape(len(x), -1)

    def logits(self, ids: list[int], cache: list[tuple[Array, Array]]) -> Array:
        """Return the logits (time, vocabulary) of `ids`, which follow what `cache` holds."""
        start = cache[0][0].shape[1] if cache else 0
        x = self.weights["wte.weight"][ids] + self.weights["wpe.weight"][start : start + len(ids)]
        for layer in range(self.config["n_layer"]):
            name = f"h.{layer}"
            attended = self._attend(self._norm(x, f"{name}.ln_1"), layer, cache)
            x = x + self._linear(attended, f"{name}.attn.c_proj")
            h = self._linear(self._norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            h = (
                0.5
                * h
                * (1 + np.tanh(np.sqrt(2 / np.pi, dtype=np.float32) * (h + 0.044715 * h**3)))
            )
            x = x + self._linear(h, f"{name}.mlp.c_proj")
        result: Array = self._norm(x, "ln_f") @ self.weights["wte.weight"].T
        return result

    def generate(self, prompt: str, seed: int) -> tuple[str, bool]:
        """Continue `prompt` as generation_config.json says; return the text and if it ended."""
        rng = np.random.default_rng(seed)
        ids = self.tokenizer.encode(prompt).ids or [self.config["bos_token_id"]]
        cache: list[tuple[Array, Array]] = []
        new: list[int] = []
        room = min(self.sampling["max_new_tokens"], self.config["n_positions"] - len(ids))
        for _ in range(room):
            token = self._pick(self.logits(new[-1:] or ids, cache)[-1], rng)
            if token == self.end:
                return self.tokenizer.decode(new), True
            new.append(token)
        return self.tokenizer.decode(new), False

    def _pick(self, logits: Array, rng: np.random.Generator) -> int:
        best = np.argsort(-logits)[: self.sampling["top_k"]]
        chances = softmax(logits[best] / np.float32(self.sampling["temperature"]))
        kept = np.cumsum(chances) - chances < self.sampling["top_p"]
        chances = chances[kept].astype(np.float64)
        return int(rng.choice(best[kept], p=chances / chances.sum()))

    def loss(self, ids: list[int], learned: list[bool]) -> tuple[float, int]:
        """Return the summed loss in nats over the `learned` ids but the first, and how many."""
        chances = softmax(self.logits(ids[:-1], []))
        wanted = np.array(learned[1:])
        picked = chances[np.arange(len(ids) - 1), ids[1:]][wanted]
        return float(-np.log(picked).sum()), int(wanted.sum())
