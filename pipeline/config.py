"""Every setting of every job: frozen pydantic sections, read from YAML and `section.key=value` overrides."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
Corpus = Literal["fleurs", "commonvoice", "voxpopuli", "mls"]


class ConfigError(Exception):
    """A user's mistake: one line naming the key or file. Jobs print it and exit 2."""


_KEYS_IN_ADDRESS = re.compile(
    r"://[^/@]*:(?!\d*(?:[/:]|$))[^@]*@"  # scheme://user:password@host, also where the password has a slash
    r"|[?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig|token|access_key|secret_key)=",
    re.IGNORECASE,
)


def _without_keys(uri: str) -> str:
    """The same address. Raises ValueError where it holds a password or a signature: it would stand in every log."""
    if _KEYS_IN_ADDRESS.search(uri):
        raise ValueError("an address with a password in it; keys belong into the environment or a profile")
    return uri


class Section(BaseModel):
    """Base of all sections: immutable, and a key that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SourceConfig(Section):
    """Where the audio is and how to read it."""

    uri: str = Field(min_length=1, description="a file, folder, glob (** allowed) or object-store prefix")
    format: Literal["auto", "webdataset", "parquet", "files", "manifest", "librispeech", "huggingface", Corpus] = "auto"
    split: str | None = Field(
        None, description="test|dev|train|... of a corpus with splits; null: the only one there is; huggingface: all"
    )
    include: str | None = Field(None, description="glob on recording ids: only these are taken")
    exclude: str | None = Field(None, description="glob on recording ids: these are left out")
    audio_column: str | None = Field(None, description="column of the audio, or of its path; null: found by its name")
    id_column: str | None = Field(None, description="column of the recording id; null: found by its name")
    text_column: str | None = Field(None, description="column or key of the reference text; null: found by its name")
    language: str | None = Field(
        None, description="en|de|fr|es|hi|zh for all, `column:NAME` to take it from the source, null where unknown"
    )
    channels: Literal["mix", "split"] = Field(
        "mix", description="mix|split; split: every channel is heard by itself, as in telephone calls"
    )

    @pydantic.field_validator("uri")
    @classmethod
    def _no_keys(cls, value: str) -> str:
        return _without_keys(value)

    @pydantic.field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        if value is None or value in LANGUAGES or value.startswith("column:"):
            return value
        raise ValueError(f"{value!r} is not supported; one of {', '.join(LANGUAGES)}, column:NAME or null")


class OutputConfig(Section):
    """Where the output tree goes."""

    uri: str = Field(min_length=1, description="a local directory or s3://bucket/prefix")
    part_rows: int = Field(100_000, ge=1, description="rows per published transcripts/part-*.parquet")

    @pydantic.field_validator("uri")
    @classmethod
    def _no_keys(cls, value: str) -> str:
        return _without_keys(value)


class StorageConfig(Section):
    """How object stores are reached, for source and output alike; null: as AWS's tools do.

    Access keys are no settings: they come from the environment, the profile or the machine's role, and so stand in no
    file and no log of ours.
    """

    endpoint: str | None = Field(None, description="http(s)://host:port of an S3 compatible; null: AWS_ENDPOINT_URL")
    region: str | None = Field(None, description="null: AWS_DEFAULT_REGION or the profile's")
    profile: str | None = Field(None, description="of ~/.aws, with keys, endpoint and region; null: AWS_PROFILE")
    single_writer: bool = Field(
        False, description="for a store without conditional puts: nobody else ever writes to this output"
    )

    @pydantic.field_validator("endpoint")
    @classmethod
    def _no_keys(cls, value: str | None) -> str | None:
        return None if value is None else _without_keys(value)


class ModelConfig(Section):
    """Which model, where it runs."""

    name: str = Field(
        "tiny",
        description="tiny | diffusion-gemma-asr-small | a directory in format fullcanvas/1 | a Whisper checkpoint",
    )
    revision: str | None = Field(None, description="commit of a model on the hub")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and activations")
    verify: bool = Field(True, description="compare SHA-256 hashes with manifest.json or the hub before loading")
    compile: bool = Field(False, description="torch.compile the denoising step")
    compile_cache: str | None = Field(None, description="directory shared by replicas for compiled code")
    head: Literal["torch", "triton"] = Field("torch", description="code of the vocabulary head; triton: CUDA only")


class DenoiseConfig(Section):
    """The denoising loop. Defaults: DiffusionGemma's generation config, 16 steps as on the adapter's model card."""

    max_steps: int = Field(16, ge=1, le=256, description="denoising steps of a canvas at most")
    canvas_length: Annotated[int, Field(ge=8, le=1024)] | Literal["auto"] | None = Field(
        None, description="tokens of one canvas; null: the model's own; auto: by the speech seconds"
    )
    entropy_bound: float = Field(0.1, gt=0, description="nats that the tokens accepted in one step may hold together")
    temperature_min: float = Field(0.4, gt=0, description="of the last step")
    temperature_max: float = Field(0.8, gt=0, description="of the first step")
    stability: int = Field(1, ge=0, le=16, description="steps for which the argmax canvas must repeat")
    confidence_threshold: float = Field(0.005, gt=0, description="mean entropy below which a stable row stops")
    early_stop: bool = Field(True, description="stop a row when it is stable and sure")
    seed: int = Field(0, ge=0, lt=2**31, description="same segment, same seed, same text")


class SegmentConfig(Section):
    """How recordings are cut into windows for the model."""

    max_seconds: float = Field(30.0, ge=1, le=30, description="upper bound; the model's own window is one as well")
    piece_seconds: int = Field(
        900, ge=60, le=7200, description="of audio that is in memory at once; a longer unit goes in pieces"
    )
    vad: bool = Field(True, description="Silero voice activity; false: fixed windows")
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which on a frame is speech")
    min_silence_ms: int = Field(300, ge=32, description="shorter pauses do not end a piece of speech")
    min_speech_ms: int = Field(100, ge=32, description="shorter pieces are no speech")
    pad_ms: int = Field(200, ge=0, le=2000, description="kept before and after speech")


class ComputeConfig(Section):
    """Ray actor pools."""

    replicas_min: int = Field(1, ge=1, description="model replicas from the start")
    replicas_max: int = Field(1, ge=1, description="model replicas where there is work for them")
    gpus_per_replica: float = Field(0.0, ge=0, description="0: on the CPU")
    cpus_per_replica: float = Field(1.0, ge=0, description="logical CPUs of a replica without a GPU")
    threads_per_replica: int = Field(1, ge=1, description="torch threads of a replica on the CPU")
    canvases: int = Field(16, ge=1, description="canvas slots of one replica")
    decode_actors: int = Field(1, ge=1, description="processes that read, decode and cut audio, one CPU each")
    units_in_flight: int = Field(4, ge=1, description="units a replica works on at once")
    max_recording_seconds: float = Field(86_400, gt=0, description="longer recordings are dead-lettered as too_long")
    unit_timeout_seconds: float = Field(
        3_600, gt=0, description="for a part in one stage; then its unit is tried alone"
    )


class PlanConfig(Section):
    """Bounds of one work unit, and the forecast of `jobs.plan`."""

    unit_seconds: float = Field(600, gt=0, description="of audio, where the source declares it")
    unit_megabytes: float = Field(64, gt=0, description="of encoded audio")
    unit_recordings: int = Field(256, ge=1, description="more make another unit")
    probe_recordings: int = Field(16, ge=0, description="recordings sampled at random for the forecast; 0: no timing")
    probe_seconds: float = Field(30, gt=0, description="seconds for that, about: half to decode, half to transcribe")
    usd_per_gpu_hour: float | None = Field(None, ge=0, description="what a GPU costs, for the forecast")


class BudgetConfig(Section):
    """How much may fail before the job does."""

    max_dead_fraction: float = Field(0.05, ge=0, le=1, description="of recordings; above it the job exits 1")


class RunConfig(Section):
    """The whole of `jobs.transcribe`."""

    source: SourceConfig
    output: OutputConfig
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    segment: SegmentConfig = SegmentConfig()
    compute: ComputeConfig = ComputeConfig()
    plan: PlanConfig = PlanConfig()
    budget: BudgetConfig = BudgetConfig()
    publish: bool = Field(False, description="only publish what is committed, transcribe nothing")
    retry: Literal["none", "dead_letters"] = Field("none", description="dead_letters: take up again what has failed")


ConfigT = TypeVar("ConfigT", bound=Section)
PACKAGE = Path(__file__).parent  # its folders assets/ and configs/ are installed with it


def load(schema: type[ConfigT], path: str | None, overrides: list[str]) -> ConfigT:
    """Read YAML (or nothing) and apply `a.b=value` overrides. All errors are reported together, one per line.

    Where `path` is not there, the config of that name in this package is read: demo.yaml, configs/evaluate-self.yaml.
    Override text stays text so that pydantic coerces it; YAML is parsed only for `null`, `[...]` and `{...}`.
    Raises ConfigError naming the file or the full key.
    """
    tree: dict[str, Any] = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(tree, override, schema)
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as err:
        raise ConfigError("\n".join(_line(e, schema) for e in err.errors())) from None


def _read_yaml(path: str) -> dict[str, Any]:
    packaged = PACKAGE / "configs" / path.removeprefix("configs/")
    own = not Path(path).exists() and packaged.is_file()
    try:
        tree = yaml.safe_load((packaged if own else Path(path)).read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror or err}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(err).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be sections, found {type(tree).__name__}")
    return _in_package(tree) if own else tree


def _in_package(value: Any) -> Any:
    """A value of a config of this package, in which paths below pipeline/ and configs/ lead into the package."""
    if isinstance(value, dict):
        return {key: _in_package(item) for key, item in value.items()}
    path = PACKAGE / str(value).removeprefix("pipeline/")
    return str(path) if str(value).startswith(("pipeline/", "configs/")) and path.exists() else value


def _apply(tree: dict[str, Any], override: str, schema: type[Section]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override reads section.key=value")
    value: Any = text
    if text == "null" or text[:1] in ("[", "{"):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{key}: {text!r} is not YAML") from None
    *parents, leaf = key.split(".")
    node = tree
    section: type[BaseModel] | None = schema
    for depth, parent in enumerate(parents):
        field = section.model_fields.get(parent) if section else None
        section = section_of(field) if field else None
        child = node.setdefault(parent, {})
        if (field and not section) or not isinstance(child, dict):
            raise ConfigError(f"{key}: {'.'.join(parents[: depth + 1])} is no section")
        node = child
    node[leaf] = value


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, that of `Section | None` included; None where it holds a plain value."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every settable key of a config with its field, sections flattened: ("source.uri", ...).

    Sections by name (dict[str, Section]) stand under NAME.
    """
    for name, field in schema.model_fields.items():
        inner = section_of(field)
        if inner:
            named = get_origin(field.annotation) is dict
            yield from keys(inner, f"{prefix}{name}.{'NAME.' if named else ''}")
        else:
            yield prefix + name, field


def _line(error: Any, schema: type[Section]) -> str:
    key = ".".join(
        str(part) for part in error["loc"] if not str(part).startswith(("constrained", "literal", "function"))
    )
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key{_suggestion(key, schema)}"
    if error["type"] == "missing":
        return f"{key}: required and not given"
    given = "" if "password" in error["msg"] else f" (given: {error['input']!r})"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}{given}"


def _suggestion(key: str, schema: type[Section]) -> str:
    known = {name for name, _ in keys(schema)}
    known |= {name.rpartition(".")[0] for name in known} - {""}
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
