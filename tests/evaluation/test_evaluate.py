"""Tests of a whole evaluation of finished outputs: history, baselines, gate, exit codes, files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from jobs import cli
from jobs.evaluate import run as job
from pipeline.config import ConfigError
from pipeline.config_file import load
from pipeline.evaluation.evaluate import run_evaluation
from pipeline.evaluation.history import read_rows
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.evaluation.wording import summary_lines
from pipeline.output.commit import commit_unit, new_attempt
from pipeline.output.publish import publish_tables
from pipeline.schemas import DEAD_LETTER, EVALUATED, TRANSCRIPT, to_table
from pipeline.storage.base import open_storage
from pipeline.text.normalise import normaliser
from tests.support.outputs import left, plan, ref, results, run

REFERENCE = "the old cat sat on its mat today"  # eight words


def finished(folder: str | Path, texts: list[str], *, language: str = "en") -> str:
    """A finished output: recording k has the text texts[k]; four speakers. language "en de": in turn."""
    codes = language.split()
    storage = open_storage(str(folder))
    speakers = [json.dumps({"speaker": f"s{number % 4}"}) for number in range(len(texts))]
    refs = [
        ref(n, reference=REFERENCE, metadata=speakers[n], language=codes[n * len(codes) // len(texts)])
        for n in range(len(texts))
    ]
    mark = plan(storage, refs)
    for unit in left(storage):
        rows, _, samples = results(unit, mark, segments=1)
        transcripts = [row | {"text": texts[int(row["recording_id"][1:])]} for row in rows.to_pylist()]
        commit_unit(
            storage, unit, new_attempt(), to_table(transcripts, TRANSCRIPT), to_table([], DEAD_LETTER), samples, mark
        )
    publish_tables(storage)
    return str(folder)


def config(tmp_path: Path, sets: dict[str, str], *overrides: str) -> EvaluateConfig:
    chosen = [f"sets.{name}.output={uri}" for name, uri in sets.items()]
    return load(EvaluateConfig, None, [f"output.uri={tmp_path / 'evaluated'}", *chosen, *overrides])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("outputs")
    good = [REFERENCE] * 40
    worse = [REFERENCE.replace("old ", "") if number % 8 < 4 else REFERENCE for number in range(40)]
    return {"good": finished(folder / "good", good), "worse": finished(folder / "worse", worse)}


def test_rows_result_report_and_junit_are_written_and_written_again_replace_themselves(
    tmp_path: Path, outputs: dict[str, str]
) -> None:
    wanted = config(tmp_path, {"dev": outputs["worse"], "test": outputs["good"]}, "run=monday", "name=n")
    first, second = run_evaluation(wanted), run_evaluation(wanted)
    assert first.evaluation == second.evaluation
    assert first.evaluation.startswith("n-monday-")
    assert first.evaluated_at == second.evaluated_at
    root = tmp_path / "evaluated"
    stored = pyarrow.dataset.dataset(root / "evaluations", partitioning="hive").to_table()
    assert stored.num_rows == 80
    assert set(stored.schema.names) == set(EVALUATED.names)
    assert stored.filter(pyarrow.compute.field("set") == "dev")["word_deletions"].to_pylist().count(1) == 20
    rows = read_rows(open_storage(str(root)), first.evaluation)
    assert rows.schema == EVALUATED
    assert set(rows["normaliser"].to_pylist()) == {normaliser("auto", "en").identity}
    assert "monday" in (root / "report.html").read_text(encoding="utf-8")
    assert (root / "junit.xml").read_text(encoding="utf-8").startswith("<?xml")
    result = json.loads((root / f"results/{first.evaluation}.json").read_text(encoding="utf-8"))
    assert result["about"]["config_hash"]
    assert len(second.history) == 1


def test_every_night_keeps_its_pages_and_the_settings_that_differ_are_named(
    tmp_path: Path, outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.made_with.git_commit", lambda: "c" * 40)
    nights = [
        run_evaluation(config(tmp_path, {"dev": outputs["good"]}, f"run={night}", *more))
        for night, more in (("1", []), ("2", ["baseline=previous", "denoise.max_steps=7"]))
    ]
    reports = tmp_path / "evaluated/reports"
    names = [night.evaluation for night in nights]
    kept = {f"{name}.{ending}" for name in names for ending in ("html", "xml")}
    assert {path.name for path in reports.iterdir()} == kept | {"index.html"}
    last = reports / f"{names[1]}.html"
    assert last.read_bytes() == (tmp_path / "evaluated/report.html").read_bytes()
    assert names[0] in (reports / f"{names[0]}.html").read_text(encoding="utf-8")
    index = (reports / "index.html").read_text(encoding="utf-8")
    assert 0 < index.index(f'href="{names[1]}.html"') < index.index(f'href="{names[0]}.html"')

    result = json.loads((tmp_path / f"evaluated/results/{names[1]}.json").read_text(encoding="utf-8"))
    assert result["settings"]["denoise.max_steps"] == 7
    assert result["rates"][0]["rate"] == 0.0
    assert result["about"]["git_commit"] == "c" * 40
    line = f"differs from {names[0]}: denoise.max_steps 7 (there: 16)"
    assert line in summary_lines(nights[1])
    assert "denoise.max_steps" in last.read_text(encoding="utf-8")


def test_a_later_night_is_compared_with_the_one_before_and_the_gate_closes(
    tmp_path: Path, outputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    night = {"run=1": "good", "run=2": "good", "run=3": "worse"}
    codes, printed = [], []
    for number, which in night.items():
        codes.append(job(config(tmp_path, {"dev": outputs[which]}, number, "baseline=previous")))
        printed.append(capsys.readouterr().out)
    assert codes == [0, 0, 1]
    assert "no earlier evaluation is called nightly: nothing to compare with yet" in printed[0]
    assert "passed" in printed[1]
    failed = [line for line in printed[2].splitlines() if "FAILED" in line]
    assert 1 <= len(failed) <= 3
    assert "WER rose from 0.00 % to 6.25 %" in failed[0]


def test_rates_by_metadata_stand_in_result_and_report(tmp_path: Path) -> None:
    rows = [("a", "one cat", "scottish"), ("a b", "a b", "scottish"), ("a", "a", "")]
    text = "\n".join(json.dumps({"ref": ref, "hyp": hyp, "accent": accent}) for ref, hyp, accent in rows)
    (tmp_path / "x.jsonl").write_text(text)
    words = [
        f"output.uri={tmp_path / 'evaluated'}",
        f"sets.dev.hypotheses={tmp_path / 'x.jsonl'}",
        "sets.dev.language=de",
    ]
    evaluation = run_evaluation(load(EvaluateConfig, None, words))
    result = json.loads((tmp_path / f"evaluated/results/{evaluation.evaluation}.json").read_text(encoding="utf-8"))
    (scottish,) = [one for one in result["rates"] if one["group"] == "slice"]
    assert (scottish["key"], scottish["recordings"], scottish["rate"]) == (
        "de accent: scottish",
        2,
        pytest.approx(2 / 3),
    )
    assert "de accent: scottish" in (tmp_path / "evaluated/report.html").read_text(encoding="utf-8")
    kept = read_rows(open_storage(str(tmp_path / "evaluated")), evaluation.evaluation)["slices"].to_pylist()
    assert kept == [[("accent", "scottish")], [("accent", "scottish")], []]


def test_a_recording_whose_language_becomes_known_is_kept_once(tmp_path: Path) -> None:
    """The texts are corrected, and the evaluation is made again the same day; the next night is compared with it."""
    texts = tmp_path / "x.csv"
    given = [f"output.uri={tmp_path / 'evaluated'}", f"sets.dev.hypotheses={texts}"]
    lines = ["id,language,ref,hyp", "a,en,one cat,one cat", "b,en,two dogs,two dogs"]
    texts.write_text("\n".join([*lines, "c,,three,three"]))
    run_evaluation(load(EvaluateConfig, None, [*given, "run=monday"]))
    texts.write_text("\n".join([*lines, "c,en,three,three"]))
    monday = run_evaluation(load(EvaluateConfig, None, [*given, "run=monday"]))
    rows = read_rows(open_storage(str(tmp_path / "evaluated")), monday.evaluation)
    assert sorted(rows["recording_id"].to_pylist()) == ["a", "b", "c"]
    tuesday = run_evaluation(load(EvaluateConfig, None, [*given, "run=tuesday", "baseline=previous"]))
    assert tuesday.comparisons[0].recordings == 3
    assert read_rows(open_storage(str(tmp_path / "evaluated")), monday.evaluation) == rows


def test_a_night_that_cannot_be_compared_closes_the_gate_and_is_what_the_next_one_is_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def night(number: int, text: str, *more: str) -> int:
        (tmp_path / "x.csv").write_text(f"id,language,ref,hyp\na,en,{text},{text}\nb,en,{text},{text}\n")
        given = [f"output.uri={tmp_path / 'out'}", f"sets.dev.hypotheses={tmp_path / 'x.csv'}", f"run={number}"]
        return job(load(EvaluateConfig, None, [*given, *more]))

    assert night(0, "one cat", "keep_as=golden") == 0
    with pytest.raises(ConfigError, match=r"baseline: golden: is nightly-0-.*, which this would replace"):
        night(0, "two dogs", "baseline=golden")
    with pytest.raises(ConfigError, match="nothing to compare"):  # a baseline of one's own choice is a mistake
        night(1, "two dogs", "baseline=golden")
    assert night(1, "two dogs", "baseline=previous") == 1
    assert "FAILED: baseline: nothing to compare: 2 recordings with a reference" in capsys.readouterr().out
    assert "nothing to compare" in (tmp_path / "out/junit.xml").read_text(encoding="utf-8")
    assert night(2, "two dogs", "baseline=previous") == 0


def test_a_night_without_a_language_of_the_night_before_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = finished(tmp_path / "both", [REFERENCE] * 40, language="en de")
    one = finished(tmp_path / "one", [REFERENCE] * 20)
    nights = [config(tmp_path, {"dev": uri}, f"run={n}", "baseline=previous") for n, uri in enumerate((both, one))]
    assert [job(night) for night in nights] == [0, 1]
    assert (
        "de: the baseline has 20 recordings, this evaluation has none with the same reference"
        in capsys.readouterr().out
    )


def test_what_was_damaged_on_purpose_is_never_a_baseline(tmp_path: Path, outputs: dict[str, str]) -> None:
    """Somebody looks whether the gate closes, and the next night is compared with the night before."""
    damage = "corrupt.delete_words=0.5"
    first = run_evaluation(config(tmp_path, {"dev": outputs["good"]}, "run=1"))
    damaged = run_evaluation(config(tmp_path, {"dev": outputs["good"]}, "run=1", damage))
    assert damaged.evaluation != first.evaluation
    for baseline in ("previous", str(tmp_path / "evaluated")):
        night = run_evaluation(config(tmp_path, {"dev": outputs["worse"]}, "run=2", f"baseline={baseline}"))
        assert night.baseline in (first.evaluation, night.evaluation)
        assert {point.evaluation for point in night.history} == {first.evaluation, night.evaluation}
    with pytest.raises(ConfigError, match=r"keep_as: golden: damaged on purpose \(corrupt: delete_words 0.5\)"):
        config(tmp_path, {"dev": outputs["good"]}, damage, "keep_as=golden")


def test_a_named_baseline_that_names_nothing_is_one_line(tmp_path: Path, outputs: dict[str, str]) -> None:
    kept = tmp_path / "evaluated/baselines/golden.json"
    kept.parent.mkdir(parents=True)
    for content in ("{}", "no JSON"):
        kept.write_text(content)
        with pytest.raises(ConfigError, match=r"^baseline: golden: .*baselines/golden.json names no evaluation$"):
            run_evaluation(config(tmp_path, {"dev": outputs["good"]}, "baseline=golden"))


def test_a_baseline_is_kept_by_name_or_in_a_folder_or_taken_from_another_output(
    tmp_path: Path, outputs: dict[str, str]
) -> None:
    folder = str(tmp_path / "kept")
    run_evaluation(config(tmp_path / "old", {"dev": outputs["worse"]}, "run=0", f"keep_as={folder}"))  # is replaced
    kept = run_evaluation(config(tmp_path, {"dev": outputs["good"]}, "run=a", f"keep_as={folder}"))
    run_evaluation(config(tmp_path, {"dev": outputs["good"]}, "run=a", "keep_as=release-1"))
    elsewhere = tmp_path / "elsewhere"
    for baseline, here in (
        (str(tmp_path / "evaluated"), elsewhere),
        (folder, elsewhere),
        ("release-1", tmp_path),
    ):
        compared = run_evaluation(config(here, {"dev": outputs["worse"]}, "run=b", f"baseline={baseline}"))
        assert compared.baseline == kept.evaluation
        assert [one.regressed for one in compared.comparisons if one.language == "en"] == [True]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["baseline=golden"], r"baseline: golden: not kept in .* \(kept there: none\)"),
        (["baseline=/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_missing_baseline_is_an_error_before_anything_is_done(
    tmp_path: Path, outputs: dict[str, str], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_evaluation(config(tmp_path, {"dev": outputs["good"]}, *overrides))
    assert not (tmp_path / "evaluated/evaluations").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "sets: "),
        (["sets.dev.normaliser=auto"], "sets.dev: needs either a source"),
        (["sets.dev.source.uri=a", "sets.dev.output=b"], "sets.dev: needs one of source, output and hypotheses"),
        (["sets.dev.output=b", "sets.dev.references=c"], "sets.dev.references: is for hypotheses"),
        (["sets.dev.hypotheses=/no/such.csv"], "sets.dev.hypotheses: /no/such.csv"),
        (["sets.dev.normaliser=x", "sets.dev.output=b"], "sets.dev.normaliser"),
        (["sets.d/e.output=b"], "sets: letters, digits"),
        (["sets.dev.output=b", "sweep={denoise.max_steps: [4]}"], "sweep: dev is a finished output"),
        (["sets.dev.source.uri=b", "sweep={denoise.max_step: [4]}"], "sweep: denoise.max_step is no setting"),
        (["sets.dev.source.uri=b", "sweep={compute.canvases: [4]}"], "sweep: compute.canvases is no setting"),
        (["sets.dev.source.uri=b", "sweep={denoise.max_steps: []}"], "sweep: denoise.max_steps: no values"),
        (["sets.dev.source.uri=b", "gate.ceilings={xx: 0.1}"], "gate.ceilings: xx is no language"),
        (["sets.dev.output=b", "name=a/b"], "name: letters, digits"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_that_names_the_key(
    overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["output.uri=out", *overrides]
    assert cli.main("evaluate", EvaluateConfig, job, "doc", words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{denoise.max_steps: [4, 0]}", "sweep: denoise.max_steps: .* (given: 0)"),
        ("{model.name: [tiny, /no/such/model]}", "model.name: /no/such/model"),
    ],
)
def test_a_refused_value_of_a_sweep_is_an_error_before_anything_is_done(
    tmp_path: Path, sweep: str, message: str
) -> None:
    words = [f"output.uri={tmp_path / 'out'}", "sets.dev.source.uri=/nowhere", f"sweep={sweep}"]
    with pytest.raises(ConfigError, match=re.escape(message).replace("\\.\\*", ".*")):
        run_evaluation(load(EvaluateConfig, None, words))
    assert not (tmp_path / "out").exists()


def test_the_help_names_settings_of_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main("evaluate", EvaluateConfig, job, "doc", ["--help"])
    assert "sets.NAME.source.uri" in capsys.readouterr().out


def test_what_was_not_heard_of_damaged_and_dead_recordings_counts_as_deletions(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "cut"))
    refs = [ref(0, reference="hallo hallo"), *(ref(number, reference="hallo hallo hallo hallo") for number in (1, 2))]
    run(storage, plan(storage, refs), damaged={"r1": 2}, dead=["r2"])
    publish_tables(storage)
    evaluation = run_evaluation(config(tmp_path, {"dev": str(tmp_path / "cut")}))
    (every,) = [rates for rates in evaluation.rates if rates.group == "all"]
    assert (every.words.hits, every.words.deletions, every.words.errors) == (4, 6, 6)
    assert (every.recordings, every.transcribed, every.damaged, every.dead) == (3, 2, 1, 1)
    assert "1 damaged recordings: what was not heard of them counts as deletions" in summary_lines(evaluation)
    report = (tmp_path / "evaluated/report.html").read_text()
    assert "damaged" in report
    assert "truncated_audio" in report


def test_coverage_below_the_gate_closes_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "half"))
    mark = plan(storage, [ref(number, reference=REFERENCE) for number in range(6)])
    (unit, *_) = left(storage)
    rows: list[dict[str, Any]] = results(unit, mark, segments=1)[0].to_pylist()
    table = to_table([row | {"text": REFERENCE} for row in rows], TRANSCRIPT)
    commit_unit(storage, unit, new_attempt(), table, to_table([], DEAD_LETTER), results(unit, mark)[2], mark)
    publish_tables(storage)
    verdict = run_evaluation(config(tmp_path, {"dev": str(tmp_path / "half")})).verdict
    assert not verdict.passed
    assert any("coverage" in failure or "50" in failure for failure in verdict.failures)
