"""openai: chat and text completions, with the synchronous and the asynchronous client."""

from __future__ import annotations

import functools

from loop import KEY, Call, run
from openai import AsyncOpenAI, OpenAI


@functools.cache
def client_at(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=KEY)


def chat(call: Call) -> None:
    made = client_at(call.url).chat.completions
    asked = {"model": call.model, "messages": call.messages, "max_tokens": call.max_tokens}
    if call.stop:
        asked["stop"] = call.stop
    if not call.wants_stream:
        take_chat(call, made.create(**asked))
        return
    with made.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            if take_chat_chunk(call, chunk):
                return


async def chat_async(call: Call) -> None:
    async with AsyncOpenAI(base_url=f"{call.url}/v1", api_key=KEY) as client:
        made = client.chat.completions
        asked = {"model": call.model, "messages": call.messages, "max_tokens": call.max_tokens}
        if call.stop:
            asked["stop"] = call.stop
        if not call.wants_stream:
            take_chat(call, await made.create(**asked))
            return
        async with await made.create(**asked, stream=True) as stream:
            async for chunk in stream:
                if take_chat_chunk(call, chunk):
                    return


def text(call: Call) -> None:
    made = client_at(call.url).completions
    asked = {"model": call.model, "prompt": call.prompt, "max_tokens": call.max_tokens}
    if call.stop:
        asked["stop"] = call.stop
    if not call.wants_stream:
        take_text(call, made.create(**asked))
        return
    with made.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            if take_text(call, chunk):
                return


async def text_async(call: Call) -> None:
    async with AsyncOpenAI(base_url=f"{call.url}/v1", api_key=KEY) as client:
        made = client.completions
        asked = {"model": call.model, "prompt": call.prompt, "max_tokens": call.max_tokens}
        if call.stop:
            asked["stop"] = call.stop
        if not call.wants_stream:
            take_text(call, await made.create(**asked))
            return
        async with await made.create(**asked, stream=True) as stream:
            async for chunk in stream:
                if take_text(call, chunk):
                    return


def models(call: Call) -> None:
    made = client_at(call.url).models
    listed = [model.id for model in made.list()]
    found = made.retrieve(call.model).id
    call.heard(found if found in listed else f"{found} is not in {listed}")


def take_chat(call: Call, answer) -> None:
    (choice,) = answer.choices
    call.heard(choice.message.content)
    call.finish = choice.finish_reason
    take_usage(call, answer.usage)


def take_chat_chunk(call: Call, chunk) -> bool:
    take_usage(call, chunk.usage)
    for choice in chunk.choices:
        call.finish = choice.finish_reason or call.finish
        if call.heard(choice.delta.content):
            return True
    return False


def take_text(call: Call, answer) -> bool:
    take_usage(call, answer.usage)
    for choice in answer.choices:
        call.finish = choice.finish_reason or call.finish
        if call.heard(choice.text):
            return True
    return False


def take_usage(call: Call, usage) -> None:
    if usage is not None:
        call.usage = [usage.prompt_tokens, usage.completion_tokens]


if __name__ == "__main__":
    ways = {"chat": chat, "chat_async": chat_async, "text": text, "text_async": text_async}
    run({**ways, "models": models})
