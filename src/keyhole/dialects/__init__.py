"""One wire format per file, both directions, and which paths are its own.

    generate.py      the original script's {"input": ...}
    huggingface.py   the hosted Inference API's {"inputs": ..., "parameters": ...}
    tgi.py           text-generation-inference; its streams in tgi_stream.py, how its clients are
                     answered in tgi_client.py
    openai/          chat and text completions

    base.py          what a dialect is to the core
    hf_parameters.py, hf_body.py, hf_replies.py
                     what the formats that come from Hugging Face have in common

Dialects do no I/O, know no upstream and do not import each other, but for what several share.
"""
