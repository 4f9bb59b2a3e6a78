"""Speaker and noise out of metadata, under every name they go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SourceConfig
from pipeline.evaluation.corpora import SNR_NAMES, SPEAKER_NAMES, snr_of, speaker_of
from pipeline.sources.formats import list_recordings
from tests.support.corpora import commonvoice, fleurs, mls, voxpopuli, write


@pytest.mark.parametrize("name", [*SPEAKER_NAMES, "Speaker", "speaker-id", "SPK_ID"])
def test_a_speaker_is_found_under_every_name(name: str) -> None:
    assert speaker_of(json.dumps({"mood": "x", name: "anna"})) == "anna"


@pytest.mark.parametrize(
    ("metadata", "speaker"),
    [
        ({"speaker": 84}, "84"),
        ({"speaker": 84.0}, "84"),
        ({"speaker": " 84 "}, "84"),
        ({"speaker": None, "client_id": "ab"}, "ab"),
        ({"speaker": "None", "speaker_id": ""}, None),
        ({"speaker": {"id": 1}}, None),
        ({"speaker": True}, None),
        ({"custom": {"speaker_id": "x"}}, "x"),
        ({"speaker": "a", "custom": {"speaker": "b"}}, "a"),
        ({"speakers": "a"}, None),
        ({}, None),
    ],
)
def test_a_speaker_is_text_or_unknown(metadata: dict[str, Any], speaker: str | None) -> None:
    assert speaker_of(json.dumps(metadata)) == speaker


@pytest.mark.parametrize(
    ("metadata", "snr"),
    [
        *(({name: 12.5}, 12.5) for name in SNR_NAMES),
        ({"snr": -3}, -3.0),
        ({"SNR": "12.5 dB"}, 12.5),
        ({"snr": "loud", "snr_db": 4}, 4.0),
        ({"custom": {"snr": 20}}, 20.0),
        ({"snr": True}, None),
        ({"snr": "nan"}, None),
        ({"snr": "1e999"}, None),
        ({"snr": [1]}, None),
        ({}, None),
    ],
)
def test_a_noise_level_is_finite_or_unknown(metadata: dict[str, Any], snr: float | None) -> None:
    assert snr_of(json.dumps(metadata)) == snr


@pytest.mark.parametrize("metadata", [None, "", "[1]", "{", "[" * 100_000, "3", '{"speaker": NaN, "snr": Infinity}'])
def test_what_is_no_object_tells_nothing(metadata: str | None) -> None:
    assert (speaker_of(metadata), snr_of(metadata)) == (None, None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["speaker", "snr", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["speaker", "spk", "snr", "snr_db", "custom", "extra"]), VALUES))
def test_any_metadata_gives_a_name_and_a_number_or_nothing(metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata)
    speaker, snr = speaker_of(text), snr_of(text)
    assert speaker is None or speaker == speaker.strip() != ""
    assert snr is None or -float("inf") < snr < float("inf")


@pytest.mark.parametrize(
    ("tree", "speakers"),
    [
        (fleurs, {None}),
        (commonvoice, {"ab12", "cd34", "ef56"}),
        (voxpopuli, {"28229", None}),
        (mls, {"4650", "1844"}),
        (lambda: {"84/121123/84-121123-0000.flac": b"A", "84/121123/84-121123.trans.txt": b""}, {"84"}),
    ],
    ids=["fleurs", "commonvoice", "voxpopuli", "mls", "librispeech"],
)
def test_each_corpus_tells_its_speakers(tmp_path: Path, tree: Any, speakers: set[str | None]) -> None:
    write(tmp_path, tree())
    assert {speaker_of(ref.metadata) for ref in list_recordings(SourceConfig(uri=str(tmp_path)))} == speakers
