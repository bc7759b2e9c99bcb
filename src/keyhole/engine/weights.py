"""A GPT-2's weights out of model.safetensors, as arrays over the mapped file.

It copies nothing that is already fp32: the pages stay the file's own, shared and evictable.
The safetensors library reads tensors into memory of their own, which for GPT-2 would be half a
gigabyte, so the few lines that find them in the file are here.

Facts:
- The format is eight bytes of little-endian header length, a JSON header of
  {name: {dtype, shape, data_offsets}}, and the data (huggingface/safetensors README, 2026-11).
- Files on the Hub name tensors `h.0...`; `save_pretrained` writes `transformer.h.0...`.
- GPT-2's Conv1D stores weights as (in, out), the transpose of a Linear.
- Old files carry mask buffers `h.N.attn.bias`, which are not the biases of `attn.c_attn`.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from keyhole.engine.folder import WEIGHTS, Architecture, ModelFolder, UnsupportedModelError

Floats: TypeAlias = npt.NDArray[np.float32]

PREFIX = "transformer."
LONGEST_HEADER_BYTES = 100_000_000
"""The bound that the safetensors library itself sets."""
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalisation: both of shape (width,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection: `weight` of shape (in, out), `bias` of shape (out,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer layer."""

    norm_1: Norm
    qkv: Linear
    attention_out: Linear
    norm_2: Norm
    mlp_in: Linear
    mlp_out: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a GPT-2."""

    tokens: Floats
    """(vocabulary, width)"""
    positions: Floats
    """(context, width)"""
    blocks: tuple[Block, ...]
    norm: Norm
    head: Floats
    """(vocabulary, width); the token embedding itself unless the model has its own."""


def load_weights(folder: ModelFolder) -> Weights:
    """Map the folder's weights; raises UnsupportedModelError naming the tensor at fault."""
    tensors = _Tensors(folder.name, folder.path / WEIGHTS)
    shape = folder.architecture
    tokens = tensors.take("wte.weight", shape.vocabulary, shape.width)
    return Weights(
        tokens=tokens,
        positions=tensors.take("wpe.weight", shape.context, shape.width),
        blocks=tuple(_block(tensors, f"h.{index}", shape) for index in range(shape.layers)),
        norm=_norm(tensors, "ln_f", shape.width),
        head=tensors.take("lm_head.weight", shape.vocabulary, shape.width)
        if shape.has_own_head
        else tokens,
    )


def _block(tensors: _Tensors, at: str, shape: Architecture) -> Block:
    width, inner = shape.width, shape.inner_width
    return Block(
        norm_1=_norm(tensors, f"{at}.ln_1", width),
        qkv=_linear(tensors, f"{at}.attn.c_attn", width, 3 * width),
        attention_out=_linear(tensors, f"{at}.attn.c_proj", width, width),
        norm_2=_norm(tensors, f"{at}.ln_2", width),
        mlp_in=_linear(tensors, f"{at}.mlp.c_fc", width, inner),
        mlp_out=_linear(tensors, f"{at}.mlp.c_proj", inner, width),
    )


def _norm(tensors: _Tensors, at: str, width: int) -> Norm:
    return Norm(tensors.take(f"{at}.weight", width), tensors.take(f"{at}.bias", width))


def _linear(tensors: _Tensors, at: str, inputs: int, outputs: int) -> Linear:
    return Linear(
        tensors.take(f"{at}.weight", inputs, outputs), tensors.take(f"{at}.bias", outputs)
    )


class _Entry(Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Tensors:
    """The tensors of one file by their Hub names."""

    def __init__(self, model: str, path: Path) -> None:
        self._model = model
        with path.open("rb") as file:
            size = path.stat().st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > min(LONGEST_HEADER_BYTES, size - 8):
                raise self._unsupported("is not a safetensors file, or was cut short")
            try:
                header = msgspec.json.decode(file.read(header_bytes), type=dict[str, msgspec.Raw])
                self._entries = {
                    name.removeprefix(PREFIX): msgspec.json.decode(raw, type=_Entry)
                    for name, raw in header.items()
                    if name != "__metadata__"
                }
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._unsupported(f"has a header that cannot be read: {error}") from None
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = memoryview(pages)[8 + header_bytes :]

    def take(self, name: str, *shape: int) -> Floats:
        """The tensor as fp32: a view of the file when it is stored so, else a conversion."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._unsupported(f"has no tensor {name}")
        if entry.dtype not in DTYPES:
            raise self._unsupported(f"stores {name} as {entry.dtype}")
        if tuple(entry.shape) != shape:
            raise self._unsupported(
                f"has {name} of shape {entry.shape}, where config.json says {list(shape)}"
            )
        begin, end = entry.data_offsets
        dtype = np.dtype(DTYPES[entry.dtype])
        if not 0 <= begin <= end <= len(self._data) or (
            end - begin != math.prod(shape) * dtype.itemsize
        ):
            raise self._unsupported(f"ends before {name} does, or has a wrong place for it")
        stored = np.frombuffer(self._data[begin:end], dtype).reshape(shape)
        if entry.dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False)

    def _unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"Model {self._model}: {WEIGHTS} {what}.",
            hint=f"Run keyhole model pull {self._model} again.",
        )
