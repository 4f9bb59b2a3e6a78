"""A small Whisper checkpoint with random weights, in the files that a published one has: window 1 s, 32 positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

from pipeline.config import LANGUAGES
from tests.support.small_model import WORDS

TEXTS = [*WORDS, *(f" {word}" for word in WORDS), " grüße", " où est", " mañana", " नमक चाहिए", " 我要茶和鱼"]
CODES = (*LANGUAGES, "it")  # one that is none of ours


def save_whisper(folder: Path, *, multilingual: bool = True, seed: int = 6, **changes: Any) -> Path:
    """changes: of config.json."""
    codes = CODES if multilingual else ()
    tokenizer = _tokenizer(codes)
    ids = tokenizer.get_vocab()
    eos, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    generation = {
        "begin_suppress_tokens": [ids["Ġ"], eos],
        "bos_token_id": eos,
        "decoder_start_token_id": start,
        "eos_token_id": eos,
        "forced_decoder_ids": [[1, None], [2, ids["<|transcribe|>"]]]
        if multilingual
        else [[1, ids["<|notimestamps|>"]]],
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 32,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "pad_token_id": eos,
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": [ids[token] for token in (",", "<|startoftranscript|>", "<|translate|>", "<|nospeech|>")],
    }
    if multilingual:
        generation["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in codes}
        generation["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    config = WhisperConfig(
        vocab_size=len(ids),
        num_mel_bins=80,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        d_model=32,
        max_source_positions=50,
        max_target_positions=32,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
        decoder_start_token_id=start,
        begin_suppress_tokens=[ids["Ġ"], eos],
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    _hearing(model, eos)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    edit(folder / "config.json", **changes)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; those that are None go."""
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


@torch.no_grad()
def _hearing(model: WhisperForConditionalGeneration, eos: int) -> None:
    """Random weights that hear the audio more than the positions, say different things, and end now and then."""
    model.model.encoder.embed_positions.weight.zero_()
    for module in (model.model.encoder, model.model.decoder.layers):
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.8)
    model.model.decoder.embed_positions.weight.normal_(0.0, 1.0)
    embedding = model.model.decoder.embed_tokens.weight
    embedding.normal_(0.0, 0.5)
    embedding[eos + 1 :] *= 0.3
    embedding[eos] *= 5.0


def _tokenizer(codes: tuple[str, ...]) -> WhisperTokenizer:
    """Byte-level pairs, then the special tokens in Whisper's order, then timestamps, which are not special."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    pairs = json.loads(raw.to_str())["model"]
    tokenizer = WhisperTokenizer(vocab=pairs["vocab"], merges=[tuple(pair) for pair in pairs["merges"]])
    names = ["startoftranscript", *codes, "translate", "transcribe", "startoflm", "startofprev", "nospeech"]
    special = [f"<|{name}|>" for name in [*names, "notimestamps"]]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    return tokenizer
