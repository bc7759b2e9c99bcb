"""One wire format per file, both directions, and which paths are its own.

    generate.py      the original script's {"input": ...}
    huggingface.py   the hosted Inference API's {"inputs": ..., "parameters": ...}
    tgi.py           text-generation-inference
    openai.py        chat and text completions

Dialects do no I/O, know no upstream and do not import each other.
"""
