"""The engines, one line each: which checkpoints each of them reads, and which file runs them. Imports no torch.

docs/engines.md says what an engine must offer, and how to add one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.model.files import hub, whisper_layout
from pipeline.model.files.facts import Facts

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WHISPER = whisper_layout.ARCHITECTURE
HERE = "pipeline.model"
PROCESSORS = (  # a checkpoint has some of them
    *("preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model"),
)


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, and what it reads.

    module: has `start(run: RunConfig, device: str) -> Worker`; only a replica imports it. architectures: a regular
    expression of what config.json names. needed, optional: names of the files beside the weights that decide a text.
    facts: what a folder says; raises ConfigError.
    """

    name: str
    module: str
    architectures: str
    needed: tuple[str, ...] = (CONFIG,)
    optional: tuple[str, ...] = ()
    facts: Callable[[Path], Facts] = lambda _folder: Facts()

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the files that are fetched from the hub."""
        return (*self.needed, *self.optional, WEIGHTS, f"{WEIGHTS}.index.json", "model-*-of-*.safetensors")

    def files(self, folder: Path) -> list[Path]:
        """All files that decide the text of a recording. Some that are needed may be absent."""
        optional = [path for name in self.optional if (path := folder / name).is_file()]
        return [*(folder / name for name in self.needed), *optional, *hub.shards(folder / WEIGHTS)]


DIFFUSION = Engine("diffusion", f"{HERE}.denoise.loading", "")  # of format fullcanvas/1, which layout.py reads
ENGINES = (
    DIFFUSION,
    Engine("whisper", f"{HERE}.whisper.loading", WHISPER, whisper_layout.NEEDED, facts=whisper_layout.facts),
    Engine("ctc", f"{HERE}.ctc_checkpoint", r"\w+ForCTC", optional=PROCESSORS),
)
HUB_PATTERNS = tuple(dict.fromkeys(pattern for engine in ENGINES for pattern in engine.patterns))


def engine_of(folder: Path) -> Engine:
    """The engine that reads a folder, by its config.json. Raises ConfigError for an architecture of none."""
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return DIFFUSION  # the reader of format fullcanvas/1 says what is wrong
    if not isinstance(tree, dict) or "format" in tree or not {"architectures", "model_type"} & set(tree):
        return DIFFUSION
    named = tree.get("architectures") or tree.get("model_type")
    if isinstance(named, list) and len(named) == 1 and isinstance(named[0], str):
        for engine in ENGINES:
            if re.fullmatch(engine.architectures, named[0]):
                return engine
    raise ConfigError(
        f"model.name: {folder / CONFIG}: architecture {json.dumps(named)}; this version reads "
        f"{WHISPER}, every ...ForCTC and fullcanvas/1"
    )


def is_hub_id(name: str) -> bool:
    """Whether a model name is OWNER/NAME of the Hugging Face hub, and no folder of this machine."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def snapshot(name: str, revision: str | None) -> Path:
    """The folder of a checkpoint in the hub's cache, fetched where it is not there yet (not with HF_HUB_OFFLINE).

    revision: a commit, so that all replicas load the same files. Raises ConfigError, also where the hub cannot be
    reached.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ConfigError(
            f"model.name: {name}: no such folder; from the hub it needs model.revision, a commit of 40 hex digits"
        )
    part = hub.HubPart(repo=name, revision=revision)
    return hub.fetch(part, engine_of(hub.fetch(part, (CONFIG,))).patterns)
