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


def test_rows_without_an_id_are_the_same_in_files_of_another_form(tmp_path: Path) -> None:
    """The header, an empty line and a cell of two lines do not count."""
    (tmp_path / "refs.csv").write_text('text,note\none,"of two\nlines"\ntwo,\n')
    (tmp_path / "hyps.jsonl").write_text('{"hyp": "one"}\n\n{"hyp": "two"}\n')
    found = outcomes(str(tmp_path / "hyps.jsonl"), references=str(tmp_path / "refs.csv"))
    assert [(one.recording_id, one.reference, one.hypothesis) for one in found] == [
        ("1", "one", "one"),
        ("2", "two", "two"),
    ]


def test_rows_without_an_id_in_a_folder_are_known_by_their_file_too(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path / name, [{"ref": "a", "hyp": "b"}])
    assert [one.recording_id for one in outcomes(str(tmp_path))] == ["a.jsonl:1", "b.jsonl:1"]


def test_a_json_array_has_a_row_for_each_object(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"ref": "a", "hyp": "b"}, {"ref": "c", "hyp": None}], indent=1))
    found = outcomes(str(tmp_path / "x.json"))
    assert [(one.recording_id, one.reference, one.hypothesis) for one in found] == [("1", "a", "b"), ("2", "c", "")]


def test_the_first_column_with_a_value_has_the_text(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "hyp": "", "pred_text": "won", "ref": None, "text": "one"},
        {"id": "b", "hyp": "two", "pred_text": "", "ref": "too", "text": "two"},
    ]
    found = outcomes(written(tmp_path / "x.jsonl", rows))
    assert [(one.hypothesis, one.reference) for one in found] == [("won", "one"), ("two", "too")]


def test_a_reference_is_no_hypothesis_where_the_recogniser_said_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "text": "one", "pred_text": "won"},
        {"id": "b", "text": "two", "pred_text": ""},
        {"id": "c", "text": "three"},
    ]
    references = written(tmp_path / "r.csv", [{"id": row["id"], "ref": row["text"]} for row in rows])
    found = outcomes(written(tmp_path / "h.jsonl", rows), references=references)
    assert [(one.hypothesis, one.status) for one in found] == [
        ("won", "transcribed"),
        ("", "transcribed"),
        ("", "missing"),
    ]


def test_a_wrong_hypothesis_is_named_with_its_own_file(tmp_path: Path) -> None:
    references = written(tmp_path / "r.csv", [{"id": "a", "text": "one"}])
    with pytest.raises(ConfigError, match=r"h\.jsonl:1: hyp: expected text, got list"):
        outcomes(written(tmp_path / "h.jsonl", [{"id": "a", "hyp": ["x"]}]), references=references)


@pytest.mark.parametrize(
    ("value", "code"), [("English", "en"), ("PT", "pt"), (" pt_BR ", "pt-br"), ("zh-HK", "zh-hk"), ("und", "unknown")]
)
def test_a_language_is_a_code_in_one_form(tmp_path: Path, value: str, code: str) -> None:
    (found,) = outcomes(written(tmp_path / "x.jsonl", [{"ref": "a", "hyp": "b", "language": value}]))
    assert found.language == code
    (same,) = outcomes(written(tmp_path / "x.jsonl", [{"ref": "a", "hyp": "b"}]), language=value)
    assert same.language == code


def test_a_language_that_is_no_code_is_refused_in_the_settings() -> None:
    with pytest.raises(ValueError, match="'en/hi' is not the code of a language"):
        SetConfig(hypotheses="x.csv", language="en/hi")


def test_the_audio_has_an_address_that_others_can_use_and_no_signature(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"audio": "https://h/a.wav?X-Amz-Signature=00ff&v=1", "ref": "a", "hyp": "a"},
        {"audio": {"path": "clips/b.wav"}, "ref": "play it.mp3", "hyp": "play it.mp3"},
        {"id": "c", "ref": "play it.mp3", "hyp": "c"},
    ]
    found = outcomes(written(tmp_path / "x.jsonl", rows))
    assert [(one.recording_id, one.audio) for one in found] == [
        ("https://h/a.wav?v=1", "https://h/a.wav?v=1"),
        ("clips/b.wav", f"{tmp_path}/clips/b.wav"),
        ("c", ""),
    ]


def test_jsons_of_whisper_are_matched_with_references_by_the_name_of_the_audio(tmp_path: Path) -> None:
    """As the command line of Whisper writes them: beside other forms of the same texts, named after the audio."""
    folder = tmp_path / "whisper"
    folder.mkdir()
    for name, text in (("a", " One."), ("b", " Two."), ("z", " Nobody asked.")):
        content = {"text": text, "segments": [{"text": text}], "language": "en"}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
        (folder / f"{name}.tsv").write_text(f"start\tend\ttext\n0\t900\t{text}\n")
        (folder / f"{name}.srt").write_text(f"1\n00:00:00,000 --> 00:00:00,900\n{text}\n")
        (folder / f"{name}.txt").write_text(f"{text}\n")
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
        ("x.jsonl", '{"id": "a", "hyp": ["x"]}', "x.jsonl:1: hyp: expected text, got list"),
        ("x.jsonl", '{"hyp": "x", "lang": "en/hi"}', "x.jsonl:1: lang: 'en/hi' is not the code of a language"),
        ("x.jsonl", '{"hyp": "x", "lang": "/en"}', "x.jsonl:1: lang: '/en' is not the code of a language"),
        ("x.json", '{"segments": ["x"]}', "x.json:1: segments: expected objects with a text"),
        ("x.json", '{"segments": [{"text": 5}]}', "x.json:1: segments: expected objects with a text"),
        ("x.json", '{"segments": [], "text": ["x"]}', "x.json:1: text: expected text, got list"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path: Path, name: str, text: str, line: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        outcomes(str(tmp_path / name))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("summary", "why"), [("", "Is a directory"), ("no/such.md", "No such file or directory")])
def test_a_summary_that_cannot_be_written_is_one_line_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], summary: str, why: str
) -> None:
    texts = written(tmp_path / "a.csv", [{"id": "a", "ref": "one", "hyp": "one"}])
    words = [f"output.uri={tmp_path / 'out'}", f"sets.dev.hypotheses={texts}", "--summary", str(tmp_path / summary)]
    assert job.main(words) == 2
    assert capsys.readouterr().err == f"--summary: {tmp_path / summary}: {why}\n"
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_fails_leaves_no_summary_and_keeps_an_older_one(tmp_path: Path) -> None:
    broken = tmp_path / "a.csv"
    broken.write_text("no,columns\n1,2\n")
    summary = tmp_path / "summary.md"
    words = [f"output.uri={tmp_path / 'out'}", f"sets.dev.hypotheses={broken}", "--summary", str(summary)]
    assert job.main(words) == 2
    assert not summary.exists()
    summary.write_text("of last night")
    assert job.main(words) == 2
    assert summary.read_text() == "of last night"


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
    alone = [f"output.uri={tmp_path / 'out'}", "sets.dev.language=en", "run=0"]
    assert job.main([*alone, f"sets.dev.hypotheses={tmp_path / 'old.csv'}"]) == 0
    words = [*alone[:2], f"models=[{', '.join(sides)}]", "run=1"]
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
    index = (tmp_path / "out/reports/index.html").read_text(encoding="utf-8")
    assert 'href="nightly-1.html"' in index
    assert "passed" in index  # the ordinary evaluation keeps its row
