"""Parts of a model that are not in its folder but on the Hugging Face hub, each pinned to one commit.

config.json names them: `"hub": {"backbone": {"repo": "google/...", "revision": null}, ...}`. A part that is in the
folder comes from the folder. `"hub": {"shared_encoder": "whisper-base"}` takes the encoder of an embedded model.

A revision is a commit of 40 hex digits. It stands in config.json or, which counts more,
in `model.revision=backbone@COMMIT,encoder@COMMIT,adapter@COMMIT`. Branches and tags are refused, since a job must find
the same weights tomorrow. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE work as with every tool of the hub.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from pipeline.config import ConfigError, Section

ASSETS = Path(__file__).parents[2] / "assets"  # the embedded models, among others
PARTS = {  # where each part lies in a folder
    "encoder": "encoder.safetensors",
    "adapter": "adapter.safetensors",
    "backbone": "backbone/model.safetensors",  # or its shards
}
MANIFEST = "manifest.json"  # beside config.json: {"sha256": {"backbone/model.safetensors": "..."}}
SAFE = ".safetensors"
SUFFIXES = (SAFE, ".pt", ".pth", ".bin")  # of an adapter's files; the first counts where two have one stem
WHOLE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
PATTERNS = {  # names of the files that are fetched
    "encoder": WHOLE,
    "backbone": (*WHOLE, "config.json", "tokenizer.json"),
    "adapter": (*(f"*{suffix}" for suffix in SUFFIXES), "*.py", "*config.json"),  # the last two: constants.py
}


class HubPart(Section):
    """A repository of the Hugging Face hub and the commit that is used."""

    repo: str
    revision: str | None = Field(None, description="40 hex digits; null: model.revision must give it")


class HubSpec(Section):
    """Where the parts that are not in the folder come from. The tokenizer comes with the backbone."""

    shared_encoder: str | None = Field(None, description="the embedded model whose encoder this one has as well")

    encoder: HubPart | None = None
    adapter: HubPart | None = None
    backbone: HubPart | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of a model lie on this machine."""

    tokenizer: Path
    encoder: tuple[Path, ...]
    adapter: tuple[Path, ...]
    backbone: tuple[Path, ...]


def pins(folder: Path, spec: HubSpec | None, revision: str | None) -> dict[str, HubPart]:
    """Parts that come from the hub, each with its commit; empty where the folder has all parts.

    Raises ConfigError naming the parts without a commit, or an unknown part in `revision`.
    """
    missing = _missing(folder, spec)
    given = _given(revision) if missing else {}
    pinned = {
        name: part.model_copy(update={"revision": given.get(name, part.revision)}) for name, part in missing.items()
    }
    unpinned = [f"{name} ({part.repo})" for name, part in pinned.items() if not _is_commit(part.revision)]
    if unpinned:
        example = ",".join(f"{name}@COMMIT" for name in pinned)
        raise ConfigError(
            f"model.revision: no commit of 40 hex digits is pinned for {', '.join(unpinned)}: give "
            f"model.revision={example} or write them into {folder / 'config.json'}, section hub; a "
            "repository's page lists its commits under Files, History"
        )
    return pinned


def locate(folder: Path, spec: HubSpec | None, revision: str | None = None) -> Files:
    """All files of a model, fetched from the hub where they are not on this machine. Raises ConfigError, one line."""
    fetched = {name: fetch(part, PATTERNS[name]) for name, part in pins(folder, spec, revision).items()}
    located = {}
    for name in PARTS:
        if name not in fetched:
            located[name] = in_folder(folder, name, spec)
        elif name == "adapter":
            located[name] = adapter_files(fetched[name])
        else:
            located[name] = shards(fetched[name] / "model.safetensors")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() and "backbone" in fetched:
        tokenizer = fetched["backbone"] / "tokenizer.json"
    for path in (tokenizer, *(path for paths in located.values() for path in paths)):
        if not path.is_file():
            raise ConfigError(f"model.name: {path}: No such file or directory")
    return Files(tokenizer, **located)


def fetch(part: HubPart, patterns: Iterable[str]) -> Path:
    """The folder of one commit in the hub's cache, with the files that match `patterns`.

    Fetches what is not there yet. Raises ConfigError that says what to do.
    """
    from huggingface_hub import constants, errors, get_token, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    what, page = f"model.name: {part.repo}@{(part.revision or '')[:12]}", f"{endpoint}/{part.repo}"
    try:
        return Path(
            snapshot_download(part.repo, revision=part.revision, allow_patterns=list(patterns), endpoint=endpoint)
        )
    except errors.GatedRepoError:
        if get_token() is None:
            why = f"gated, and there is no token: accept its terms on {page}, then set HF_TOKEN or run `hf auth login`"
        else:
            why = f"gated, and the token has no access: accept its terms on {page} with the token's account"
        raise ConfigError(f"{what}: {why}") from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"{what}: no such commit; {page}/commits/main lists them") from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(f"{what}: no such repository on {endpoint}, or a private one and no token for it") from None
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, FileNotFoundError):
        cause = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{endpoint} cannot be reached"
        command = f"hf download {part.repo} --revision {part.revision}"
        raise ConfigError(
            f"{what}: not in the cache ({constants.HF_HUB_CACHE}), and {cause}: run `{command}` on a machine with "
            "access and bring its cache, or give model.name a folder"
        ) from None
    except Exception as err:  # noqa: BLE001 - any other error of HTTP or of the disk
        raise ConfigError(f"{what}: not fetched: {' '.join(str(err).split()) or type(err).__name__}") from None


def verify(folder: Path, files: Files) -> int:
    """Compare SHA-256 hashes with the folder's manifest, and those of files from the hub with the names of their blobs.

    Reads every such file once. Returns how many files were compared. Raises ConfigError naming the first that differs.
    """
    wanted = {folder / name: digest for name, digest in manifest(folder).items()}
    for path in (files.tokenizer, *files.encoder, *files.adapter, *files.backbone):
        blob = path.resolve().name
        if path not in wanted and re.fullmatch(r"[0-9a-f]{64}", blob):
            wanted[path] = blob
    for path, digest in wanted.items():
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as err:
            raise ConfigError(f"model.name: {path}: {err.strerror}") from None
        if actual != digest:
            raise ConfigError(
                f"model.name: {path}: its SHA-256 is {actual[:16]}..., and must be {digest[:16]}...: fetch it again"
            )
    return len(wanted)


def manifest(folder: Path) -> dict[str, str]:
    """SHA-256 per file of the folder; empty where there is no manifest. Raises ConfigError where it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"model.name: {path}: {err}") from None
    if not isinstance(hashes, dict) or not all(re.fullmatch(r"[0-9a-f]{64}", str(value)) for value in hashes.values()):
        raise ConfigError(f"model.name: {path}: sha256 must hold 64 hex digits per file")
    return {str(name): str(value) for name, value in hashes.items()}


def write_manifest(folder: Path) -> None:
    """Write the hashes of all files that are in the folder now, except the model card."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, "MODEL_CARD.md"):
            with path.open("rb") as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / MANIFEST).write_text(json.dumps({"sha256": hashes}, indent=1) + "\n")


def _missing(folder: Path, spec: HubSpec | None) -> dict[str, HubPart]:
    """Parts that are not in the folder and have a repository in config.json."""
    parts: dict[str, HubPart | None] = {name: getattr(spec, name) if spec else None for name in PARTS}
    return {
        name: part
        for name, part in parts.items()
        if part is not None and not all(path.is_file() for path in in_folder(folder, name, spec))
    }


def _given(revision: str | None) -> dict[str, str]:
    """`backbone@COMMIT,...` as a dict. Raises ConfigError."""
    given = {}
    for item in (revision or "").split(",") if revision else ():
        name, at, commit = item.strip().partition("@")
        if name not in PARTS or not at or not _is_commit(commit):
            raise ConfigError(
                f"model.revision: {item!r}: this model has parts, so it reads "
                "backbone@COMMIT,encoder@COMMIT,adapter@COMMIT, each a commit of 40 hex digits"
            )
        given[name] = commit
    return given


def _is_commit(revision: str | None) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{40}", revision or ""))


def in_folder(folder: Path, part: str, spec: HubSpec | None) -> tuple[Path, ...]:
    """The files of a part of a model in format fullcanvas/1 on this machine. They may be absent.

    An adapter may be a torch file. An encoder that is not in the folder may be that of an embedded model.
    """
    paths = shards(folder / PARTS[part])
    if part == "encoder" and spec and spec.shared_encoder and not all(path.is_file() for path in paths):
        return (ASSETS / spec.shared_encoder / PARTS[part],)
    if part == "adapter" and not all(path.is_file() for path in paths):
        return next(((path,) for path in _alike(folder / PARTS[part]) if path.is_file()), paths)
    return paths


def adapter_files(folder: Path) -> tuple[Path, ...]:
    """All weight files of an adapter's repository; of files with one stem the first in SUFFIXES. Raises ConfigError."""
    found = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if not found:
        raise ConfigError(
            f"model.name: {folder}: no file of weights ({', '.join(SUFFIXES)}) in the adapter's repository"
        )
    return tuple(path for path in found if path == next(other for other in _alike(path) if other in found))


def _alike(path: Path) -> list[Path]:
    """The names that a file would have with every suffix."""
    return [path.with_suffix(suffix) for suffix in SUFFIXES]


def shards(path: Path) -> tuple[Path, ...]:
    """A safetensors file, or those that `NAME.index.json` beside it lists. Raises ConfigError."""
    index = path.with_name(path.name + ".index.json")
    if path.is_file() or not index.is_file():
        return (path,)
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return tuple(path.with_name(name) for name in sorted(names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"model.name: {index}: no list of shards: {err}") from None
