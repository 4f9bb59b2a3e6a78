"""The settings of a run: immutable pydantic sections. `config_file.py` reads them."""

from __future__ import annotations

import os
import posixpath
import re
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

# One process decodes about 400 seconds of audio in a second. A replica on a GPU transcribes about as much, and decoding
# must not be what it waits for; one on a CPU transcribes at most 50.
DECODERS_PER_GPU_REPLICA = 2
REPLICAS_PER_DECODER = 8
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
COLUMN, PATH = "column:", "path:"  # source.language=column:NAME or path:REGEX
Corpus = Literal["fleurs", "commonvoice", "voxpopuli", "mls"]


class ConfigError(Exception):
    """A mistake of the user: one line that names the key or the file. Jobs print it and exit with code 2."""


# pragma: allowlist nextline secret
# scheme://user:password@host, also where the password contains a slash
_PASSWORD = re.compile(r"://[^/@\s]*:(?!\d*(?:[/:]|$))[^@\s]*@")
_QUERY = re.compile(r"\?[^\s'\"?#]*[^\s'\"?#:,;.)]")  # without the punctuation of a sentence behind it
_SECRET_PARAMETER = re.compile(
    r"(?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|Signature|sig|token|access_key|secret_key)=", re.IGNORECASE
)


def public(text: str) -> str:
    """The same text without secrets: its addresses lose passwords, and parameters that sign them or are keys."""
    return _QUERY.sub(_without_signature, _PASSWORD.sub("://", text))


def _without_signature(query: re.Match[str]) -> str:
    parameters = query[0][1:].split("&")
    kept = [parameter for parameter in parameters if not _SECRET_PARAMETER.match(parameter)]
    if len(kept) == len(parameters):
        return query[0]
    return f"?{'&'.join(kept)}" if kept else ""


def place(uri: str) -> str:
    """The one form of an address: two addresses of one folder have the same. No slash stands at the end.

    A local path becomes absolute and follows links. What is before "::" in a chain of addresses is left out.
    """
    scheme, is_url, path = uri.rpartition("::")[2].partition("://")
    if is_url and scheme not in ("file", "local"):
        same = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az"}
        return f"{same.get(scheme, scheme)}://{posixpath.normpath(path)}"
    return os.path.realpath(path if is_url else uri.rpartition("::")[2])


class Misfit(ValueError):
    """Two keys of a section that do not fit. `key` is the one that the error names, as seen from the section."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Section(BaseModel):
    """Base of all sections: values cannot be changed, an unknown key is an error, and no text has a secret in it.

    RANGES: pairs of keys; the first must not be above the second.
    """

    RANGES: ClassVar[tuple[tuple[str, str], ...]] = ()
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @pydantic.field_validator("*")
    @classmethod
    def _no_secret(cls, value: Any) -> Any:
        if isinstance(value, str) and public(value) != value:
            raise ValueError("an address must not contain a password; put keys into the environment or a profile")
        return value

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        for low, high in self.RANGES:
            if getattr(self, low) > getattr(self, high):
                raise Misfit(low, f"{getattr(self, low)} is above {high}, which is {getattr(self, high)}")
        return self


class SourceConfig(Section):
    """Where the audio is and how to read it."""

    uri: str = Field(min_length=1, description="a file, a folder, a glob (** allowed) or an object-store prefix")
    format: Literal["auto", "webdataset", "parquet", "files", "manifest", "librispeech", "huggingface", Corpus] = Field(
        "auto", description="how the source is laid out; auto: detected from its files"
    )
    split: str | None = Field(
        None, description="test, dev, train, ... of a corpus; null: its only split (huggingface: all splits)"
    )
    include: str | None = Field(None, description="glob on recording ids: use only these; null: use all")
    exclude: str | None = Field(None, description="glob on recording ids: leave these out")
    audio_column: str | None = Field(
        None, description="name of the column with the audio or its path; null: chosen by its name"
    )
    id_column: str | None = Field(
        None, description="name of the column with the recording id; null: chosen by its name"
    )
    text_column: str | None = Field(
        None, description="name of the column or key with the reference text; null: chosen by its name"
    )
    language: str | None = Field(
        None,
        description="en, de, fr, es, hi or zh for all recordings; `column:NAME`: from that column of the source; "
        "`path:REGEX`: from the path, as in path:/(de|fr)/; null: what the source says",
    )
    channels: Literal["mix", "split"] = Field(
        "mix", description="mix: the mean of all channels; split: each channel alone, as for telephone calls"
    )
    track: Literal["default", "all"] | Annotated[int, Field(ge=0, lt=1024)] = Field(
        "default",
        description="audio track of a container with several: default: the one marked so, else the first; all: each by "
        "itself, as another channel; or its number from 0",
    )

    root: str | None = Field(
        None,
        description="folder or address below which the paths in manifests and tables must lie; null: the folder of "
        "source.uri, or one beside a manifest's own",
    )
    trust: bool = Field(
        False,
        description="true: open every address that a manifest or table names, also of this machine and its network",
    )

    @pydantic.field_validator("language")
    @classmethod
    def _known_language(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(PATH):
            try:
                re.compile(value.removeprefix(PATH))
            except re.error as err:
                raise ValueError(f"not a regular expression: {err}") from None
        elif value is not None and value not in LANGUAGES and not value.startswith(COLUMN):
            raise ValueError(
                f"{value!r} is not supported; use one of {', '.join(LANGUAGES)}, column:NAME, path:REGEX or null"
            )
        return value


class OutputConfig(Section):
    """Where the results are written."""

    uri: str = Field(min_length=1, description="a local directory, or s3://, gs:// or az://bucket/prefix")
    part_rows: int = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="about this many rows in each published file transcripts/part-*.parquet",
    )


class StorageConfig(Section):
    """How to reach object stores, for the source and for the output. null means: as the AWS tools do it.

    Access keys are not settings. They come from the environment, the profile or the machine's role, so that no file
    and no log of ours contains them.
    """

    endpoint: str | None = Field(
        None, description="http(s)://host:port of a store that speaks S3; null: AWS_ENDPOINT_URL or AWS itself"
    )
    region: str | None = Field(None, description="region of the store; null: AWS_DEFAULT_REGION or the profile's")
    profile: str | None = Field(None, description="profile in ~/.aws with keys, endpoint and region; null: AWS_PROFILE")
    single_writer: bool = Field(
        False, description="for a store without conditional writes: you promise that one job at a time writes here"
    )


class ModelConfig(Section):
    """Which model runs, and on what."""

    name: str = Field(
        "tiny",
        description="tiny, whisper-base, diffusion-gemma-asr-small, a directory in format fullcanvas/1, or one of "
        "Whisper or CTC of transformers, or its name on the hub",
    )
    revision: str | None = Field(None, description="commit of a model on the Hugging Face hub")
    second: str | None = Field(
        None,
        description="another model, by its name, that recognises the same segments in replicas of its own; signals say "
        "how far it agrees; null: none",
    )
    second_revision: str | None = Field(None, description="commit of model.second on the Hugging Face hub")
    calibrator: str | None = Field(
        "auto",
        description="a file of jobs.calibrate, for the confidences that are published; auto: the output keeps its own, "
        "and a new one has the model's, where it ships one; null: none, confidences are raw",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs; auto: cuda if available")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number type of weights and activations; auto: float32, and for Whisper bfloat16 on a CPU with "
        "instructions for it",
    )
    weights: Literal["bf16", "fp8"] = Field(
        "bf16",
        description="fp8: the backbone's matrices take one byte per weight, for smaller GPUs; bf16: all in model.dtype",
    )
    verify: bool = Field(True, description="before loading, compare the SHA-256 of files with manifest.json or the hub")
    compile: bool = Field(False, description="compile the denoising step with torch.compile")
    compile_cache: str | None = Field(
        None, description="directory of compiled code, shared by all replicas; null: torch's own"
    )
    head: Literal["torch", "triton"] = Field(
        "torch", description="implementation of the vocabulary head; triton needs CUDA"
    )

    @property
    def pools(self) -> int:
        """How many pools of replicas a run has: one for each model."""
        return 1 if self.second is None else 2


class DenoiseConfig(Section):
    """The denoising loop. Defaults: DiffusionGemma's generation config with 16 steps, where the model has no own."""

    RANGES = (("temperature_min", "temperature_max"),)

    max_steps: int = Field(
        16, ge=1, le=256, description="upper limit of denoising steps for one canvas; a model may have its own default"
    )
    canvas_length: Annotated[int, Field(ge=8, le=1024)] | Literal["auto"] | None = Field(
        None, description="tokens of one canvas; null: the model's own length; auto: by the tokens that CTC hears"
    )
    entropy_bound: float = Field(
        0.1,
        gt=0,
        le=1_000,
        description="nats: a step accepts tokens, the surest first, until their entropies add up to this",
    )
    acceptance: Literal["cumulative", "each"] = Field(
        "cumulative",
        description="cumulative: entropy_bound holds for the sum of a step; each: for every token by itself",
    )
    guidance: float = Field(
        1.0, ge=0, le=10, description="weight of the audio against a second pass without it; 1: no second pass"
    )
    temperature_min: float = Field(0.4, gt=0, le=10, description="sampling temperature of the last step")
    temperature_max: float = Field(0.8, gt=0, le=10, description="sampling temperature of the first step")
    stability: int = Field(
        1, ge=0, le=16, description="steps in which the most probable tokens must stay the same before a stop"
    )
    confidence_threshold: float = Field(
        0.005, gt=0, le=100, description="nats: a stable canvas stops when its mean entropy is below this"
    )
    early_stop: bool = Field(True, description="stop a canvas before max_steps when it is stable and confident")
    remove_repeats: bool = Field(
        False,
        description="remove repetitions of up to 8 words that CTC has not heard; a model may have its own default",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the noise: same sound and seed, same text")
    votes: int = Field(
        1, ge=1, le=16, description="texts of other noise, one made of them all, for segments of low confidence; 1: off"
    )
    votes_below: float = Field(0.7, ge=0, le=1, description="segments whose raw confidence is below this get votes")


class DecodeConfig(Section):
    """How Whisper looks for the text of a segment. Other models use none of it."""

    beams: int = Field(1, ge=1, le=16, description="texts that are followed at the same time; 1: greedy")
    temperatures: tuple[Annotated[float, Field(ge=0, le=2)], ...] = Field(
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        min_length=1,
        max_length=16,
        description="of the tries, in order; a further one only where a text is a loop or improbable; 0: no chance",
    )
    max_compression_ratio: float = Field(
        2.4, gt=0, le=1_000, description="a text that zlib makes smaller than this is a loop: another temperature"
    )
    min_log_probability: float = Field(
        -1.0, ge=-100, le=0, description="nats: a text with a lower mean over its tokens is improbable: another one"
    )
    no_speech_probability: float = Field(
        0.6, ge=0, le=1, description="above it an improbable text is silence, also where voice activity finds speech"
    )
    clean: bool = Field(
        True, description="remove loops, and lines of subtitles that Whisper is known to write where nobody says them"
    )
    word_times: bool = Field(True, description="begin and end of each word, by one more pass of the decoder")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of temperatures above 0: same sound and seed, same text")


class SegmentConfig(Section):
    """How recordings are cut into windows for the model."""

    max_seconds: float = Field(
        30.0, ge=1, le=30, description="longest segment in seconds; the model's own limit applies as well"
    )
    piece_seconds: int = Field(
        900, ge=60, le=7200, description="seconds of audio in memory at once; a longer unit is processed in pieces"
    )
    method: Literal["vad", "quietest"] = Field(
        "vad",
        description="vad: cut at pauses; quietest: cut near target_seconds, no overlap; a model may have a default",
    )
    target_seconds: float = Field(13.0, ge=1, le=30, description="quietest: length of a segment in seconds, about")
    search_seconds: float = Field(
        3.0, ge=0.1, le=10, description="quietest: seconds around the target in which the quietest 32 ms are the cut"
    )
    vad: bool = Field(True, description="leave out silence with Silero voice activity detection; false: keep all")
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="a frame is speech from this probability on")
    min_silence_ms: int = Field(300, ge=32, le=10_000, description="shortest pause in ms that ends a stretch of speech")
    min_speech_ms: int = Field(100, ge=32, le=10_000, description="shorter sounds, in ms, are not taken for speech")
    join_ms: int = Field(
        600,
        ge=0,
        le=30_000,
        description="stretches of speech with longer silence between them are never in one segment, in ms; a model may "
        "have its own default",
    )
    pad_ms: int = Field(200, ge=0, le=2000, description="ms of audio added before and after speech")


class ComputeConfig(Section):
    """How many processes work, and with what. Each process is a Ray actor."""

    RANGES = (("replicas_min", "replicas_max"),)

    replicas_min: int = Field(
        1, ge=1, le=10_000, description="copies of the model at the start: lower limit of autoscaling"
    )
    replicas_max: int = Field(1, ge=1, le=10_000, description="copies of the model: upper limit of autoscaling")
    gpus_per_replica: float = Field(0.0, ge=0, le=64, description="GPUs of one replica; 0: it runs on the CPU")
    cpus_per_replica: float = Field(
        1.0, ge=0, le=1_024, description="logical CPUs reserved for a replica without a GPU"
    )
    threads_per_replica: int = Field(1, ge=1, le=1_024, description="torch threads of a replica without a GPU")
    canvases: int = Field(16, ge=1, le=65_536, description="segments that one replica recognises at the same time")
    decode_actors: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="processes that read, decode and cut audio; one CPU each; null: two for each replica with a GPU, "
        "one for eight replicas without",
    )
    read_ahead: int = Field(
        8,
        ge=1,
        le=256,
        description="recordings, or ranges of up to 8 MB, that a decode actor fetches while it decodes; 64 MB at most",
    )
    units_in_flight: int = Field(4, ge=1, le=1_024, description="units that one replica works on at the same time")
    max_recording_seconds: float = Field(
        86_400,
        gt=0,
        le=31_536_000,
        description="longer recordings, in seconds, become dead letters with reason too_long",
    )
    unit_timeout_seconds: float = Field(
        3_600,
        gt=0,
        le=31_536_000,
        description="seconds for one piece in one stage; then each recording of its unit runs alone",
    )

    def decoders(self, replicas: int) -> int:
        """How many processes decode beside so many replicas."""
        if self.decode_actors is not None:
            return self.decode_actors
        return replicas * DECODERS_PER_GPU_REPLICA if self.gpus_per_replica else -(-replicas // REPLICAS_PER_DECODER)


class PlanConfig(Section):
    """Upper limits of one unit, which is committed together; sources that grow; the forecast of `jobs.plan`."""

    unit_seconds: float = Field(
        600, gt=0, le=31_536_000, description="seconds of audio in one unit, declared or estimated from its bytes"
    )
    unit_megabytes: float = Field(64, gt=0, le=1_000_000, description="megabytes of encoded audio in one unit")
    unit_recordings: int = Field(256, ge=1, le=1_000_000, description="recordings in one unit")
    update: bool = Field(
        False, description="plan what the source has gained or changed since it was planned, as a further round"
    )
    strict: bool = Field(
        False, description="exit with 1 if the source has gained, changed or lost recordings and plan.update is not set"
    )
    probe_recordings: int = Field(
        16, ge=0, le=1_000_000, description="recordings drawn by their size for the forecast; 0: no timing"
    )
    probe_seconds: float = Field(
        30, gt=0, le=86_400, description="about how long the forecast may measure: half to decode, half to transcribe"
    )
    usd_per_gpu_hour: float | None = Field(
        None, ge=0, le=1_000_000, description="US dollars for one GPU hour, for forecast and report; null: no cost"
    )


class BudgetConfig(Section):
    """How much may fail before the job fails."""

    max_dead_fraction: float = Field(
        0.05, ge=0, le=1, description="fraction of recordings that may be dead letters; above it the job exits with 1"
    )
    stop_after: int = Field(
        20, ge=0, le=1_000_000, description="recordings in a row that cannot be read end the run; 0: they never do"
    )


class ShareConfig(Section):
    """Which share of the units this run does, where several runs fill one output."""

    partition: str | None = Field(
        None, description="3/8: the third of eight runs, which may be at work at the same time; null: all units"
    )

    @pydantic.field_validator("partition")
    @classmethod
    def _a_share(cls, value: str | None) -> str | None:
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", value or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError("must be I/N: share I of N, from 1/N to N/N")
        return value

    @property
    def number(self) -> int:
        """Which of the shares, from 0."""
        return int(self.partition.partition("/")[0]) - 1 if self.partition else 0

    @property
    def shares(self) -> int:
        """How many shares there are."""
        return int(self.partition.partition("/")[2]) if self.partition else 1

    def has(self, unit_id: str) -> bool:
        """Whether a unit is in this share: its id is a hash."""
        return self.shares == 1 or int(unit_id, 16) % self.shares == self.number


class RunConfig(Section):
    """All settings of `jobs.transcribe`."""

    source: SourceConfig
    output: OutputConfig
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    decode: DecodeConfig = DecodeConfig()
    segment: SegmentConfig = SegmentConfig()
    compute: ComputeConfig = ComputeConfig()
    plan: PlanConfig = PlanConfig()
    budget: BudgetConfig = BudgetConfig()
    run: ShareConfig = ShareConfig()
    publish: bool = Field(False, description="only publish what is committed; transcribe nothing")
    retry: Literal["none", "dead_letters", "damaged"] = Field(
        "none", description="try once more: the recordings that failed, or those that are transcribed with a problem"
    )
