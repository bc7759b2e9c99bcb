"""What one model folder says about itself, read from its small files.

It opens no weights and needs no numpy, so that listing models is cheap.

Facts (openai-community/gpt2 on the Hub, 2026-11):
- config.json names the shape (`n_embd`, `n_layer`, ...) and, for this model,
  `task_specific_params["text-generation"]` = {"do_sample": true, "max_length": 50}. The hosted
  Inference API honoured it, and transformers added its own default top_k of 50 to it.
- generation_config.json is newer, may be missing, and outranks config.json.
- A folder pulled by huggingface_hub links to `snapshots/COMMIT`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from keyhole.errors import SetupError

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
GENERATION = "generation_config.json"
PIPELINE_TOP_K = 50
FRACTIONS = ("top_p", "typical_p")
COMMIT = re.compile(r"[0-9a-f]{40}")


class UnsupportedModelError(SetupError):
    """The folder is there, but the engine cannot run what is in it."""


class Architecture(Struct, frozen=True, kw_only=True):
    """The shape of a GPT-2."""

    vocabulary: int
    context: int
    """The most tokens that a sequence can have."""
    width: int
    layers: int
    heads: int
    inner_width: int
    epsilon: float
    has_own_head: bool
    """Whether the last projection has weights of its own, not those of the embedding."""

    @property
    def head_width(self) -> int:
        """The numbers that one attention head works on."""
        return self.width // self.heads


class Defaults(Struct, frozen=True, kw_only=True):
    """What the model's authors want where a request says nothing; None leaves it to TGI."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None
    """Prompt and generated tokens together."""


class ModelFolder(Struct, frozen=True, kw_only=True):
    """One model that the engine can run."""

    name: str
    path: Path
    architecture: Architecture
    defaults: Defaults
    eos_token_ids: frozenset[int]
    commit: str | None
    """The Hub's commit, where the path tells it."""


class _Config(Struct, kw_only=True):
    model_type: str = "missing"
    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    quantization_config: Any = None
    eos_token_id: int | list[int] | None = None
    task_specific_params: dict[str, dict[str, Any]] | None = None


class _Generation(Defaults, frozen=True, kw_only=True):
    eos_token_id: int | list[int] | None = None


_File = TypeVar("_File", _Config, _Generation)


def read_folder(name: str, path: Path) -> ModelFolder:
    """What the folder at `path` holds; raises UnsupportedModelError naming what is wrong."""
    for needed in (CONFIG, WEIGHTS, TOKENIZER):
        if not (path / needed).is_file():
            raise UnsupportedModelError(
                f"Model {name} has no {needed}.",
                hint=f"pull the model again, or put the file into {path}",
            )
    config = _read(name, path / CONFIG, _Config)
    generation = _Generation()
    if (path / GENERATION).is_file():
        generation = _read(name, path / GENERATION, _Generation)
    resolved = path.resolve().name
    return ModelFolder(
        name=name,
        path=path,
        architecture=_architecture(name, config),
        defaults=_defaults(name, config, generation),
        eos_token_ids=_ids(generation.eos_token_id) or _ids(config.eos_token_id),
        commit=resolved if COMMIT.fullmatch(resolved) else None,
    )


def read_architecture(name: str, path: Path) -> Architecture:
    """The shape that the folder's config.json tells; raises UnsupportedModelError."""
    return _architecture(name, _read(name, path / CONFIG, _Config))


def _read(name: str, file: Path, kind: type[_File]) -> _File:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModelError(
            f"Model {name} has a {file.name} that cannot be read: {error}.",
            hint=f"Run keyhole model pull {name} again.",
        ) from None


def _architecture(name: str, config: _Config) -> Architecture:
    if config.model_type != "gpt2":
        raise UnsupportedModelError(
            f"Model {name} is of type {config.model_type}; the engine runs gpt2 only.",
            hint="Serve it with TGI or vLLM and name that as an upstream.",
        )
    not_plain = (
        (
            config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"),
            f"activation_function {config.activation_function}",
        ),
        (not config.scale_attn_weights, "scale_attn_weights false"),
        (config.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx true"),
        (config.add_cross_attention, "add_cross_attention true"),
        (config.quantization_config is not None, "quantization_config"),
        (
            min(config.vocab_size, config.n_positions, config.n_embd, config.n_head) < 1
            or config.n_layer < 0
            or config.n_embd % max(config.n_head, 1) != 0,
            "a shape that is no GPT-2",
        ),
    )
    for is_so, what in not_plain:
        if is_so:
            raise UnsupportedModelError(
                f"Model {name} has {what} in its {CONFIG}, which the engine does not know.",
                hint="Serve it with TGI or vLLM and name that as an upstream.",
            )
    return Architecture(
        vocabulary=config.vocab_size,
        context=config.n_positions,
        width=config.n_embd,
        layers=config.n_layer,
        heads=config.n_head,
        inner_width=config.n_inner or 4 * config.n_embd,
        epsilon=config.layer_norm_epsilon,
        has_own_head=not config.tie_word_embeddings,
    )


def _defaults(name: str, config: _Config, generation: _Generation) -> Defaults:
    fields = Defaults.__struct_fields__
    task = (config.task_specific_params or {}).get("text-generation")
    wanted: dict[str, Any] = {} if task is None else {"top_k": PIPELINE_TOP_K} | task
    wanted |= {field: said for field in fields if (said := getattr(generation, field)) is not None}
    try:
        defaults = msgspec.convert({field: wanted.get(field) for field in fields}, Defaults)
    except msgspec.ValidationError as error:
        raise UnsupportedModelError(
            f"Model {name} has defaults that cannot be used: {error}.",
            hint=f"Correct {GENERATION} or {CONFIG}.",
        ) from None
    off = [field for field in fields if _is_off(field, getattr(defaults, field))]
    return msgspec.structs.replace(defaults, **dict.fromkeys(off, None))


def _is_off(field: str, value: float | None) -> bool:
    """Whether transformers takes it for no wish at all, as a top_k of 0 or a top_p of 1."""
    return value is not None and (value <= 0 or (field in FRACTIONS and value >= 1))


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
