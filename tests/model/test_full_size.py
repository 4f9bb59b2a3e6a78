"""The full-size model without its weights: the numbers of its config, and every shape, on the meta device."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from pipeline.config import LANGUAGES
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, layout
from pipeline.model.files.facts import Defaults
from pipeline.model.network import lora
from pipeline.model.recogniser import AsrModel

MARKS = {"<bos>": 2, "<|turn>": 105, "<turn|>": 106, "<|audio>": 256_000, "<|audio|>": 258_881, "<audio|>": 258_883}
SLIDING = [layer for layer in range(30) if layer % 6 != 5]
GLOBAL = [5, 11, 17, 23, 29]


def tokenizer(marks: dict[str, int] = MARKS) -> Tokenizer:
    """A tokenizer with DiffusionGemma's special tokens at their ids; all other text is one unknown token."""
    made = Tokenizer(WordLevel({"<unk>": 3, **marks}, unk_token="<unk>"))
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return made


@pytest.fixture(scope="module")
def model() -> AsrModel:
    with torch.device("meta"):
        return AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer())


def count(weights: list[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in {id(weight): weight for weight in weights}.values())


def test_the_adapter_has_the_published_number_of_parameters(model: AsrModel) -> None:
    projector, adapters = count(list(model.projector.parameters())), count(list(lora.state(model.backbone).values()))
    # 768 x 1280 + 1280, 3 x (1280 x 1280 x 3 + 1280), 1280 x 2816 + 2816, LayerNorm 2 x 2816
    assert projector == 984_320 + 3 * 4_916_480 + 3_607_296 + 5_632 == 19_346_688
    # rank 16 x (in + out) of q, k, v, o; global layers without v; both phases
    sliding = 16 * (2 * (2816 + 4096) + 2 * (2816 + 2048))
    assert adapters == 2 * (25 * sliding + 5 * 16 * (2 * (2816 + 8192) + (2816 + 1024))) == 22_978_560
    assert f"{(projector + adapters) / 1e6:.2f}" == "42.33"


def test_the_numbers_of_the_released_system_are_config(model: AsrModel) -> None:
    config = model.config
    assert (config.audio_slots, config.window_seconds, config.canvas_length) == (188, 30.0, 192)
    assert tuple(config.languages) == LANGUAGES
    tokens = config.tokens
    assert (tokens.begin_audio, tokens.audio, tokens.end_audio) == (256_000, 258_881, 258_883)
    assert (tokens.pad, tokens.bos, tokens.eos) == (0, 2, [1, 106, 50])
    assert model.backbone.final_logit_softcapping == 30.0
    assert config.lora == layout.LoraSpec(rank=16, alpha=32, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    assert config.defaults == Defaults(denoise={"max_steps": 8, "remove_repeats": True}, segment={"method": "quietest"})


def test_the_prompt_is_an_instruction_and_the_audio_and_nothing_after_it(model: AsrModel) -> None:
    """The paper's formula: BOS, instruction, BOA, audio, EOA; no turns, and no word about the language."""
    for ids in model.prompts.values():
        assert ids[0] == 2
        assert ids[-3:] == [256_000, 258_881, 258_883]
        assert not {105, 106} & set(ids)
    assert len({tuple(ids) for ids in model.prompts.values()}) == 1
    assert model.prompt_length == len(model.prompts["en"]) + 187


def test_every_shape_of_the_backbone(model: AsrModel) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in recogniser.backbone_state(model.backbone)[0].items()}
    hidden, dense, expert, experts = 2816, 2112, 704, 128
    expected: dict[str, tuple[int, ...]] = {
        "model.decoder.embed_tokens.weight": (262_144, hidden),
        "model.decoder.norm.weight": (hidden,),
        "model.decoder.self_conditioning.pre_norm.weight": (hidden,),
        "model.decoder.self_conditioning.gate_proj.weight": (dense, hidden),
        "model.decoder.self_conditioning.up_proj.weight": (dense, hidden),
        "model.decoder.self_conditioning.down_proj.weight": (hidden, dense),
    }
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    for index in range(30):
        layer = f"model.decoder.layers.{index}."
        head = 512 if index in GLOBAL else 256
        queries, keys = 16 * head, (2 if index in GLOBAL else 8) * head
        expected |= {
            layer + "self_attn.q_proj.weight": (queries, hidden),
            layer + "self_attn.k_proj.weight": (keys, hidden),
            layer + "self_attn.o_proj.weight": (hidden, queries),
            layer + "self_attn.q_norm.weight": (head,),
            layer + "self_attn.k_norm.weight": (head,),
            layer + "mlp.gate_proj.weight": (dense, hidden),
            layer + "mlp.up_proj.weight": (dense, hidden),
            layer + "mlp.down_proj.weight": (hidden, dense),
            layer + "router.proj.weight": (experts, hidden),
            layer + "router.scale": (hidden,),
            layer + "router.per_expert_scale": (experts,),
            layer + "experts.gate_up_proj": (experts, 2 * expert, hidden),
            layer + "experts.down_proj": (experts, hidden, expert),
            layer + "layer_scalar": (1,),
            f"model.encoder.language_model.layers.{index}.layer_scalar": (1,),
        }
        names = [f"{norm}_layernorm" for norm in norms]
        names += ["post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"]
        expected |= {f"{layer}{name}.weight": (hidden,) for name in names}
        if index in SLIDING:
            expected[layer + "self_attn.v_proj.weight"] = (keys, hidden)
    assert {name: shape for name, shape in shapes.items() if not name.startswith(checkpoint.VISION)} == expected
    text = sum(torch.Size(shape).numel() for shape in expected.values())
    assert 25.0e9 < text < 26.0e9  # the "26B" of its name has the image tower, which is not loaded


def test_every_shape_of_encoder_and_adapter(model: AsrModel) -> None:
    encoder = recogniser.encoder_state(model)
    assert sum(weight.numel() for weight in encoder.values()) == 88_154_112  # whisper-small's encoder
    assert encoder["embed_positions.weight"].shape == (1500, 768)
    adapter = {name: tuple(weight.shape) for name, weight in recogniser.adapter_state(model).items()}
    assert adapter["input.weight"] == (1280, 768)
    assert [adapter[f"convs.{n}.weight"] for n in range(3)] == [(1280, 1280, 3)] * 3
    assert adapter["output.weight"] == (2816, 1280)
    for phase in ("encoder", "decoder"):
        assert adapter[f"lora.{phase}.layers.0.v_proj.down"] == (16, 2816)
        assert adapter[f"lora.{phase}.layers.5.q_proj.up"] == (8192, 16)
        assert adapter[f"lora.{phase}.layers.29.o_proj.down"] == (16, 8192)
        assert f"lora.{phase}.layers.29.v_proj.down" not in adapter
    assert adapter["norm.weight"] == adapter["norm.bias"] == (2816,)
    assert len(adapter) == 2 + 6 + 2 + 2 + 2 * 2 * (25 * 4 + 5 * 3)


@pytest.mark.parametrize(("mark", "key"), [("<bos>", "bos"), ("<|audio>", "begin_audio"), ("<audio|>", "end_audio")])
def test_a_tokenizer_with_other_marks_is_refused(mark: str, key: str) -> None:
    others = {name: number + (name == mark) for name, number in MARKS.items()}
    with torch.device("meta"), pytest.raises(ValueError, match=rf"tokens\.{key}"):
        AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer(others))
