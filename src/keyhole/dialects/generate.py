"""The original script's format: POST /generate with {"input": ...}, answered with a list.

Its promises are kept to the letter but for the table in docs/from-the-flask-script.md: two
texts that clients match on (`MISSING_INPUT`, `UPSTREAM_FAILED`), 400 for a request without
`input`, 502 for whatever goes wrong upstream, 20 seconds of patience. It does not stream.
"""

from __future__ import annotations

from typing import Any

import msgspec

from keyhole.catalog import is_model_name
from keyhole.dialects.base import decode_json
from keyhole.dialects.hf_parameters import read_parameters
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Stamp
from keyhole.wire.call import Call
from keyhole.wire.http import JSON, Head, Reply

MISSING_INPUT = "Invalid request. 'input' key is required."
VERBATIM = "huggingface"
"""The format of answers that are handed on as they came: the one that the script passed on."""
UPSTREAM_FAILED = "Could not connect to the text generation service."


class GenerateDialect:
    """POST /generate, as clients of the original script speak it."""

    name = "generate"
    paths = frozenset({"/generate"})
    first_byte_timeout_s = 20.0

    def decode(self, head: Head, body: bytes) -> Call:  # noqa: ARG002  # the path says nothing
        """Read `input`, `model` and `parameters`; every other name is ignored, as it was."""
        value = decode_json(body)
        if not isinstance(value, dict) or "input" not in value:
            raise ClientError(Code.MISSING_INPUT, MISSING_INPUT)
        wanted = value["input"]
        if not isinstance(wanted, (str, list)):
            raise ClientError(Code.INVALID_INPUT, "'input' must be a string or a list.", hint=None)
        return Call(
            model=_model_name(value.get("model")),
            input=wanted,
            parameters=read_parameters(value.get("parameters")),
        )

    def encode(self, call: Call, answer: Answer, stamp: Stamp) -> bytes:  # noqa: ARG002
        """The upstream's JSON as it came, or [{"generated_text": ...}] made from its texts.

        A list of prompts gives a list for each prompt, as the transformers pipeline does.
        """
        if answer.verbatim is not None and answer.format == VERBATIM:
            return answer.verbatim
        prompts = call.input if isinstance(call.input, list) else [call.input]
        rows = [
            [{"generated_text": _full_text(call, answer, prompt, text)} for text in texts]
            for prompt, texts in zip(prompts, answer.texts, strict=True)
        ]
        return msgspec.json.encode(rows if isinstance(call.input, list) else rows[0])

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:
        """{"error": TEXT, "code": SLUG, "request_id": ID}, with `detail` for an upstream's."""
        headers = [("content-type", JSON)]
        body: dict[str, Any] = {"error": error.explained}
        match error:
            case UpstreamError():
                status = 502
                body = {"error": UPSTREAM_FAILED, "detail": error.explained}
                if error.retry_after is not None:
                    headers.append(("retry-after", error.retry_after))
            case ClientError():
                status = error.status
                if error.allow:
                    headers.append(("allow", ", ".join(error.allow)))
            case GatewayError():
                status = error.status
            case _:
                status = 500
        body |= {"code": error.code, "request_id": request_id}
        return Reply(status=status, headers=headers, body=msgspec.json.encode(body))


def _model_name(raw: object) -> str | None:
    if raw is None:
        return None
    if not isinstance(raw, str) or not is_model_name(raw):
        raise ClientError(
            Code.INVALID_PARAMETER,
            "'model' is not a model name.",
            hint="A name looks like 'gpt2', 'owner/name' or 'owner/name:provider'.",
        )
    return raw


def _full_text(call: Call, answer: Answer, prompt: str, text: str) -> str:
    """The text with its prompt in front, which the hosted API did unless told otherwise.

    A chat model answers a prompt instead of continuing it, so there the prompt is left out
    unless it was asked for, as the hosted API did for models that answer.
    """
    wanted = call.parameters.return_full_text
    return prompt + text if (wanted is None and not answer.is_chat) or wanted else text
