"""Texts of other recognisers are scored, and compared with each other and with ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs import evaluate as job
from pipeline.config import ConfigError
from pipeline.evaluation.hypotheses import foreign_outcomes
from pipeline.evaluation.rows import Outcome, slices_of
from pipeline.evaluation.settings import SetConfig

ROWS = [
    {"id": "a", "ref": "the cat", "hyp": "the hat", "language": "en", "accent": "scottish", "speaker": "7"},
    {"id": "b", "ref": "guten tag", "hyp": "", "language": "de", "accent": "", "speaker": ""},
]


def written(path: Path, rows: list[dict[str, object]]) -> str:
    """The rows as CSV or as JSON lines, by the extension."""
    lines = [json.dumps(row) for row in rows]
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def outcomes(hypotheses: str, **settings: str) -> list[Outcome]:
    return foreign_outcomes("dev", SetConfig(hypotheses=hypotheses, **settings))


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_rows_with_ref_and_hyp_are_recordings(tmp_path: Path, name: str) -> None:
    first, second = outcomes(written(tmp_path / name, list(ROWS)))
    assert (first.recording_id, first.language, first.speaker, first.model) == ("a", "en", "7", name)
    assert [slices_of(one.metadata, ["Accent", "gender"]) for one in (first, second)] == [[("Accent", "scottish")], []]
    assert (first.reference, first.hypothesis, first.status) == ("the cat", "the hat", "transcribed")
    assert (second.reference, second.hypothesis, second.status) == ("guten tag", "", "transcribed")


def test_a_nemo_manifest_with_pred_text_has_the_ids_of_its_sections(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"audio_filepath": "a.wav", "duration": 2.5, "text": "one", "pred_text": "won"},
        {"audio_filepath": "b.wav", "offset": 1, "duration": 2, "text": "two", "pred_text": "two"},
        {"audio_filepath": "c.wav", "text": "three"},
    ]
    found = outcomes(written(tmp_path / "manifest.json", rows), language="en")
    assert [one.recording_id for one in found] == ["a.wav", "b.wav#1000-3000ms", "c.wav"]
    assert [one.status for one in found] == ["transcribed", "transcribed", "missing"]
    assert [one.seconds for one in found] == [2.5, 2.0, None]
    assert {one.language for one in found} == {"en"}


def test_rows_without_an_id_are_known_by_their_line(tmp_path: Path) -> None:
    found = outcomes(written(tmp_path / "x.jsonl", [{"ref": "a", "hyp": "b"}, {"ref": "c", "hyp": "d"}]))
    assert [(one.recording_id, one.language) for one in found] == [("1", "unknown"), ("2", "unknown")]


def test_jsons_of_whisper_are_matched_with_references_by_the_name_of_the_audio(tmp_path: Path) -> None:
    """As the command line of Whisper writes them: beside each other, named after the audio."""
    folder = tmp_path / "whisper"
    folder.mkdir()
    for name, text in (("a", " One."), ("b", " Two."), ("z", " Nobody asked.")):
        content = {"text": text, "segments": [{"text": text}], "language": "en"}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    references = written(
        tmp_path / "refs.csv",
        [
            {"path": f"audio/{name}.flac", "sentence": text}
            for name, text in (("a", "one"), ("b", "too"), ("c", "four"))
        ],
    )
    found = outcomes(str(folder), references=references)
    assert [(one.recording_id, one.reference, one.hypothesis, one.status) for one in found] == [
        ("audio/a.flac", "one", "One.", "transcribed"),
        ("audio/b.flac", "too", "Two.", "transcribed"),
        ("audio/c.flac", "four", "", "missing"),
    ]


def test_a_name_that_two_folders_have_is_matched_by_its_folder_only(tmp_path: Path) -> None:
    hypotheses = written(tmp_path / "h.csv", [{"id": "de/a", "text": "eins"}, {"id": "a", "text": "none"}])
    references = written(tmp_path / "r.csv", [{"id": "de/a.wav", "text": "eins"}, {"id": "fr/a.wav", "text": "un"}])
    found = outcomes(hypotheses, references=references)
    assert [(one.hypothesis, one.status) for one in found] == [("eins", "transcribed"), ("", "missing")]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.csv", "id,text\na,one\n", "x.csv: no column with the texts, as hyp, hypothesis, pred_text"),
        ("x.jsonl", '{"id": "a", "hyp": "x"}\n{"id": ', "x.jsonl:2: not JSON"),
        ("x.jsonl", '{"id": "a", "hyp": "x"}\n{"id": "a", "hyp": "y"}', "x.jsonl:2: a is there twice"),
        ("x.jsonl", '{"id": "a", "hyp": ["x"]}', "a: hyp: expected text, got list"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path: Path, name: str, text: str, line: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        outcomes(str(tmp_path / name))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_texts_of_two_recognisers_are_compared_and_the_worst_changes_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = "the cat sat here"
    texts: Mapping[str, list[str]] = {
        "old": [reference] * 12,
        "new": ["the cat sat", "nothing at all", *[reference] * 10],
    }
    sides = []
    for name, given in texts.items():
        rows: list[dict[str, object]] = [
            {"id": f"r{number}", "ref": reference, "hyp": text} for number, text in enumerate(given)
        ]
        sides.append(f"{{name: {name}, sets: {{dev: {{hypotheses: {written(tmp_path / f'{name}.csv', rows)}}}}}}}")
    words = [f"output.uri={tmp_path / 'out'}", "sets.dev.language=en", f"models=[{', '.join(sides)}]", "run=1"]
    assert job.main([*words, "--summary", str(tmp_path / "summary.md")]) == 0
    assert (tmp_path / "summary.md").read_text().splitlines()[0] == "# Side by side: nightly, 1"
    (difference,) = json.loads((tmp_path / "out/comparison.json").read_text())["differences"]
    assert (difference["model"], difference["other"]) == ("new", "old")
    assert difference["difference"] == pytest.approx(5 / 48)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert "new minus old, en: +10.42 points" in capsys.readouterr().out
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    changes = page[page.index('id="changes"') :]
    assert "of 12 recordings 2 have more errors and 0 have fewer" in changes
    assert 0 < changes.index(">r1<") < changes.index(">r0<")
    assert ">r2<" not in changes
    assert (tmp_path / "out/reports/nightly-1.html").exists()
