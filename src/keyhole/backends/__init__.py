"""One kind of upstream per file: its paths, its headers, its errors; no I/O.

    hf_inference.py  the hosted Inference API's shape: {url}/models/{model}
    huggingface.py   the Hugging Face router: chat
    tgi.py           text-generation-inference, and the embedded engine that speaks it
    openai.py        whatever serves /chat/completions or /completions
    base.py, fanout.py, originals.py, faults.py, words.py
                     what a backend is, and what they have in common
    chat.py          what the two that speak the OpenAI format share

A backend knows which dialect its upstreams speak; the dialect knows the format.
"""
