"""The embedded model server: GPT-2 in plain numpy, speaking TGI, in a process of its own.

A request flows through these, from the last to the first; each knows only those above it:

    folder        what one model folder says: its shape, its defaults, what ends a text
    library       which model folders exist, by name
    weights       model.safetensors as arrays, mapped rather than read
    blas          how many threads a product of matrices uses
    gpt2          tokens in, logits out: many sequences, a few rows each, in one pass
    sampling      logits in, one token out, reproducible by its seed
    text          prompt to tokens; tokens to text that is never half a character
    continuation  one prompt being continued, token by token, until it ends
    plan          what a request means for a model: every choice made, or refused
    generation    the event loop's side of a continuation: tokens as they come, an outcome
    frames        TGI's stream, as bytes
    scheduler     one thread per model: lets waiting jobs in, runs passes, delivers tokens
    models        loads each model once, at the first request for it
    app           HTTP: every model is a TGI server under its own name
    listener      the socket
    serving       uvicorn and the signals that end it
    __main__      the process: arguments, thread counts, the parent's life

Numbers happen in the scheduler's thread, HTTP in the event loop; between them go tokens one
way and cancellations the other.
"""
