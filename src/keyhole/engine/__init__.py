"""The embedded model server: GPT-2 in plain numpy, speaking TGI, in a process of its own.

A request flows through these, each of which knows only those above it:

    library     which model folders exist, by name
    folder      what one folder says: its shape, its sampling defaults, what ends a text
    weights     model.safetensors as arrays, mapped rather than read
    gpt2        tokens in, logits out: many sequences, each a few rows, in one pass
    sampling    logits in, one token out, reproducible by its seed
    text        prompt to tokens; tokens to text that is never half a character
    plan        what a request means for a model: every choice made, or refused
    continuation  one prompt being continued, token by token, until it ends
    generation  the event loop's side of it: tokens as they come, then an outcome
    scheduler   one thread per model: admits waiting jobs, runs passes, delivers tokens
    models      loads each model once, at its first request
    app         HTTP: every model is a TGI server under its own name
    __main__    the process: socket, signals, the parent's life

Numbers happen in the scheduler's thread, HTTP in the event loop; between them go finished
tokens one way and cancellations the other.
"""
