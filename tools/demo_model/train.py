"""Train the demo model for a number of steps and export it; it does not judge the result.

A run is one or two stages: the second starts from the first one's export with a fresh optimizer,
on a mixture that leans to what people type first.
Every random choice is seeded and the schedule counts steps, so a run can be repeated (up to the
order of floating-point sums). A checkpoint is an export too: any of them can be tried at once.
"""

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from batches import EXERCISE_BATCHES, batches
from copying import plant
from documents import BASE, END, POLISH
from model import Shape, StoryModel, hub_weights, load_hub_weights
from safetensors.torch import load_file, save_file
from tokenizer import load_or_train
from tokenizers import Tokenizer

SEED = 7
HELD_OUT_SEED = 1_000_003
HELD_OUT_BATCHES = 12
WARMUP_STEPS = 150
FINAL_SHARE = 0.02
BATCH = 8


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: a short warm-up, then half a cosine."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(model: StoryModel, peak: float) -> torch.optim.AdamW:
    """Make AdamW with weight decay on the matrices of the layers only."""
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blocks")]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or not n.startswith("blocks")]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)


def held_out_loss(model: StoryModel, tokenizer: Tokenizer, count: int = HELD_OUT_BATCHES) -> float:
    """Return the mean loss in nats a token on documents that training never sees."""
    stream = batches(tokenizer, HELD_OUT_SEED, BATCH, model.shape.context)
    total, tokens = 0.0, 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(count):
            batch = next(stream)
            kept = int((batch.targets != -100).sum())
            total += float(model.loss(batch.tokens, batch.targets, batch.mask)) * kept
            tokens += kept
    return total / tokens


def config(shape: Shape, end: int) -> dict[str, object]:
    """Return config.json as GPT-2's is on the Hub."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": shape.context,
        "n_embd": shape.width,
        "n_head": shape.heads,
        "n_layer": shape.layers,
        "n_positions": shape.context,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": shape.vocabulary,
    }


def generation_config(end: int) -> dict[str, object]:
    """Return generation_config.json: the sampling that suits the model."""
    return {
        "bos_token_id": end,
        "eos_token_id": end,
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 40,
        "top_p": 0.9,
        "max_new_tokens": 400,
    }


def export(model: StoryModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model in the Hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(END)
    save_file(hub_weights(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config(model.shape, end),
        "generation_config.json": generation_config(end),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def train(args: argparse.Namespace) -> None:
    """Train, log a line now and then, and export regularly and at the end."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = load_or_train(args.work / "tokenizer.json")
    model = StoryModel(Shape(tokenizer.get_vocab_size(), args.layers, args.width, args.heads))
    if args.start:
        load_hub_weights(model, load_file(args.start / "model.safetensors"))
    else:
        plant(model)
    optimizer = make_optimizer(model, args.rate)
    mixture, exercises = (POLISH, 0) if args.start else (BASE, EXERCISE_BATCHES)
    stream = batches(tokenizer, args.seed, BATCH, model.shape.context, mixture, exercises)
    started, running = time.monotonic(), 0.0
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    last = args.stop or args.steps
    for step in range(last):
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.rate)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(batch.tokens, batch.targets, batch.mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            now = f"{datetime.now(UTC):%H:%M:%S}"
            pace = (step + 1) / (time.monotonic() - started)
            print(f"{now} step {step + 1} loss {running:.4f} {pace:.2f} steps/s", flush=True)
        if (step + 1) % args.every == 0 or step + 1 == last:
            export(model, tokenizer, args.work)
            print(f"held-out loss {held_out_loss(model, tokenizer):.4f}", flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the exported model")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--stop", type=int, help="step to end at, before the schedule does")
    parser.add_argument("--start", type=Path, help="folder of an exported model to start from")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2.5e-3, help="peak learning rate")
    parser.add_argument("--every", type=int, default=500, help="steps between exports")
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
