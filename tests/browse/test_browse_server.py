"""The page over HTTP: token, host names, ranges of audio, odd letters; and nothing of it in a log."""

from __future__ import annotations

import contextlib
import html
import io
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.browse.page import clock, stretches
from pipeline.browse.query import Query
from pipeline.browse.server import PageServer, byte_range, is_own_name
from pipeline.browse.settings import BrowseConfig
from pipeline.config_file import load
from pipeline.storage.base import open_storage
from tests.support.browsed import DEAD, NASTY, TEXTS, output
from tests.support.labelled import sound

WHOLE = "bytes=0-"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[PageServer]:
    config = load(BrowseConfig, None, [f"output.uri={folder}", "server.port=0"])
    server = PageServer(config, open_storage(str(folder), create=False))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("served")
    output(folder)
    with served(folder / "out") as server:
        yield server


def ask(server: PageServer, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    """The answer to a GET, and its body."""
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def page(server: PageServer, **asked: str) -> tuple[int, str]:
    answer, body = ask(server, f"/?{urlencode({'token': server.token, **asked})}")
    return answer.status, body.decode()


def player(server: PageServer, **asked: str) -> str:
    """The address of the first player of a page."""
    found = re.search(r'<audio [^>]*src="([^"]+)"', page(server, **asked)[1])
    assert found
    return f"/{html.unescape(found[1])}"


@pytest.mark.parametrize("path", ["/", "/audio"])
@pytest.mark.parametrize("token", [None, "", "wrong", "größe", "{}x", "%ff"])
def test_without_the_token_there_is_nothing(server: PageServer, path: str, token: str | None) -> None:
    query = {} if token is None else {"token": token.format(server.token)}
    answer, body = ask(server, f"{path}?{urlencode(query)}")
    assert answer.status == 403
    assert body.decode() == "the token is missing or wrong: open the address that jobs.browse has printed"


def test_the_printed_address_opens_the_page_and_each_server_has_a_token_of_its_own(server: PageServer) -> None:
    parts = urlsplit(server.address)
    assert (parts.scheme, parts.netloc) == ("http", f"127.0.0.1:{server.server_port}")
    answer, body = ask(server, f"{parts.path}?{parts.query}")
    assert (answer.status, answer.headers["Referrer-Policy"]) == (200, "no-referrer")
    assert "Guten Morgen" in re.sub("<[^>]+>", "", body.decode())
    assert len(parse_qs(parts.query)["token"][0]) >= 32
    with served(Path(server.uri)) as other:
        assert other.token != server.token


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        *((name, True) for name in ("localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:8890", "10.0.0.7:80")),
        *((name, False) for name in ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "", "[")),
    ],
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(host: str, is_own: bool) -> None:
    assert is_own_name(host, "127.0.0.1") == is_own


def test_a_request_with_a_foreign_host_gets_nothing_although_its_token_is_right(server: PageServer) -> None:
    answer, body = ask(server, f"/?token={server.token}", Host="evil.example")
    assert (answer.status, body) == (403, b"this host name is not that of the page")


def test_a_player_gets_the_samples_of_its_segment(server: PageServer) -> None:
    answer, body = ask(server, player(server, text="guten abend"))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/wav")
    samples, rate = soundfile.read(io.BytesIO(body), dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(samples, sound(0)[16_000 : 16_000 + 14_400])


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [("bytes=0-99", 0, 100), ("bytes=100-", 100, None), ("bytes=-50", -50, None), ("bytes=7-999999999", 7, None)],
)
def test_a_player_can_seek(server: PageServer, header: str, start: int, stop: int | None) -> None:
    address = player(server, text="guten abend")
    _, whole = ask(server, address)
    answer, body = ask(server, address, Range=header)
    assert (answer.status, answer.headers["Accept-Ranges"]) == (206, "bytes")
    assert body == whole[start:stop]
    first = range(len(whole))[start]
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"


def test_a_range_behind_the_end_is_416_and_what_is_no_range_is_all(server: PageServer) -> None:
    address = player(server)
    _, whole = ask(server, address)
    answer, body = ask(server, address, Range=f"bytes={len(whole)}-")
    assert (answer.status, body, answer.headers["Content-Range"]) == (416, b"", f"bytes */{len(whole)}")
    for header in ("bytes=5-4", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-"):
        answer, body = ask(server, address, Range=header)
        assert (answer.status, body) == (200, whole)


@given(size=st.integers(1, 1000), first=st.integers(0, 1100), last=st.integers(0, 1100))
def test_a_range_is_within_the_content(size: int, first: int, last: int) -> None:
    wanted = byte_range(f"bytes={first}-{last}", size)
    if last < first:
        assert wanted is None
    else:
        assert list(wanted or ()) == [place for place in range(size) if first <= place <= last]


def test_hostile_text_stays_text_and_what_was_asked_stays_in_the_form(server: PageServer) -> None:
    status, text = page(server, text=NASTY)
    assert status == 200
    assert NASTY not in text
    assert f'value="{html.escape(NASTY).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")}"' in text
    hit = re.search(r'<p class="text"[^>]*>(.*?)</p>', text, re.DOTALL)
    assert hit
    assert html.unescape(re.sub("<[^>]+>", "", hit[1])) == NASTY


@given(text=st.text(max_size=40))
def test_any_search_text_gives_a_page(server: PageServer, text: str) -> None:
    assert page(server, text=text)[0] == 200


def test_a_hit_shows_confidences_time_language_and_problem(server: PageServer) -> None:
    _, text = page(server, text="really")
    assert '<span class="word" style="--doubt:0.15" title="0.85">100</span>' in text
    assert '<span class="word unsure" style="--doubt:0.85" title="0.15">sure</span>' in text
    assert "<mark><span" in text
    for shown in ("0:00.0 – 0:00.9", "confidence 0.85", '<span dir="auto">en</span>', "speaker s0", "CC-BY-4.0"):
        assert shown in text
    assert "truncated_audio: the audio ends before its declared length" in text
    _, dead = page(server, show="dead")
    assert DEAD in dead
    assert "model_error: the model gave no usable answer" in dead
    assert "<audio" not in dead


def test_an_impossible_value_is_said_on_the_page(server: PageServer) -> None:
    status, text = page(server, low="2")
    assert status == 400
    assert "low: Input should be less than or equal to 1" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"part": "../../_run/config.yaml"},
        *({"row": row} for row in ("-1", "x", "999", "9" * 18, "9" * 5000)),
        {"id": "0"},
        {"part": ""},
    ],
)
def test_an_address_of_no_segment_is_a_line(server: PageServer, wrong: dict[str, str]) -> None:
    parts = urlsplit(player(server))
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    answer, body = ask(server, f"{parts.path}?{urlencode(asked | wrong)}")
    assert answer.status == 404
    assert body.decode() in ("there is no such segment", "the transcripts were published again: search once more")
    assert ask(server, f"/elsewhere?token={server.token}")[0].status == 404


def test_audio_out_of_reach_says_why_and_a_damaged_table_stops_nothing(tmp_path: Path) -> None:
    output(tmp_path)
    with served(tmp_path / "out") as server:
        address = player(server)
        (tmp_path / "in/r0.wav").unlink()
        answer, body = ask(server, address)
        assert answer.status == 404
        assert body.decode().startswith("missing_file: ")
        assert b"\n" not in body
        shutil.rmtree(tmp_path / "in")
        answer, body = ask(server, address)
        assert (answer.status, body.count(b"\n")) == (404, 0)
        assert str(tmp_path / "in") in body.decode()
        part = tmp_path / "out/transcripts/part-00000.parquet"
        whole = part.read_bytes()
        part.write_bytes(b"PAR1 no table")
        status, text = page(server)
        assert status == 503
        assert "the tables cannot be read: " in text
        part.write_bytes(whole)
        assert page(server)[0] == 200


def test_nothing_of_a_request_or_a_transcript_is_logged(
    server: PageServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        page(server, text="guten")
        page(server, text="guten", low="2")
        ask(server, player(server))
        ask(server, "/?token=guten")
    written = caplog.text + "".join(capfd.readouterr())
    assert not [word for word in ("uten", server.token) if word in written]


def test_a_text_is_shown_whole_with_its_words_in_order() -> None:
    words = [{"text": "a", "confidence": 0.1}, {"text": "b", "confidence": 0.2}, {"text": "a", "confidence": 0.3}]
    found = stretches("a b, a c", words, Query(text="B, A"))
    assert "".join(one.text for one in found) == "a b, a c"
    assert [(one.text, one.confidence) for one in found if one.confidence] == [("a", 0.1), ("b", 0.2), ("a", 0.3)]
    assert "".join(one.text for one in found if one.is_match) == "b, a"
    for text in TEXTS:
        assert "".join(one.text for one in stretches(text, words, Query(text=text, match="words"))) == text


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0, "0:00.0"), (59_999, "0:59.9"), (61_250, "1:01.2"), (3_723_400, "1:02:03.4")]
)
def test_a_time_is_that_of_a_clock(milliseconds: int, shown: str) -> None:
    assert clock(milliseconds) == shown
