"""Stand-ins of the kinds of servers that run models, each in its own wire format.

scenes.py         what happens, told by the prompt: a text, or one of the errors
tgi_server.py     text-generation-inference, and its OpenAI-like routes
openai_server.py  OpenAI itself, vLLM, llama.cpp, transformers serve
hosted_server.py  the hosted Inference API, and the router that took its place
servers.py        all of them behind one port, each under a path of its own
"""

from standins.models.scenes import (
    EOS,
    PROMPT_TOKENS,
    STOP,
    TEXT,
    Scene,
    completion_tokens,
    prompt_of,
)
from standins.models.servers import KINDS, ModelServers

__all__ = [
    "EOS",
    "KINDS",
    "PROMPT_TOKENS",
    "STOP",
    "TEXT",
    "ModelServers",
    "Scene",
    "completion_tokens",
    "prompt_of",
]
