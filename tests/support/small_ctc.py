"""Small CTC checkpoints of transformers with random weights, in the files that published ones have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel

from tests.support.small_model import WORDS

LETTERS = "abcdefghijklmnopqrstuvwxyz'ßé"
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
RAW = WIDTH | {
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}


def _letters(folder: Path) -> Any:
    """A tokenizer of single letters with `|` between words, as wav2vec2 has it. The blank is `<pad>`."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    return transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def _pieces(kind: str) -> Any:
    """A tokenizer of pieces of words in the manner of SentencePiece. The blank is `<pad>`."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<pad>"]
    raw.train_from_iterator(
        [*WORDS] * 3, trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    return getattr(transformers, kind)(tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>")


def _of_letters(folder: Path, name: str, extractor: Any, **numbers: Any) -> tuple[PreTrainedModel, Any, Any]:
    tokenizer = _letters(folder)
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), pad_token_id=0, **numbers)
    return getattr(transformers, f"{name}ForCTC")(config), tokenizer, extractor


def _wav2vec2(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _of_letters(folder, "Wav2Vec2", extractor, **RAW, do_stable_layer_norm=True)


def _hubert(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    """As the base sizes are: the first layer normalises over time, so there must be no padding and no mask."""
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    return _of_letters(folder, "Hubert", extractor, **RAW | {"feat_extract_norm": "group"})


def _wav2vec2_bert(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    extractor = transformers.SeamlessM4TFeatureExtractor()
    return _of_letters(folder, "Wav2Vec2Bert", extractor, **WIDTH, output_hidden_size=32)


def _parakeet(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    tokenizer = _pieces("ParakeetTokenizer")
    encoder = transformers.ParakeetEncoderConfig(**WIDTH, num_mel_bins=80, subsampling_conv_channels=16)
    config = transformers.ParakeetCTCConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, encoder_config=encoder.to_dict()
    )
    return transformers.ParakeetForCTC(config), tokenizer, transformers.ParakeetFeatureExtractor()


def _granite(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    """Its feature extractor needs torchaudio."""
    tokenizer = _pieces("ParakeetTokenizer")
    encoder = transformers.GraniteSpeech5EncoderConfig(**WIDTH, vocab_size=len(tokenizer))
    config = transformers.GraniteSpeech5CTCConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, encoder_config=encoder.to_dict()
    )
    return transformers.GraniteSpeech5ForCTC(config), tokenizer, transformers.GraniteSpeech5FeatureExtractor()


FAMILIES: dict[str, Callable[[Path], tuple[PreTrainedModel, Any, Any]]] = {
    "wav2vec2": _wav2vec2,
    "hubert": _hubert,
    "wav2vec2-bert": _wav2vec2_bert,
    "parakeet": _parakeet,
    "granite": _granite,
}


def save_ctc(folder: Path, family: str, *, seed: int = 5) -> Path:
    """Random weights that say other things of other sounds, and blanks and the ends of words now and then."""
    torch.manual_seed(seed)
    model, tokenizer, extractor = FAMILIES[family](folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "norm" not in name:
                weight.normal_(0.0, (2.0 if family == "granite" else 1.0) * weight[0].numel() ** -0.5)
        head = model.get_submodule("lm_head" if hasattr(model, "lm_head") else "ctc_head")
        bias = dict(head.named_parameters())["bias" if hasattr(head, "bias") else "conv.bias"]
        bias.zero_()
        bias[tokenizer.pad_token_id] = 1.5
        if "|" in tokenizer.get_vocab():
            bias[tokenizer.convert_tokens_to_ids("|")] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
