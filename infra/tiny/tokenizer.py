"""The embedded model's tokenizer: BPE over spaces-as-letters with byte fallback, as Gemma's, trained on its phrases."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from infra.tiny.recipe import LANGUAGE_TOKENS, SPECIAL_TOKENS

SPACE = "\u2581"  # stands for the space in front of a word
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Deterministic for the same texts. Special tokens come first, in the order of `recipe`; the 256 bytes come last.

    Never larger than vocab_size; smaller where the texts do not hold enough pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(BYTES),
        show_progress=False,
        special_tokens=[*SPECIAL_TOKENS, *LANGUAGE_TOKENS],
        max_token_length=24,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tree = json.loads(tokenizer.to_str())
    vocab = tree["model"]["vocab"]
    for token in BYTES:
        vocab[token] = len(vocab)
    return Tokenizer.from_str(json.dumps(tree))
