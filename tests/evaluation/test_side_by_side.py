"""Two models on the same recordings, transcribed for real: an evaluation of each, their differences, one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import evaluate as job
from pipeline.config import ConfigError
from pipeline.config_file import load
from pipeline.evaluation.history import read_rows
from pipeline.evaluation.settings import EvaluateConfig, GateConfig
from pipeline.evaluation.side_by_side import differences, run_side_by_side
from pipeline.model.files.whisper_layout import JOIN_MS
from pipeline.storage.base import open_storage
from tests.support.archives import archive, arguments
from tests.support.evaluated import evaluated_table, row

WHISPER = "whisper-five"


def words(tmp_path: Path, small_model: Path) -> list[str]:
    """The command line of an evaluation of a small diffusion model and a small Whisper on three recordings."""
    from tests.support.small_whisper import save_whisper  # it needs torch

    source = archive(tmp_path / "in", 3)
    for number, path in enumerate(sorted(source.glob("*.wav"))):
        path.with_suffix(".txt").write_text("the old cat" + " sat" * number)
    save_whisper(tmp_path / "whisper")
    settings = [
        one for one in arguments(source, tmp_path, small_model) if not one.startswith(("source", "output", "budget"))
    ]
    entry = f"{{name: {WHISPER}, model: {{name: {tmp_path / 'whisper'}}}, decode: {{beams: 2}}}}"
    return [
        *settings,
        *(f"output.uri={tmp_path / 'out'}", f"sets.dev.source.uri={source}", "sets.dev.source.language=en"),
        *("run=monday", f"models=[{small_model}, {entry}]"),
    ]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
def test_two_models_get_one_report_and_nothing_is_transcribed_twice(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(tmp_path, small_model_dir)
    out = tmp_path / "out"
    assert job.main(given) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"{out}/report.html"
    found = json.loads((out / "comparison.json").read_text())
    ours, theirs = found["models"].values()
    assert list(found["models"]) == [small_model_dir.name, WHISPER]

    # the difference by hand, from the rows that each model's own output keeps
    tables = [
        read_rows(open_storage(str(out / "models" / name)), one["evaluation"]) for name, one in found["models"].items()
    ]
    errors = [
        sum(sum(table[f"word_{kind}"].to_pylist()) for kind in ("substitutions", "deletions", "insertions"))
        for table in tables
    ]
    (difference,) = found["differences"]
    assert (difference["model"], difference["other"], difference["language"]) == (WHISPER, small_model_dir.name, "en")
    assert difference["difference"] == pytest.approx((errors[1] - errors[0]) / 12)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert [one["rates"][0]["rate"] for one in (ours, theirs)] == pytest.approx([count / 12 for count in errors])
    for one in (ours, theirs):
        assert one["speed"]["audio_seconds"] == pytest.approx(7.53)
        assert one["speed"]["rtfx"] > 0
        assert 0 <= one["words"][0]["ece"] <= 1
    config = (out / "models" / WHISPER / "runs/monday").glob("dev-*/_run/config.yaml")
    text = next(config).read_text()
    assert "beams: 2" in text
    assert f"join_ms: {JOIN_MS}" in text  # the default of Whisper
    page, text = ((out / f"report.{ending}").read_text(encoding="utf-8") for ending in ("html", "md"))
    for shown in (WHISPER, f"{100 * difference['difference']:+.2f}"):
        assert shown in page
        assert shown in text

    kept = {path: path.stat().st_mtime_ns for path in out.glob("models/*/runs/*/*/data/*")}
    assert len(kept) == 6  # a unit of each recording and model
    assert job.main(given) == 0
    again = json.loads((out / "comparison.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/runs/*/*/data/*")} == kept
    assert again == found  # with the same dates and speeds
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ("[tiny, {model: {nome: x}}]", "models.1.model.nome: no such key"),
        ("[tiny, {decode: {beams: 0}}]", "models.1.decode.beams: must be 1 or more (given: 0)"),
        ("[tiny, {modell: {name: x}}]", "models.1.modell: no such key"),
        ("[tiny, 3]", "models.1: must be a section of keys with values (given: 3)"),
        ("[tiny, a/tiny]", "models.1.name: tiny is there twice; give this one another name"),
        ("[tiny, {name: a/b, model: {name: x}}]", "models.1.name: a/b: letters, digits"),
        ("[tiny, {name: x, sets: {dev: {hypothesis: h}}}]", "models.1.sets.dev.hypothesis: no such key"),
        ("[tiny]", "models: needs two or more; for one, set model.name"),
        ("tiny", "models: must be a list: [a, b] (given: 'tiny')"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_key(models: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(EvaluateConfig, None, ["output.uri=o", "sets.dev.source.uri=s", f"models={models}"])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("baseline=previous", "baseline: is for one model: not together with models"),
        ("keep_as=x", "keep_as: is for one model: not together with models"),
        ("sweep={denoise.max_steps: [1, 2]}", "sweep: is for one model: not together with models"),
        ("sets.old.output=o", "sets.old.output: these texts are of one model"),
    ],
)
def test_what_is_for_one_model_is_refused(setting: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(EvaluateConfig, None, ["output.uri=o", "sets.dev.source.uri=s", "models=[tiny, whisper-base]", setting])
    assert str(caught.value).startswith(line)


def test_an_entry_changes_only_what_it_names() -> None:
    given = ["output.uri=o/", "sets.dev.source.uri=s", "model.device=cpu", "decode.seed=4", "denoise.max_steps=2"]
    entry = "{name: wide, model: {name: whisper-base}, decode: {beams: 5}}"
    sides = load(EvaluateConfig, None, [*given, f"models=[tiny, {entry}]"]).sides()
    assert list(sides) == ["tiny", "wide"]
    first, second = sides.values()
    assert (first.model.name, first.decode.beams, first.output.uri) == ("tiny", 1, "o/models/tiny")
    assert (second.model.name, second.model.device) == ("whisper-base", "cpu")
    assert (second.decode.beams, second.decode.seed, second.denoise.max_steps) == (5, 4, 2)
    assert second.output.uri == "o/models/wide"
    assert second.models == []
    assert second.segment.model_fields_set == set()  # so that Whisper has the defaults of Whisper


@pytest.mark.parametrize("texts", ["hypotheses", "output"])
def test_a_model_with_texts_of_its_own_replaces_the_audio_of_a_set(texts: str) -> None:
    given = ["output.uri=o", "sets.test.source.uri=s", "sets.test.normaliser=spoken"]
    entry = f"{{name: nemo, sets: {{test: {{{texts}: nemo.json}}}}}}"
    tiny, nemo = load(EvaluateConfig, None, [*given, f"models=[tiny, {entry}]"]).sides().values()
    assert tiny.sets["test"].source
    assert nemo.sets["test"].made_elsewhere == "nemo.json"
    assert nemo.sets["test"].source is None
    assert nemo.sets["test"].normaliser == "spoken"


def test_an_unknown_model_is_an_error_before_any_work(tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 1)
    given = [f"output.uri={tmp_path / 'out'}", f"sets.dev.source.uri={source}", "models=[tiny, no-such-model]"]
    with pytest.raises(ConfigError, match="no-such-model"):
        run_side_by_side(load(EvaluateConfig, None, given))
    assert not (tmp_path / "out").exists()


def test_every_pair_is_compared_and_p_is_corrected_for_all_of_them() -> None:
    """B has one wrong word of four in each of 8 recordings, c two, a none."""
    texts = {"a": "one two three four", "b": "one two three", "c": "one two"}
    tables = {
        name: evaluated_table(row("en", texts["a"], text, recording_id=str(number)) for number in range(8))
        for name, text in texts.items()
    }
    found = differences(tables, GateConfig())
    assert [(one.model, one.other, one.difference) for one in found] == [
        ("b", "a", 0.25),
        ("c", "a", 0.5),
        ("c", "b", 0.25),
    ]
    for one in found:
        assert one.low == one.high == one.difference
        assert one.p == pytest.approx(2 / 1001)  # no draw of 1,000 is on the other side
        assert one.p_holm == pytest.approx(3 * 2 / 1001)


def test_p_is_two_sided() -> None:
    reference = "one two three four"
    texts = [reference, "one two three", "two three", *[reference] * 9]
    worse = evaluated_table(row("en", reference, text, recording_id=str(n)) for n, text in enumerate(texts))
    best = evaluated_table(row("en", reference, reference, recording_id=str(n)) for n in range(12))
    (up,), (down,) = (
        differences(dict(pair), GateConfig()) for pair in ((("a", best), ("b", worse)), (("b", worse), ("a", best)))
    )
    assert up.difference == -down.difference == pytest.approx(3 / 48)
    assert up.p == down.p
    assert 0.05 < up.p < 1


def test_models_with_the_same_texts_do_not_differ() -> None:
    texts = ["one two three", "one two three four", "four"]
    table = evaluated_table(row("en", "one two three four", text, recording_id=str(n)) for n, text in enumerate(texts))
    (one,) = differences({"a": table, "b": table}, GateConfig())
    assert (one.difference, one.low, one.high, one.p, one.p_holm) == (0, 0, 0, 1, 1)


def test_nothing_is_compared_without_references() -> None:
    table = evaluated_table([row("en", None, "one", reference_normal="")])
    assert differences({"a": table, "b": table}, GateConfig()) == []
