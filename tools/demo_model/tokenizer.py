"""Train the demo model's byte-level BPE on the grammar's documents; it does not train the model."""

import random
from pathlib import Path

from documents import END, make_document
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 2048
DOCUMENTS = 30_000
SEED = 20261122


def train_tokenizer() -> Tokenizer:
    """Train a tokenizer in the manner of GPT-2's: bytes, merges and one special token."""
    rng = random.Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ("".join(s.text for s in make_document(rng)) for _ in range(DOCUMENTS))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_or_train(path: Path) -> Tokenizer:
    """Load `path`, training and saving it first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))
