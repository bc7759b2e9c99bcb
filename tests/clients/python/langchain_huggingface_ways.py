"""langchain-huggingface: HuggingFaceEndpoint, and ChatHuggingFace on top of it."""

from __future__ import annotations

from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from loop import Call, run


def endpoint(call: Call) -> None:
    """With the class's own defaults: typical_p 0.95 and more are always sent."""
    _generate(call, HuggingFaceEndpoint(endpoint_url=call.url, max_new_tokens=call.max_tokens))


def endpoint_plain(call: Call) -> None:
    """Without what only a TGI server can be told."""
    model = HuggingFaceEndpoint(
        endpoint_url=call.url, max_new_tokens=call.max_tokens, typical_p=None
    )
    _generate(call, model)


def endpoint_hosted(call: Call) -> None:
    """The path of the hosted API."""
    url = f"{call.url}/models/{call.model}"
    model = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=call.max_tokens, typical_p=None)
    _generate(call, model)


def chat(call: Call) -> None:
    endpoint = HuggingFaceEndpoint(endpoint_url=call.url, max_new_tokens=call.max_tokens)
    model = ChatHuggingFace(llm=endpoint)
    if not call.wants_stream:
        _take(call, model.invoke(call.prompt, stop=call.stop))
        return
    for chunk in model.stream(call.prompt, stop=call.stop, stream_usage=True):
        if _take(call, chunk):
            return


async def chat_async(call: Call) -> None:
    endpoint = HuggingFaceEndpoint(endpoint_url=call.url, max_new_tokens=call.max_tokens)
    model = ChatHuggingFace(llm=endpoint)
    if not call.wants_stream:
        _take(call, await model.ainvoke(call.prompt, stop=call.stop))
        return
    async for chunk in model.astream(call.prompt, stop=call.stop, stream_usage=True):
        if _take(call, chunk):
            return


def _generate(call: Call, model: HuggingFaceEndpoint) -> None:
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
    run(
        {
            "endpoint": endpoint,
            "endpoint_plain": endpoint_plain,
            "endpoint_hosted": endpoint_hosted,
            "chat": chat,
            "chat_async": chat_async,
        }
    )
