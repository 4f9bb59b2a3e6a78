"""Weights from safetensors: read into the model shard by shard, without a second copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import ConfigError
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, weights
from pipeline.model.files.allocation import allocate
from pipeline.model.recogniser import AsrModel
from tests.support import fp8_checkpoint
from tests.support.small_model import hearing_model

# The peak that a model in many shards adds to what the process takes anyway (another one was loaded before).
LOAD = """
import ctypes, sys, torch
from pipeline.model.files import checkpoint
from tests.support.memory import AnonymousPeak
torch.set_num_threads(1)
checkpoint.load("tiny")
ctypes.CDLL(None).malloc_trim(0)
with AnonymousPeak() as peak:
    model = checkpoint.load(sys.argv[1], dtype=torch.bfloat16, fp8=sys.argv[2:] == ["fp8"])
print(sum(weight.nbytes for weight in model.parameters()), peak.grown_bytes)
"""


def shard(folder: Path, megabytes: float) -> int:
    """Cut the backbone's file into shards with an index, as transformers writes large models. Returns their number."""
    path = folder / "backbone" / "model.safetensors"
    stored, parts = load_file(path), [[]]
    size = 0
    for name, tensor in stored.items():
        if size and size + tensor.nbytes > megabytes * 2**20:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensor.nbytes
    index = {}
    for number, names in enumerate(parts, 1):
        shard = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file({name: stored[name] for name in names}, path.with_name(shard), metadata={"format": "pt"})
        index |= dict.fromkeys(names, shard)
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    path.unlink()
    return len(parts)


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(3)


@pytest.fixture
def saved(model: AsrModel, tmp_path: Path) -> Path:
    checkpoint.save(model, tmp_path, dtype=torch.float32)
    return tmp_path


def test_a_sharded_backbone_loads_equal(model: AsrModel, saved: Path) -> None:
    assert shard(saved, 0.05) > 5
    loaded = checkpoint.load(str(saved)).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


def test_a_shard_that_is_missing_is_named(saved: Path) -> None:
    shard(saved, 0.05)
    lost = sorted((saved / "backbone").glob("model-*-of-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ConfigError, match=lost.name):
        checkpoint.load(str(saved))


def test_encoder_decoder_and_head_share_their_storage(saved: Path) -> None:
    loaded = checkpoint.load(str(saved), dtype=torch.bfloat16).backbone
    encoder, decoder = loaded.model.encoder.language_model, loaded.model.decoder
    assert loaded.lm_head.weight.data_ptr() == decoder.embed_tokens.weight.data_ptr()
    assert encoder.embed_tokens.weight.data_ptr() == decoder.embed_tokens.weight.data_ptr()
    assert encoder.norm.weight.data_ptr() == decoder.norm.weight.data_ptr()
    own = dict(encoder.layers.named_parameters())
    shared = dict(decoder.layers.named_parameters())
    assert own.keys() == shared.keys()
    assert all(own[name].data_ptr() == shared[name].data_ptr() for name in own)
    assert len({weight.data_ptr() for weight in shared.values()}) == len(shared)


@pytest.mark.parametrize(("stored", "fp8"), [("plain", []), ("plain", ["fp8"]), ("fp8", []), ("fp8", ["fp8"])])
def test_loading_takes_no_second_copy(tmp_path: Path, stored: str, fp8: list[str]) -> None:
    """At most 1.1 times the weights, mapped files aside, whose pages the kernel drops when it needs them.

    Weights that become FP8 on the way take the tensor that is being converted, too: 1.25 times.
    """
    from pipeline.model.new_model import SizeSection, asr_config
    from tests.support.small_model import small_tokenizer

    tokenizer = small_tokenizer()
    size = SizeSection(window_seconds=1.0, canvas_length=8, hidden=384, heads=4, layers=4, mlp=768, experts=16,
                       experts_per_token=2, expert_mlp=640)  # fmt: skip
    with torch.device("meta"):
        made = AsrModel(asr_config(size, tokenizer.get_vocab_size()), tokenizer)
    allocate(made, device="cpu", dtype=torch.bfloat16)
    for weight in made.parameters():
        weight.fill_(0.01)
    if stored == "fp8":
        fp8_checkpoint.write(made, tmp_path, dtype=torch.bfloat16)
    else:
        checkpoint.save(made, tmp_path, dtype=torch.bfloat16)
    shard(tmp_path, 4)
    run = [sys.executable, "-c", LOAD, str(tmp_path), *fp8]
    done = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    taken, peak = map(int, done.stdout.split())
    assert 60e6 < taken < 200e6
    assert peak <= (1.25 if fp8 and stored == "plain" else 1.1) * taken


def test_a_tied_weight_that_is_stored_twice_must_be_equal(saved: Path) -> None:
    """Some programs store lm_head beside the embeddings."""
    path = saved / "backbone" / "model.safetensors"
    stored = load_file(path)
    head = stored["model.decoder.embed_tokens.weight"].clone()
    save_file(stored | {"lm_head.weight": head}, path)
    checkpoint.load(str(saved))
    head[0] += 1
    save_file(stored | {"lm_head.weight": head}, path)
    with pytest.raises(ConfigError, match=r"lm_head\.weight differs|embed_tokens\.weight differs"):
        checkpoint.load(str(saved))


def test_a_real_image_tower_is_passed_over(model: AsrModel, saved: Path) -> None:
    """DiffusionGemma's files have one. Ours is a small one that is never used."""
    path = saved / "backbone" / "model.safetensors"
    stored = {name: w for name, w in load_file(path).items() if not name.startswith(checkpoint.VISION)}
    stored["model.encoder.vision_tower.encoder.layers.7.mlp.up_proj.linear.weight"] = torch.ones(3, 3)
    stored["model.encoder.embed_vision.embedding_projection.weight"] = torch.ones(3, 3)
    save_file(stored, path)
    loaded = checkpoint.load(str(saved)).state_dict()
    for name, weight in model.state_dict().items():
        if "vision" not in name:
            assert torch.equal(weight, loaded[name])


def test_the_encoder_of_a_whole_whisper_checkpoint_is_taken(model: AsrModel, saved: Path) -> None:
    path = saved / "encoder.safetensors"
    whole = {f"model.encoder.{name}": weight for name, weight in load_file(path).items()}
    whole |= {"model.decoder.embed_tokens.weight": torch.ones(2, 2), "proj_out.weight": torch.ones(2, 2)}
    save_file(whole, path)
    loaded = recogniser.encoder_state(checkpoint.load(str(saved)))
    assert all(torch.equal(weight, loaded[name]) for name, weight in recogniser.encoder_state(model).items())
    assert weights.whisper_name("layers.0.fc1.weight") == "layers.0.fc1.weight"


def test_whoever_may_read_a_models_config_may_read_its_weights(saved: Path) -> None:
    wanted = (saved / "config.json").stat().st_mode
    files = sorted(saved.rglob("*.safetensors"))
    assert len(files) >= 2
    assert {path.name: path.stat().st_mode for path in files} == {path.name: wanted for path in files}
