"""langchain-openai: ChatOpenAI and OpenAI, as a chain calls them."""

from __future__ import annotations

from langchain_openai import ChatOpenAI, OpenAI
from loop import KEY, Call, run


def chat(call: Call) -> None:
    model = ChatOpenAI(
        model=call.model,
        base_url=f"{call.url}/v1",
        api_key=KEY,
        max_tokens=call.max_tokens,
        stream_usage=True,
    )
    if not call.wants_stream:
        _take(call, model.invoke(call.prompt, stop=call.stop))
        return
    for chunk in model.stream(call.prompt, stop=call.stop):
        if _take(call, chunk):
            return


async def chat_async(call: Call) -> None:
    model = ChatOpenAI(
        model=call.model,
        base_url=f"{call.url}/v1",
        api_key=KEY,
        max_tokens=call.max_tokens,
        stream_usage=True,
    )
    if not call.wants_stream:
        _take(call, await model.ainvoke(call.prompt, stop=call.stop))
        return
    async for chunk in model.astream(call.prompt, stop=call.stop):
        if _take(call, chunk):
            return


def text(call: Call) -> None:
    model = OpenAI(
        model=call.model, base_url=f"{call.url}/v1", api_key=KEY, max_tokens=call.max_tokens
    )
    if not call.wants_stream:
        call.heard(model.invoke(call.prompt, stop=call.stop))
        return
    for piece in model.stream(call.prompt, stop=call.stop):
        if call.heard(piece):
            return


def _take(call: Call, message) -> bool:
    call.finish = message.response_metadata.get("finish_reason") or call.finish
    if message.usage_metadata:
        counted = message.usage_metadata
        call.usage = [counted["input_tokens"], counted["output_tokens"]]
    return call.heard(message.content)


if __name__ == "__main__":
    run({"chat": chat, "chat_async": chat_async, "text": text})
