"""litellm, as a client: its `openai/` and `huggingface/` models with an api_base of ours."""

from __future__ import annotations

import litellm
from loop import KEY, Call, run

litellm.suppress_debug_info = True


def openai(call: Call) -> None:
    _chat(call, f"openai/{call.model}", f"{call.url}/v1")


def huggingface(call: Call) -> None:
    _chat(call, f"huggingface/{call.model}", call.url)


def text(call: Call) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{call.model}",
        api_base=f"{call.url}/v1",
        prompt=call.prompt,
        **_options(call),
    )
    if not call.wants_stream:
        _take_text(call, answer)
        return
    for chunk in answer:
        if _take_text(call, chunk):
            return


def _options(call: Call) -> dict:
    options: dict = {"api_key": KEY, "max_tokens": call.max_tokens}
    if call.stop:
        options["stop"] = call.stop
    if call.wants_stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    return options


def _chat(call: Call, model: str, base: str) -> None:
    answer = litellm.completion(
        model=model, api_base=base, messages=call.messages, **_options(call)
    )
    if not call.wants_stream:
        (choice,) = answer.choices
        call.heard(choice.message.content)
        call.finish = choice.finish_reason
        _take_usage(call, answer)
        return
    for chunk in answer:
        _take_usage(call, chunk)
        for choice in chunk.choices:
            call.finish = choice.finish_reason or call.finish
            if call.heard(choice.delta.content):
                return


def _take_text(call: Call, answer) -> bool:
    _take_usage(call, answer)
    for choice in answer.choices:
        call.finish = choice.finish_reason or call.finish
        if call.heard(choice.text):
            return True
    return False


def _take_usage(call: Call, answer) -> None:
    usage = getattr(answer, "usage", None)
    if usage is not None:
        call.usage = [usage.prompt_tokens, usage.completion_tokens]


if __name__ == "__main__":
    run({"openai": openai, "huggingface": huggingface, "text": text})
