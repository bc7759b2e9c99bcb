"""huggingface_hub: InferenceClient and AsyncInferenceClient, text generation and chat."""

from __future__ import annotations

from huggingface_hub import AsyncInferenceClient, InferenceClient
from loop import KEY, Call, run


def text(call: Call) -> None:
    """model=URL is asked at exactly that URL."""
    _generate(call, InferenceClient(model=call.url, token=KEY))


def text_details(call: Call) -> None:
    _generate(call, InferenceClient(model=call.url, token=KEY), details=True)


def text_hosted(call: Call) -> None:
    """The path of the hosted API."""
    _generate(call, InferenceClient(model=f"{call.url}/models/{call.model}", token=KEY))


def text_hosted_details(call: Call) -> None:
    client = InferenceClient(model=f"{call.url}/models/{call.model}", token=KEY)
    _generate(call, client, details=True)


async def text_async(call: Call) -> None:
    await _generate_async(call)


async def text_details_async(call: Call) -> None:
    await _generate_async(call, details=True)


def chat(call: Call) -> None:
    """model=URL: the model's name in the body is one that the client makes up."""
    _chat(call, InferenceClient(model=call.url, token=KEY), {})


def chat_base_url(call: Call) -> None:
    _chat(call, InferenceClient(base_url=f"{call.url}/v1", api_key=KEY), {"model": call.model})


async def chat_async(call: Call) -> None:
    async with AsyncInferenceClient(base_url=f"{call.url}/v1", api_key=KEY) as client:
        asked = {"model": call.model, **_chat_options(call)}
        answer = await client.chat_completion(call.messages, **asked)
        if not call.wants_stream:
            _take_chat(call, answer)
            return
        async for chunk in answer:
            if _take_chunk(call, chunk):
                return


def _options(call: Call) -> dict:
    stop = {"stop": call.stop} if call.stop else {}
    return {"max_new_tokens": call.max_tokens, **stop}


def _generate(call: Call, client: InferenceClient, *, details: bool = False) -> None:
    asked = {**_options(call), **({"details": True, "return_full_text": False} if details else {})}
    if not call.wants_stream:
        _take(call, client.text_generation(call.prompt, **asked), details=details)
        return
    for piece in client.text_generation(call.prompt, stream=True, **asked):
        if _take_piece(call, piece, details=details):
            return


async def _generate_async(call: Call, *, details: bool = False) -> None:
    asked = {**_options(call), **({"details": True, "return_full_text": False} if details else {})}
    async with AsyncInferenceClient(model=call.url, token=KEY) as client:
        if not call.wants_stream:
            _take(call, await client.text_generation(call.prompt, **asked), details=details)
            return
        async for piece in await client.text_generation(call.prompt, stream=True, **asked):
            if _take_piece(call, piece, details=details):
                return


def _take(call: Call, answer, *, details: bool) -> None:
    call.heard(answer.generated_text if details else answer)
    if details:
        call.finish = answer.details.finish_reason
        call.usage = [None, answer.details.generated_tokens]


def _take_piece(call: Call, piece, *, details: bool) -> bool:
    if not details:
        return call.heard(piece)
    if piece.details is not None:
        call.finish = piece.details.finish_reason
        call.usage = [None, piece.details.generated_tokens]
    return call.heard("" if piece.token.special else piece.token.text)


def _chat(call: Call, client: InferenceClient, named: dict) -> None:
    answer = client.chat_completion(call.messages, **named, **_chat_options(call))
    if not call.wants_stream:
        _take_chat(call, answer)
        return
    for chunk in answer:
        if _take_chunk(call, chunk):
            return


def _chat_options(call: Call) -> dict:
    options: dict = {"max_tokens": call.max_tokens}
    if call.stop:
        options["stop"] = call.stop
    if call.wants_stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    return options


def _take_chat(call: Call, answer) -> None:
    (choice,) = answer.choices
    call.heard(choice.message.content)
    call.finish = choice.finish_reason
    if answer.usage is not None:
        call.usage = [answer.usage.prompt_tokens, answer.usage.completion_tokens]


def _take_chunk(call: Call, chunk) -> bool:
    if chunk.usage is not None:
        call.usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
    for choice in chunk.choices:
        call.finish = choice.finish_reason or call.finish
        if call.heard(choice.delta.content):
            return True
    return False


if __name__ == "__main__":
    run(
        {
            "text": text,
            "text_details": text_details,
            "text_hosted": text_hosted,
            "text_hosted_details": text_hosted_details,
            "text_async": text_async,
            "text_details_async": text_details_async,
            "chat": chat,
            "chat_base_url": chat_base_url,
            "chat_async": chat_async,
        }
    )
