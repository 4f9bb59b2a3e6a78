"""An output inside the source, or a source inside the output, is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ConfigError, RunConfig, SourceConfig
from pipeline.config_file import load
from pipeline.planning.overlap import check_apart, check_places
from pipeline.run import prepare, transcribe


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("/data/archive", "/data/archive/out"),
        ("/data/archive", "/data/archive"),
        ("/data/archive/", "/data/archive/"),
        ("/data/archive", "file:///data/archive/out"),
        ("/data/other/../archive", "/data/archive/out"),
        ("/data/**", "/data/out"),
        ("/data/*/*/*/*.parquet", "/data/deep/out"),
        ("/data/{a,out}/**", "/data/out"),
        ("archive", "archive/out"),
        ("**/*.parquet", "out"),
        ("s3://bucket/raw", "s3://bucket/raw/out"),
        ("s3://bucket/**.json", "s3://bucket/out"),
        ("simplecache::s3://bucket/raw", "s3://bucket/raw/out"),
        ("s3a://bucket/raw", "s3://bucket/raw/out"),
        ("s3://bucket", "s3://bucket/out"),
    ],
)
def test_an_output_inside_the_source_is_refused(source: str, output: str) -> None:
    with pytest.raises(ConfigError, match=r"^output.uri: .*: inside the source ") as caught:
        check_apart(source, output)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("/data/out/transcripts", "/data/out"),
        ("/data/out/raw/*.wav", "/data/out"),
        ("/data/out/list.jsonl", "/data/out"),
        ("s3://bucket/raw/**.tar", "s3://bucket"),
    ],
)
def test_a_source_inside_the_output_is_refused(source: str, output: str) -> None:
    with pytest.raises(ConfigError, match=r"^output.uri: .*: the source .* is inside it"):
        check_apart(source, output)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("/data/archive", "/data/archive-out"),
        ("/data/archive", "/data/out"),
        ("/data/*.wav", "/data/out"),
        ("/data/**.tar", "/data/out"),
        ("/data/a*/**", "/data/out"),
        ("*.wav", "out"),
        ("/data/list.jsonl", "/data/out"),
        ("s3://bucket/raw/**.tar", "s3://bucket/out"),
        ("s3://one/raw", "s3://other/raw/out"),
        ("s3://bucket/raw", "/bucket/raw/out"),
        ("/data/[z-a]*", "/data/out"),
    ],
)
def test_places_beside_each_other_are_fine(source: str, output: str) -> None:
    check_apart(source, output)


@pytest.mark.parametrize("name", ["talks [2024]", "who is it?", "{a,b}", "all*"])
def test_a_folder_that_is_called_like_a_glob_is_a_folder(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.mkdir()
    for output in (source, source / "out"):
        with pytest.raises(ConfigError, match=r"^output.uri: .*: inside the source "):
            check_apart(str(source), str(output))
    with pytest.raises(ConfigError, match=r"^output.uri: .*: the source .* is inside it"):
        check_apart(str(source), str(tmp_path))
    check_apart(str(source), str(tmp_path / "out"))
    check_apart(f"/{'{a,b}' * 99}", "/out")  # longer than any name


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    with pytest.raises(ConfigError, match="inside the source"):
        check_apart(str(tmp_path / "link"), str(tmp_path / "archive/out"))


@pytest.mark.parametrize("job", [prepare, transcribe])
def test_nothing_is_written_into_the_source(job: object, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    config = load(RunConfig, None, [f"source.uri={tmp_path}/archive", f"output.uri={tmp_path}/archive/out"])
    with pytest.raises(ConfigError, match="inside the source"):
        job(config)  # type: ignore[operator]
    assert list((tmp_path / "archive").iterdir()) == []


SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the command of a submitted job


@pytest.mark.parametrize(
    ("source", "output", "key", "proposed"),
    [
        ("archive", "/data/out", "source.uri", "{here}/archive"),  # it came with the job
        ("/data/archive", "out/mine", "output.uri", "{home}/out/mine"),
        ("s3://bucket/raw", "./out", "output.uri", "{home}/out"),
    ],
)
def test_a_relative_address_of_a_submitted_job_is_refused_with_an_absolute_one(
    source: str, output: str, key: str, proposed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive").mkdir()
    monkeypatch.chdir(tmp_path)
    check_places(SourceConfig(uri=source), output)  # no submitted job
    monkeypatch.setenv(SUBMITTED, "{}")
    with pytest.raises(ConfigError) as caught:
        check_places(SourceConfig(uri=source), output)
    assert str(caught.value).startswith(f"{key}: {source if key == 'source.uri' else output}: relative, ")
    assert f"such as {proposed.format(here=tmp_path, home=Path.home())}," in str(caught.value)


@pytest.mark.parametrize("source", [{"uri": "s3://b/raw"}, {"uri": "/in"}, {"uri": "me/set", "format": "huggingface"}])
def test_absolute_addresses_of_a_submitted_job_are_taken(
    source: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUBMITTED, "{}")
    check_places(SourceConfig.model_validate(source), "/out")
    check_places(SourceConfig.model_validate(source), "s3://bucket/out")


def test_a_relative_output_of_a_submitted_job_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SUBMITTED, "{}")
    config = load(RunConfig, None, [f"source.uri={tmp_path}/in", "output.uri=out"])
    for act in (transcribe, prepare):
        with pytest.raises(ConfigError, match=r"^output\.uri: out: relative"):
            act(config)
    assert list(tmp_path.iterdir()) == []
