"""The audit: what is drawn stands for all kept labels, and verdicts give their error rate."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs.export import main as export
from jobs.select_labels import main
from pipeline.config import ConfigError
from pipeline.labels.audit import Sample, as_csv
from pipeline.labels.settings import AuditConfig
from pipeline.labels.verdicts import audited_risk, read_verdicts
from tests.support.labelled import archive, sound, transcribed
from tests.support.labels import labels, segment
from tests.support.small_s3 import SmallS3


def label(number: int, confidence: float, words: int = 5) -> dict[str, object]:
    return segment("word " * words, f"r{number}", confidence=confidence) | {"kept": True, "label_id": f"{number:04x}"}


def drawn(size: int = 40) -> Sample:
    """Of 300 sure labels and 100 others."""
    sample = Sample(AuditConfig(sample=size))
    for number in range(400):
        sample.add(label(number, 0.99 if number % 4 else 0.7))
    sample.add(label(1000, 0.99) | {"kept": False})
    return sample


def test_every_stratum_has_its_labels_and_weights_stand_for_all_kept_words() -> None:
    rows = drawn().rows()
    assert [row["stratum"] for row in rows] == ["en 0-0.8"] * 20 + ["en 0.98-1"] * 20
    assert sum(row["weight"] * row["words"] for row in rows) == 400 * 5
    assert drawn().rows() == rows
    assert len(drawn(1000).rows()) == 400
    assert [row["stratum"] for row in drawn(1).rows()] == ["en 0-0.8"] * 2 + ["en 0.98-1"] * 2


def test_the_rate_weighs_strata_and_its_interval_holds() -> None:
    rows = drawn().rows()
    by_hand = [dict(row) | {"errors": 1.0 if row["stratum"] == "en 0-0.8" else 0.0} for row in rows]
    found = audited_risk(by_hand, 0.95)
    assert abs(found.rate - 100 / 2000) < 1e-9  # each unsure label has one error
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        listened = [
            dict(row) | {"errors": float(rng.binomial(5, 0.3 if row["stratum"] == "en 0-0.8" else 0.02))}
            for row in rows
        ]
        interval = audited_risk(listened, 0.95)
        inside += interval.low <= 0.25 * 0.3 + 0.75 * 0.02 <= interval.high
    assert inside >= 186


def test_the_page_has_a_player_for_each_label_with_exactly_its_audio(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    assert main([f"transcripts={tmp_path / 'out'}", f"output.uri={tmp_path / 'labels'}"]) == 0
    rows = {row["label_id"]: row for row in labels(tmp_path / "labels")}
    assert len(rows) == 6
    page = (tmp_path / "labels" / "audit.html").read_text()
    for label_id, row in rows.items():
        samples, rate = soundfile.read(tmp_path / "labels" / "audit" / f"{label_id}.flac", dtype="int16")
        number, start = int(row["recording_id"][1]), row["start_ms"] * 16
        assert rate == 16_000
        np.testing.assert_array_equal(samples, sound(number)[start : start + 900 * 16])
        assert page.count(f'src="audit/{label_id}.flac"') == 1


def test_labels_and_audit_go_from_bucket_to_bucket(s3: SmallS3, tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), "s3://b/out")
    for least in ("0.9", "0.4"):
        words = ["transcripts=s3://b/out", "output.uri=s3://b/labels", f"policy.min_confidence={{default: {least}}}"]
        assert main([*words, f"storage.endpoint={s3.url}"]) == 0
    keys = [key.removeprefix("labels/") for key in s3.objects if key.startswith("labels/")]
    assert {key for key in keys if not key.startswith("audit/")} == {
        *("labels/part-00000.parquet", "funnel.json", "report.html", "audit.csv", "audit.html")
    }
    assert sum(key.startswith("audit/") for key in keys) == 6


def test_an_export_reads_what_was_selected(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    merge = ["merge.min_seconds=1", "filters.max_word_characters=6", "split.dev=0", "split.test=0", "audit.sample=0"]
    assert main([f"transcripts={tmp_path / 'out'}", f"output.uri={tmp_path / 'labels'}", *merge]) == 0
    assert {row["reason"] for row in labels(tmp_path / "labels")} == {"long_word"}
    assert main([f"transcripts={tmp_path / 'out'}", f"output.uri={tmp_path / 'labels'}", merge[0], *merge[2:]]) == 0
    words = ["export.format=webdataset", "export.tasks=1", f"input.uri={tmp_path / 'labels'}"]
    assert export([*words, f"output.uri={tmp_path / 'set'}"]) == 0
    names = []
    for path in (tmp_path / "set" / "train").glob("*.tar"):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert sum(name.endswith(".flac") for name in names) == 3, "two neighbours each"


def test_saved_verdicts_come_back_as_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"errors": "" if number else "2"} for number, row in enumerate(drawn().rows())]
    (tmp_path / "verdicts.csv").write_text(as_csv(rows), encoding="utf-8")
    given = ["--config", "configs/labels.yaml", f"audit.verdicts={tmp_path / 'verdicts.csv'}"]
    assert main([*given, f"output.uri={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith("1 label: error rate 40.00 % [")
    assert (tmp_path / "audit.json").exists()


def test_verdicts_of_a_part_of_a_stratum_stand_for_all_of_it(tmp_path: Path) -> None:
    sure = [row["label_id"] for row in drawn().rows() if row["stratum"] == "en 0.98-1"][5:]
    rows = [
        row | {"errors": "" if row["label_id"] in sure else "1" if row["stratum"] == "en 0-0.8" else "0"}
        for row in drawn().rows()
    ]
    (tmp_path / "verdicts.csv").write_text(as_csv(rows))
    assert abs(audited_risk(read_verdicts(tmp_path / "verdicts.csv").rows, 0.95).rate - 100 / 2000) < 1e-6
    (tmp_path / "verdicts.csv").write_text(as_csv(row | {"errors": "1" if row == rows[0] else ""} for row in rows))
    assert read_verdicts(tmp_path / "verdicts.csv").missing == ["en 0.98-1"]


def test_files_of_two_people_may_be_joined_and_each_label_counts_once(tmp_path: Path) -> None:
    rows = [row | {"errors": "1" if row["stratum"] == "en 0-0.8" else "0"} for row in drawn().rows()]
    first = [row | {"errors": "" if row["stratum"] == "en 0-0.8" else row["errors"]} for row in rows]
    second = [row for row in rows if row["stratum"] == "en 0-0.8"]  # only what the first one has left
    path = tmp_path / "verdicts.csv"
    path.write_text(as_csv(rows))
    alone = audited_risk(read_verdicts(path).rows, 0.95)
    path.write_text(as_csv([*first, *second]))
    joined = audited_risk(read_verdicts(path).rows, 0.95)
    assert abs(joined.rate - alone.rate) < 1e-9
    assert abs(joined.upper - alone.upper) < 1e-9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label_id,text\n1,a\n", "no column stratum"),
        ("label_id,stratum,weight,words,errors\n", "no row"),
        ("label_id,stratum,weight,words,errors\n1,a,1,5,\n", "no row has a verdict"),
        ("label_id,stratum,weight,words,errors\n1,a,1,5,many\n", "line 2: "),
        ("label_id,stratum,weight,words,errors\n1,a,1,5,0\n2,a,1,5,-1\n", "line 3: "),
        ("label_id,stratum,weight,words,errors\n1,a,1,5,0\n1,a,1,5,1\n", "line 3: a second verdict on 1"),
    ],
)
def test_a_file_that_is_no_audit_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_verdicts(path)
    assert str(caught.value).startswith(f"audit.verdicts: {path}: ")
    assert says in str(caught.value)
