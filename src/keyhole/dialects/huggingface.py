"""The hosted Inference API's format: {"inputs": ..., "parameters": ...}, answered with a list.

It normalises nothing: what the client named goes on under the same name, and the answer is
kept as it came. The texts are read beside that, where they stand where they usually do.

Facts (hub-docs 99e4e05a of 2022, huggingface.js recordings to April 2025):
- one prompt is answered with [{"generated_text": PROMPT + TEXT}], one object for each of
  num_return_sequences; a list of prompts with a list of such lists, or (so the documentation
  says, and nobody has seen it lately) with one object for each prompt;
- models that answer a prompt instead of continuing it leave the prompt out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keyhole.dialects.base import decode_upstream_json
from keyhole.wire.call import Call, Parameters

Texts = tuple[tuple[str, ...], ...]


def encode_request(inputs: str | list[Any], parameters: Parameters) -> bytes:
    """The body of `POST /models/{model}`; without parameters it is the original script's own."""
    body: dict[str, Any] = {"inputs": inputs}
    if parameters != Parameters():
        body["parameters"] = parameters
    return msgspec.json.encode(body)


def decode_response(body: bytes, call: Call) -> Texts:
    """The texts without their prompts, for each prompt; raises NotThisFormatError if not JSON.

    Empty where the JSON is valid but no list of generated texts.
    """
    value = decode_upstream_json(body, Any)
    prompts = call.input if isinstance(call.input, list) else [call.input]
    rows = _rows(value, is_batch=isinstance(call.input, list))
    if rows is None or len(rows) != len(prompts):
        return ()
    is_whole = call.parameters.return_full_text is not False
    return tuple(
        tuple(_continuation(text, prompt) if is_whole else text for text in row)
        for row, prompt in zip(rows, prompts, strict=True)
    )


def _rows(value: object, *, is_batch: bool) -> list[list[str]] | None:
    """The generated texts for each prompt; None where they are not in their usual place."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    groups = [item if isinstance(item, list) else [item] for item in value] if is_batch else [value]
    rows = []
    for group in groups:
        texts = [item.get("generated_text") for item in group if isinstance(item, dict)]
        row = [text for text in texts if isinstance(text, str)]
        if len(row) != len(group):
            return None
        rows.append(row)
    return rows


def _continuation(text: str, prompt: object) -> str:
    return text.removeprefix(prompt) if isinstance(prompt, str) else text
