"""The model: its files and their hashes, the hub that it may come from, and the memory that it will take."""

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
from pipeline.doctor.rows import Result, size
from pipeline.model import engines
from pipeline.model.files import constants, hub, layout
from pipeline.model.files.hub import HubPart

FETCH_AGAIN = "copy or fetch the model again"
ON_EVERY_NODE = "the same folder must be there on every node: a shared disk, an image, or the hub"


def files(config: RunConfig) -> Iterator[Result]:
    """The model as a run describes it, then its files against all known hashes. Reads every byte of them."""
    name, revision = config.model.name, config.model.revision
    if engines.is_hub_id(name) and to_fetch(config):
        yield Result("model", "ok", f"{name}: comes from the hub, see the rows `hub`")
        return
    info = layout.describe(name, revision)
    folder = layout.directory(name, revision)
    engine = engines.engine_of(folder)
    canvas = f"canvas {info.canvas_length}, " if info.canvas_length else ""
    yield Result(
        "model",
        "ok",
        f"{info.name}@{info.weights_hash}: engine {engine.name}, windows of {info.window_seconds:g} s, {canvas}"
        f"languages {', '.join(info.languages)}",
    )
    if engine is not engines.DIFFUSION or to_fetch(config):
        return
    located = hub.locate(folder, layout.read_config(folder).hub, revision)
    try:
        compared = hub.verify(folder, located)
    except ConfigError as err:
        yield Result("model hashes", "FAIL", str(err), FETCH_AGAIN)
        return
    if compared:
        yield Result("model hashes", "ok", f"{compared} files have the SHA-256 that they must have")
    else:
        yield Result("model hashes", "ok", f"nothing to compare with: no {hub.MANIFEST} in {folder}")


def adapter(config: RunConfig) -> Iterator[Result]:
    """Whether every weight of the adapter finds its place, before any is loaded; then its constants against ours.

    There is no row while parts of the model are still on the hub.
    """
    # Only here: a torch that cannot be imported is a row of this doctor, not its end.
    from pipeline.model.files import conversion, importer

    name, revision = config.model.name, config.model.revision
    try:
        folder = layout.directory(name, revision)
        if to_fetch(config) or engines.engine_of(folder) is not engines.DIFFUSION:
            return
        spec = layout.read_config(folder)
        located = hub.locate(folder, spec.hub, revision)
    except ConfigError:
        return  # the model's own row says what is wrong
    try:
        matches = importer.match_files(located.adapter, conversion.adapter_shapes(spec))
    except ConfigError as err:
        yield Result("model adapter", "FAIL", str(err), "compare projector and lora in config.json with the adapter")
        return
    yield Result("model adapter", "ok", f"{len(matches.names)} weights of the adapter are at their places")
    findings = constants.compare(located.adapter[0].parent, spec)
    different = [finding for finding in findings if finding.differs]
    if findings and not different:
        yield Result("model constants", "ok", f"{len(findings)} constants beside the adapter are ours")
    for finding in different:
        yield Result("model constants", "warn", finding.text, finding.advice)


def present(config: RunConfig) -> Iterator[Result]:
    """For a node of a cluster: whether the files of the model are there. Reads config.json only."""
    name, revision = config.model.name, config.model.revision
    try:
        if to_fetch(config):
            yield Result("model", "ok", "comes from the hub, to the cache of each node")
            return
        folder = layout.directory(name, revision)
        engine = engines.engine_of(folder)
        if engine is not engines.DIFFUSION:
            paths = engine.files(folder)
        else:
            located = hub.locate(folder, layout.read_config(folder).hub, revision)
            paths = [located.tokenizer, *located.encoder, *located.adapter, *located.backbone]
        total = sum(path.stat().st_size for path in paths)
    except (ConfigError, OSError) as err:
        yield Result("model", "FAIL", str(err), ON_EVERY_NODE)
        return
    yield Result("model", "ok", f"{len(paths)} files, {size(total)}")


def to_fetch(config: RunConfig) -> dict[str, tuple[HubPart, tuple[str, ...]]]:
    """Parts of the model that are not on this machine, with the patterns of their files. Raises ConfigError."""
    name, revision = config.model.name, config.model.revision
    parts: dict[str, tuple[HubPart, tuple[str, ...]]]
    if engines.is_hub_id(name):
        parts = {name: (HubPart(repo=name, revision=revision), engines.HUB_PATTERNS)}
    else:
        folder = layout.directory(name)
        if engines.engine_of(folder) is not engines.DIFFUSION:
            return {}
        pinned = hub.pins(folder, layout.read_config(folder).hub, revision)
        parts = {part: (pin, hub.PATTERNS[part]) for part, pin in pinned.items()}
    return {part: wanted for part, wanted in parts.items() if not _is_cached(*wanted)}


def hub_access(config: RunConfig) -> Iterator[Result]:
    """Whether the hub can be reached; then, for each missing part, whether it may be fetched and fits on the disk.

    The token is never shown.
    """
    from huggingface_hub import constants, get_session, get_token

    token = "a token is there" if get_token() else "no token"  # pragma: allowlist secret
    try:
        missing = to_fetch(config)
        needed = f"the model lacks {', '.join(missing)}" if missing else "the model needs nothing from there"
    except ConfigError:
        missing, needed = {}, "see the row `model`"
    if constants.is_offline_mode():
        text = f"offline (HF_HUB_OFFLINE); {needed}"
        advice = f"copy {constants.HF_HUB_CACHE} from a machine with access" if missing else ""
        yield Result("hub", "FAIL" if missing else "ok", text, advice)
        return
    endpoint = _endpoint()
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as err:  # noqa: BLE001 - any error of name resolution, TLS or a proxy
        why = " ".join(str(err).split()) or type(err).__name__
        advice = "check network, proxy and HF_ENDPOINT; or set HF_HUB_OFFLINE=1 and copy the cache of another machine"
        yield Result("hub", "FAIL" if missing else "warn", f"{endpoint} cannot be reached: {why}; {needed}", advice)
        return
    yield Result("hub", "ok", f"{endpoint} answers; {token}; {needed}")
    free = shutil.disk_usage(existing(Path(constants.HF_HUB_CACHE))).free
    for part, (pin, patterns) in missing.items():
        row, taken = _part(part, pin, patterns, endpoint, free)
        free -= taken
        yield row


def memory(config: RunConfig, gpus: list[dict[str, Any]] | None = None) -> Iterator[Result]:
    """The memory that a replica will take, against what is free: on the GPU where the run uses one, else main memory.

    gpus: devices as gpu_probe.py reports them; None: those of this machine. There is a row for diffusion models
    only, whose memory is known beforehand, and none while parts of the model are still on the hub.
    """
    # Only here: a torch that cannot be imported is a row of this doctor, not its end.
    from pipeline.model.memory import beforehand, require

    name, revision = config.model.name, config.model.revision
    try:
        if to_fetch(config) or engines.engine_of(layout.directory(name, revision)) is not engines.DIFFUSION:
            return
        needed = beforehand(config)
    except ConfigError:
        return  # the model's own row says what is wrong
    if gpus is None:
        gpus = gpu_facts()["devices"]
    if config.model.device == "cpu" or not gpus:
        free = psutil.virtual_memory().available
        good = needed.total * config.compute.replicas_max <= free
        text = f"{config.compute.replicas_max} x {needed} of {size(free)} free main memory"
        yield Result("model memory", "ok" if good else "warn", text, "" if good else "use fewer replicas or canvases")
        return
    free = int(max(device["free"] for device in gpus) * min(1.0, config.compute.gpus_per_replica or 1.0))
    try:
        require(needed, free, slots=config.compute.canvases)
    except ConfigError as err:
        advice = f"{size(free)} are free per replica: use fewer canvases or a larger GPU"
        yield Result("model memory", "FAIL", str(err), advice)
        return
    yield Result("model memory", "ok", f"{needed} of {size(free)} free GPU memory per replica")


def _part(part: str, pin: HubPart, patterns: tuple[str, ...], endpoint: str, free: int) -> tuple[Result, int]:
    """The row of one part that must be fetched, and its size in bytes."""
    from huggingface_hub import HfApi, errors

    name = f"{part}: {pin.repo}@{(pin.revision or '')[:12]}"
    page = f"{endpoint}/{pin.repo}"
    api = HfApi(endpoint=endpoint)
    try:
        about = api.model_info(pin.repo, revision=pin.revision, files_metadata=True, timeout=20)
        api.auth_check(pin.repo)
    except errors.GatedRepoError:
        advice = f"accept its terms on {page}, then HF_TOKEN or `hf auth login` with that account"
        return Result("hub", "FAIL", f"{name}: gated, and this machine has no access", advice), 0
    except errors.RevisionNotFoundError:
        return Result("hub", "FAIL", f"{name}: no such commit", f"{page}/commits/main lists the commits"), 0
    except errors.RepositoryNotFoundError:
        advice = "check the name, or set HF_TOKEN"
        return Result("hub", "FAIL", f"{name}: no such repository, or a private one", advice), 0
    wanted = [file for file in about.siblings or () if any(fnmatch(file.rfilename, p) for p in patterns)]
    total = sum(file.size or 0 for file in wanted)
    text = f"{name}: {size(total)} to fetch, {size(free)} free in the cache"
    if total > free:
        return Result("hub", "FAIL", text, "set HF_HOME to a folder on a larger disk"), total
    return Result("hub", "ok", text), total


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)


def _is_cached(pin: HubPart, patterns: tuple[str, ...]) -> bool:
    """Whether the weights of one commit are in the hub's cache. Sends no request."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(pin.repo, revision=pin.revision, allow_patterns=list(patterns), local_files_only=True)
        )
    except Exception:  # noqa: BLE001 - absent, incomplete or unreadable: then it must be fetched
        return False
    return any(path.suffix in hub.SUFFIXES for path in folder.glob("*"))
