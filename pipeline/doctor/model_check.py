"""The model: its files and their hashes, the hub that it may come from, and the memory it will take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil

from pipeline.config import ConfigError, RunConfig
from pipeline.doctor.disks import existing
from pipeline.doctor.hardware import gpu_facts
from pipeline.doctor.rows import Row, size
from pipeline.model.files import hub, layout, whisper_layout
from pipeline.model.files.hub import HubPart

FETCH_AGAIN = "copy or fetch the model again"
ON_EVERY_NODE = "the same folder must be there on every node: a shared disk, an image, or the hub"


def files(config: RunConfig) -> Iterator[Row]:
    """The model as a run describes it, then its files against all hashes that are known. Reads every byte of it."""
    name, revision = config.model.name, config.model.revision
    if whisper_layout.is_hub_id(name) and to_fetch(config):
        yield Row("model", "ok", f"{name}: comes from the hub, see there")
        return
    info = layout.describe(name, revision)
    yield Row(
        "model",
        "ok",
        f"{info.name}@{info.weights_hash}: windows of {info.window_seconds:g} s, canvas {info.canvas_length}, "
        f"languages {', '.join(info.languages)}",
    )
    folder = layout.directory(name, revision)
    if whisper_layout.is_whisper(folder) or to_fetch(config):
        return
    located = hub.locate(folder, layout.read_config(folder).hub, revision)
    try:
        compared = hub.verify(folder, located)
    except ConfigError as err:
        yield Row("model hashes", "FAIL", str(err), FETCH_AGAIN)
        return
    if compared:
        yield Row("model hashes", "ok", f"{compared} files have the SHA-256 that they must have")
    else:
        yield Row("model hashes", "ok", f"nothing to compare with: no {hub.MANIFEST} in {folder}")


def present(config: RunConfig) -> Iterator[Row]:
    """For a node of a cluster: the files of a model in a folder are there. Reads config.json only."""
    name, revision = config.model.name, config.model.revision
    try:
        if to_fetch(config):
            yield Row("model", "ok", "comes from the hub, to the cache of each node")
            return
        folder = layout.directory(name, revision)
        if whisper_layout.is_whisper(folder):
            paths = whisper_layout.files(folder, whisper_layout.read(folder))
        else:
            found = hub.locate(folder, layout.read_config(folder).hub, revision)
            paths = [found.tokenizer, *found.encoder, *found.adapter, *found.backbone]
        total = sum(path.stat().st_size for path in paths)
    except (ConfigError, OSError) as err:
        yield Row("model", "FAIL", str(err), ON_EVERY_NODE)
        return
    yield Row("model", "ok", f"{len(paths)} files, {size(total)}")


def to_fetch(config: RunConfig) -> dict[str, tuple[HubPart, tuple[str, ...]]]:
    """Parts of the model, with the files wanted of each, that are not on this machine. Raises ConfigError as a run."""
    name, revision = config.model.name, config.model.revision
    parts: dict[str, tuple[HubPart, tuple[str, ...]]]
    if whisper_layout.is_hub_id(name):
        parts = {name: (HubPart(repo=name, revision=revision), whisper_layout.FILES)}
    else:
        folder = layout.directory(name)
        if whisper_layout.is_whisper(folder):
            return {}
        pinned = hub.pins(folder, layout.read_config(folder).hub, revision)
        parts = {part: (pin, hub.PATTERNS[part]) for part, pin in pinned.items()}
    return {part: wanted for part, wanted in parts.items() if not _is_cached(*wanted)}


def hub_access(config: RunConfig) -> Iterator[Row]:
    """Whether the hub is reached, with a token or without, and of each missing part whether it may be fetched and fits.

    The token is never shown.
    """
    from huggingface_hub import constants, get_session, get_token

    token = "a token is there" if get_token() else "no token"
    try:
        missing = to_fetch(config)
        needed = f"the model lacks {', '.join(missing)}" if missing else "the model needs nothing from there"
    except ConfigError:
        missing, needed = {}, "see the row of the model"
    if constants.is_offline_mode():
        found = f"offline (HF_HUB_OFFLINE); {needed}"
        advice = f"bring {constants.HF_HUB_CACHE} from a machine with access" if missing else ""
        yield Row("hub", "FAIL" if missing else "ok", found, advice)
        return
    endpoint = _endpoint()
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as err:  # noqa: BLE001 - of name resolution, TLS, a proxy
        why = " ".join(str(err).split()) or type(err).__name__
        advice = "network, proxy or HF_ENDPOINT; or HF_HUB_OFFLINE=1 with a cache from elsewhere"
        yield Row("hub", "FAIL" if missing else "warn", f"{endpoint} is not reached: {why}; {needed}", advice)
        return
    yield Row("hub", "ok", f"{endpoint} answers; {token}; {needed}")
    free = shutil.disk_usage(existing(Path(constants.HF_HUB_CACHE))).free
    for part, (pin, patterns) in missing.items():
        row, taken = _part(part, pin, patterns, endpoint, free)
        free -= taken
        yield row


def memory(config: RunConfig, gpus: list[dict[str, Any]] | None = None) -> Iterator[Row]:
    """Bytes that a replica will take against those that are free, on the GPU where the run uses one.

    gpus: devices as gpu_probe.py reports them; None: those of this machine. No row for a Whisper checkpoint, where
    nothing is known beforehand, nor for a model with parts that are still on the hub.
    """
    # Only here: a torch that cannot be imported is a row of this doctor, not its end.
    from pipeline.model.memory import beforehand, require

    name, revision = config.model.name, config.model.revision
    try:
        if to_fetch(config) or whisper_layout.is_whisper(layout.directory(name, revision)):
            return
        needed = beforehand(config)
    except ConfigError:
        return  # the model's own row says what is wrong
    if gpus is None:
        gpus = gpu_facts()["devices"]
    if config.model.device == "cpu" or not gpus:
        free = psutil.virtual_memory().available
        good = needed.total * config.compute.replicas_max <= free
        found = f"{config.compute.replicas_max} x {needed} of {size(free)} free main memory"
        yield Row("model memory", "ok" if good else "warn", found, "" if good else "fewer replicas or canvases")
        return
    free = int(max(device["free"] for device in gpus) * min(1.0, config.compute.gpus_per_replica or 1.0))
    try:
        require(needed, free, slots=config.compute.canvases)
    except ConfigError as err:
        advice = f"{size(free)} are free per replica: fewer canvases or a larger GPU"
        yield Row("model memory", "FAIL", str(err), advice)
        return
    yield Row("model memory", "ok", f"{needed} of {size(free)} free GPU memory per replica")


def _part(part: str, pin: HubPart, patterns: tuple[str, ...], endpoint: str, free: int) -> tuple[Row, int]:
    """The row of one part that must be fetched, and its bytes."""
    from huggingface_hub import HfApi, errors

    name = f"{part}: {pin.repo}@{(pin.revision or '')[:12]}"
    page = f"{endpoint}/{pin.repo}"
    api = HfApi(endpoint=endpoint)
    try:
        about = api.model_info(pin.repo, revision=pin.revision, files_metadata=True, timeout=20)
        api.auth_check(pin.repo)
    except errors.GatedRepoError:
        advice = f"accept its terms on {page}, then HF_TOKEN or `hf auth login` with that account"
        return Row("hub", "FAIL", f"{name}: gated, and not open to this machine", advice), 0
    except errors.RevisionNotFoundError:
        return Row("hub", "FAIL", f"{name}: no such commit", f"{page}/commits/main lists them"), 0
    except errors.RepositoryNotFoundError:
        return Row("hub", "FAIL", f"{name}: no such repository, or a private one", "the name, or HF_TOKEN"), 0
    wanted = [file for file in about.siblings or () if any(fnmatch(file.rfilename, p) for p in patterns)]
    total = sum(file.size or 0 for file in wanted)
    found = f"{name}: {size(total)} to fetch, {size(free)} free in the cache"
    if total > free:
        return Row("hub", "FAIL", found, "HF_HOME on a larger disk"), total
    return Row("hub", "ok", found), total


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)


def _is_cached(pin: HubPart, patterns: tuple[str, ...]) -> bool:
    """Whether the weights of one commit are in the hub's cache. Asks nobody."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(pin.repo, revision=pin.revision, allow_patterns=list(patterns), local_files_only=True)
        )
    except Exception:  # noqa: BLE001 - not there, not whole, not readable: then it must be fetched
        return False
    return any(folder.glob("*.safetensors"))
