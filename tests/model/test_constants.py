"""Constants beside an adapter: read as text, never run, compared with ours; a difference names the key to set."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.model import recogniser
from pipeline.model.files import checkpoint, constants, layout
from pipeline.model.files.constant_reader import read_python
from pipeline.model.files.constants import Finding
from pipeline.model.files.layout import AsrConfig
from tests.support.small_model import hearing_model

OURS = layout.read_config(layout.ASSETS / layout.FULL_SIZE)
RELEASED = '''
"""A model around a base."""
import os
from dataclasses import dataclass, field
from peft import LoraConfig

open(os.environ.get("SPRUNG", "sprung"), "w")
BOA, AUDIO_TOKEN_ID, EOA = 256000, 258881, 258883
RANK: int = 16
INSTRUCTION = ("Transcribe the " "speech.")
PROMPT = f"<bos>{INSTRUCTION}<|audio>" + "<|slot|>" * 188 + f"{end()}"

@dataclass
class AudioDiffusionConfig:
    whisper_dim: int = 768
    d_model: int = 2816
    proj_hidden: int = 1280
    subsample: int = 8
    lora_alpha: float = RANK * 2.0
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])

class Net:
    def __init__(self, cfg):
        self.canvas_len = 192
        self.lora = LoraConfig(r=RANK, lora_alpha=cfg.alpha, target_modules=cfg.targets, bias="none")

def transcribe(audio, *, steps: int = 8, entropy_bound=0.1, t_start=0.8, t_end=.4, eos_id=1, do_sample=True):
    return tokenizer.encode("Transcribe the speech.")
'''
CHANGES = [  # what stands there, what stands there instead, the key that is named, what is said about it
    ("r=RANK", "r=RANK // 2", "lora.rank", "8 in model.py:25 (r), ours 16"),
    ("RANK * 2.0", "RANK * 4", "lora.alpha", "64 in model.py:19 (lora_alpha), ours 32"),
    ('"k_proj", ', "", "lora.targets", "('o_proj', 'q_proj', 'v_proj')"),
    ('["q_proj", "k_proj", "v_proj", "o_proj"]', 'r".*\\.[qkv]_proj"', "lora.targets", "ours ('k_proj', 'o_proj'"),
    ("canvas_len = 192", "canvas_len = 256", "canvas_length", "256 in model.py:24 (canvas_len), ours 192"),
    ("steps: int = 8", "steps: int = 16", "denoise.max_steps", "16 in model.py:27 (steps), ours 8"),
    ("entropy_bound=0.1", "entropy_bound=1e-2", "denoise.entropy_bound", "0.01 in"),
    ("t_end=.4", "t_end=.1 + .2", "denoise.temperature_min", "ours 0.4"),
    ("258881", "258880", "tokens.audio", "258880 in model.py:8 (AUDIO_TOKEN_ID), ours 258881"),
    ("eos_id=1,", "eos_id=7,", "tokens.eos", "7 in"),
    ("768", "1024", "encoder.d_model", "1024"),
    ('"Transcribe the " "speech."', '"Write it:"', "prompt.before", "'Write it:' in model.py:10 (INSTRUCTION)"),
    ('"Transcribe the speech."', 'f"In {lang}, transcribe."', "prompt.before", "'In , transcribe.'"),
    ("steps: int = 8", "steps: int = int(os.getenv('S', '8'))", "", ""),  # not known: nothing is said
]  # fmt: skip


def differences(folder: Path, config: AsrConfig = OURS) -> list[Finding]:
    return [finding for finding in constants.compare(folder, config) if finding.differs]


def test_constants_of_a_plausible_repository_are_found_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(RELEASED)
    findings = constants.compare(tmp_path, OURS)
    assert [str(finding) for finding in findings if finding.differs] == []
    assert [finding.text.split(":")[0] for finding in findings] == [
        *("prompt.before", "lora.rank", "lora.alpha", "lora.targets", "canvas_length"),
        *("encoder.d_model", "projector.hidden", "projector.subsample", "backbone.text_config.hidden_size"),
        *("tokens.eos", "tokens.begin_audio", "tokens.audio", "tokens.end_audio"),
        *("denoise.max_steps", "denoise.entropy_bound", "denoise.temperature_max", "denoise.temperature_min"),
    ]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(("old", "new", "key", "says"), CHANGES)
def test_a_difference_names_the_key_to_set(tmp_path: Path, old: str, new: str, key: str, says: str) -> None:
    assert old in RELEASED
    (tmp_path / "model.py").write_text(RELEASED.replace(old, new))
    found = differences(tmp_path)
    assert [finding.text.split(":")[0] for finding in found] == ([key] if key else [])
    for finding in found:
        assert says in str(finding)
        assert f"set {key} to " in finding.advice
        assert ("in config.json" in finding.advice) == (not key.startswith("denoise."))
        assert "\n" not in str(finding)


@pytest.mark.parametrize(
    "line",
    [
        "parser.add_argument('--canvas-length', '-c', type=int, default=64)",
        "canvas = cfg.get('canvas_length', 64)",
        "run(canvas_len=64)",
        "SETTINGS = {'model': {'canvasLength': 64}}",
        "class C:\n  DEFAULT_CANVAS_LENGTH: int = Field(64, ge=1)",
        "def f(x, canvas=32 * 2): ...",
        "async def f(x, /, y=1, *, canvas_size=128 // 2): ...",
        "a, canvas_length = 1, -(-64)",
        "STEPS = 8\nCANVAS = STEPS * 8",
        "f = lambda canvas_len=64: canvas_len",
    ],
)
def test_every_way_to_write_a_constant_is_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "inference.py").write_text(line)
    (found,) = differences(tmp_path)
    assert found.text.startswith("canvas_length: 64 in inference.py:")


def test_a_prompt_without_words_differs_from_one_with_words(tmp_path: Path) -> None:
    (tmp_path / "inference.py").write_text("PROMPT = 'Transcribe the audio.'")
    (found,) = differences(tmp_path, layout.read_config(layout.ASSETS / "tiny"))
    assert found.text == "prompt.before: 'Transcribe the audio.' in inference.py:1 (PROMPT), ours ''"


def test_json_files_of_settings_count_but_our_own_does_not(tmp_path: Path) -> None:
    tree = '{"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none"}'
    (tmp_path / "adapter_config.json").write_text(tree)
    layout.write_config(tmp_path, OURS)
    assert [finding.text.split(" in ")[0] for finding in differences(tmp_path)] == [
        "lora.alpha: 16",
        "lora.targets: ('q_proj', 'v_proj')",
    ]


BROKEN = {
    "half a statement": b"def f(:\n",
    "zero bytes": b"steps = 8\x00",
    "not UTF-8": b"steps = 8 # \xff\xfe",
    "brackets without end": b"(" * 300_000,
    "deep brackets": b"x = " + b"[" * 3000 + b"]" * 3000,
    "a long chain": b"x = 1" + b" + 1" * 100_000,
    "many signs": b"x = " + b"-" * 50_000 + b"1",
    "far too large": b"#" * (constants.LARGEST + 1),
    "a number of too many digits": b"steps = " + b"9" * 10_000,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_is_no_python_is_one_line_and_the_others_are_read(tmp_path: Path, broken: str) -> None:
    (tmp_path / "a.py").write_bytes(BROKEN[broken])
    (tmp_path / "b.py").write_text("steps = 16")
    first, second = differences(tmp_path)
    assert str(first).startswith("WARN a.py: not readable (")
    assert "<unknown>" not in str(first)
    assert "\n" not in str(first)
    assert second.text.startswith("denoise.max_steps: 16")


def test_values_that_nobody_writes_cost_nothing_and_say_nothing(tmp_path: Path) -> None:
    lines = [
        "A = 'x' * 10 ** 9", "B = 'ab' * 999999999999", "steps = 8 / 0", "canvas = 9 ** 9 ** 9", "rank = 1e999",
        "alpha = 2 ** 62 * 2 ** 62", f"steps = 0x{'f' * 10000}", "steps = steps", "C = [C, C]", "alpha = 1j",
        "rank = True", "steps = -'a'", "eos_id = ()", "prompt = '\\ud800 a b'", "prompt = b'a b'",
        "canvas = {**a}", "rank = ...",
    ]  # fmt: skip
    (tmp_path / "odd.py").write_text("\n".join(lines))
    (found,) = differences(tmp_path)
    assert "prompt.before: '\\ud800 a b'" in str(found)
    assert str(found).encode()  # can be printed


SOURCES = sorted(Path(constants.__file__).parents[2].rglob("*.py"))
TOKENS = (
    *("steps", "prompt", "rank", "=", ":", "(", ")", "[", "]", "{", "}", ",", ".", "*", "**", "-", "+", "/", "//", "%"),
    *(
        "\n",
        "  ",
        "lambda",
        "def f",
        "class C",
        "if",
        "else",
        "for x in",
        "f'{",
        "}'",
        "'''",
        "'a b'",
        "8",
        "1e999",
        "0x1",
    ),
    *(
        "return",
        "yield",
        "await",
        "async",
        "match",
        "case",
        "_",
        "@",
        ":=",
        "->",
        "\\",
        "#",
        "\t",
        "é",
        "\x00",
        "\r",
        "\f",
    ),
    *(
        "field(default=",
        "LoraConfig(r=",
        "dict(",
        ".get('steps', ",
        "add_argument('--steps', default=",
        "tokenizer(",
        "True",
    ),
)


@st.composite
def changed_sources(draw: st.DrawFn) -> bytes:
    """A file of ours with stretches left out, doubled and replaced."""
    text = SOURCES[draw(st.integers(0, len(SOURCES) - 1))].read_text()[:6000]
    chance = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(0, 4))):
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + 40)
        text = text[:at] + chance.choice(["", text[at:end] * 2, chance.choice(TOKENS)]) + text[end:]
    return text.encode()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(st.sampled_from(TOKENS), max_size=60).map(lambda tokens: " ".join(tokens).encode()),
        changed_sources(),
    )
)
def test_no_file_raises_and_everything_that_is_said_is_a_line_each(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_bytes(data)
    (tmp_path / "odd_config.json").write_bytes(data)
    for finding in constants.compare(tmp_path, OURS):
        assert str(finding).isprintable()
    unreadable = [finding for finding in constants.compare(tmp_path, OURS) if "odd.py: not readable" in finding.text]
    try:
        read_python("odd.py", data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        assert len(unreadable) == 1
    else:
        assert unreadable == []


def test_loading_says_what_differs_and_runs_no_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = hearing_model(3)
    checkpoint.save(model, tmp_path)
    save_file(
        {name: w.contiguous() for name, w in recogniser.adapter_state(model).items()}, tmp_path / "adapter.safetensors"
    )
    sprung = tmp_path / "sprung"
    (tmp_path / "inference.py").write_text(f"open({str(sprung)!r}, 'w')\ndef load(steps=24, canvas=8): ...")
    with caplog.at_level("INFO", "pipeline"):
        checkpoint.load(str(tmp_path))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0] == "canvas_length: 8 in inference.py:2 (canvas), ours 8"
    assert caplog.messages[1].startswith(
        "WARN denoise.max_steps: 24 in inference.py:2 (steps), ours 16: set denoise.max_steps"
    )
    assert not sprung.exists()
