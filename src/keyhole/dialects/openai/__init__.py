"""The OpenAI format: chat completions, and the older text completions.

client.py    the dialect: what clients send and get, but for streams
request.py   what a client's body asks for
writer.py    a stream to a client
faults.py    an error, as OpenAI's clients expect it
upstream.py  what an upstream is asked, and what it answers
reader.py    a stream from an upstream, and what becomes of its frames on their way
"""

CHAT = "openai-chat"
COMPLETION = "openai-completion"
FORMATS = frozenset({CHAT, COMPLETION})
"""The formats, as in `wire.call.Original.format`: what is sent to each of the two paths."""
