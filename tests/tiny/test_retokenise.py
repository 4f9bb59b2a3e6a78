"""Another tokenizer: old tokens keep their embeddings, new ones start from those of their pieces."""

from __future__ import annotations

import torch

from infra.tiny.retokenise import embeddings, retokenised
from pipeline.config import DenoiseConfig
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.model.new_model import SizeSection, asr_config, train_tokenizer
from tests.support.small_model import noise_segment

TEXTS = ["monday the third of may", "a zebra and a xylophone", "zebra zebra zebra", "蜜蜂蜜蜂", "twenty three"]


def test_a_known_token_keeps_its_row_and_a_new_one_is_the_mean_of_its_pieces() -> None:
    tiny = checkpoint.load("tiny")
    known, old, new = tiny.backbone.lm_head.weight, tiny.tokenizer, train_tokenizer(TEXTS, 600)
    rows = embeddings(known, old, new)
    assert rows.shape == (new.get_vocab_size(), known.shape[1])
    for text in ("<eos>", "<|zh|>", "\u2581monday", "<0x41>"):
        assert torch.equal(rows[new.token_to_id(text)], known[old.token_to_id(text)])
    assert old.token_to_id("\u2581zebra") is None
    pieces = old.encode("zebra", add_special_tokens=False).ids
    assert len(pieces) > 1
    torch.testing.assert_close(rows[new.token_to_id("\u2581zebra")], known[pieces].mean(0))
    assert new.token_to_id("蜜") is not None  # a character that the old one spells in bytes
    assert rows.norm(dim=1).min() > 0


def test_everything_but_the_embeddings_is_taken_over_and_the_tied_ones_are_one_tensor() -> None:
    tiny, new = checkpoint.load("tiny"), train_tokenizer(TEXTS, 600)
    made = retokenised(tiny, new, asr_config(SizeSection(vocab_size=600), new.get_vocab_size()))
    mine = made.state_dict()
    different = {name for name, tensor in tiny.state_dict().items() if not torch.equal(mine[name], tensor)}
    tied = ("model.encoder.language_model.embed_tokens", "model.decoder.embed_tokens", "lm_head")
    assert different == {f"backbone.{name}.weight" for name in tied}
    assert len({mine[name].data_ptr() for name in different}) == 1
    engine = Engine(made.eval(), DenoiseConfig(max_steps=2), slots=2)
    assert engine.transcribe([noise_segment(1, seconds=0.5)])[0].text is not None
    engine.close()
