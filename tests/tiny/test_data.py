"""The feature cache resumes to the same bytes, and masks are bounded."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from infra.tiny import data
from infra.tiny.data import FeatureCache
from pipeline.audio.pcm import from_pcm
from pipeline.model.network.encoder import AudioEncoder
from tests.support.small_model import LANGUAGES, WORDS, noise_segment

SAMPLES = 16_000  # a window of one second
PER_SHARD = 10


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(d_model=16, layers=1, heads=2, ffn=32, mels=80, window_seconds=1.0).eval()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of ten utterances of 0.3 to 0.9 s; the texts have 1 to 6 words."""
    folder = tmp_path_factory.mktemp("corpus")
    for shard in range(3):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        table = pa.table(
            {
                "language": [LANGUAGES[n % 6] for n in numbers],
                "voice": [f"voice {n}" for n in numbers],
                "text": [" ".join(WORDS[n : n + 1 + n % 6]) for n in numbers],
                "pcm": [noise_segment(n, seconds=0.3 + 0.02 * n).pcm for n in numbers],
            }
        )
        pq.write_table(table, folder / f"part-{shard:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def cached(corpus: Path, encoder: AudioEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    assert data.cache_features(corpus, folder, encoder, window_samples=SAMPLES, batch=4) == 3 * PER_SHARD
    return folder


def test_cached_features_are_the_encoders_in_float16(cached: Path, corpus: Path, encoder: AudioEncoder) -> None:
    cache = FeatureCache(cached)
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(corpus.iterdir())]).to_pylist()
    assert len(cache) == len(rows)
    for name in ("text", "language", "voice"):
        assert getattr(cache, f"{name}s") == [row[name] for row in rows]
    for n in (0, 13, 29):  # one of every shard
        window = torch.from_numpy(from_pcm(rows[n]["pcm"], SAMPLES))
        torch.testing.assert_close(cache.features([n])[0], encoder(window[None])[0], atol=5e-3, rtol=1e-3)
    both = cache.features([29, 0])
    assert both.dtype == torch.float32
    assert torch.equal(both, torch.cat([cache.features([29]), cache.features([0])]))


def test_a_resumed_cache_is_equal_and_computes_only_what_is_missing(
    cached: Path, corpus: Path, encoder: AudioEncoder, tmp_path: Path
) -> None:
    """The kill came between the features of a shard and its texts, which mark it as done, with half-written files."""
    data.cache_features(corpus, tmp_path, encoder, window_samples=SAMPLES, batch=4)
    (tmp_path / "part-00001.json").unlink()
    (tmp_path / "part-00001.npy").write_bytes(b"half")
    (tmp_path / "part-00001.json.tmp").write_text('{"texts": ["ha')
    assert len(FeatureCache(tmp_path)) == 2 * PER_SHARD  # an unfinished shard is not read
    kept = (tmp_path / "part-00002.npy").stat().st_mtime_ns
    assert data.cache_features(corpus, tmp_path, encoder, window_samples=SAMPLES, batch=4) == 3 * PER_SHARD
    assert (tmp_path / "part-00002.npy").stat().st_mtime_ns == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in cached.iterdir())
    for path in cached.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_lengthened_shard_is_cached_again(corpus: Path, encoder: AudioEncoder, tmp_path: Path) -> None:
    grown = tmp_path / "corpus"
    grown.mkdir()
    table = pq.read_table(corpus / "part-00000.parquet")
    pq.write_table(table.slice(0, 4), grown / "part-00000.parquet")
    assert data.cache_features(grown, tmp_path / "features", encoder, window_samples=SAMPLES) == 4
    pq.write_table(table, grown / "part-00000.parquet")
    assert data.cache_features(grown, tmp_path / "features", encoder, window_samples=SAMPLES) == PER_SHARD
    assert FeatureCache(tmp_path / "features").texts == table["text"].to_pylist()


def test_utterances_longer_than_the_window_are_left_out(corpus: Path, encoder: AudioEncoder, tmp_path: Path) -> None:
    long = tmp_path / "corpus"
    long.mkdir()
    table = pq.read_table(corpus / "part-00000.parquet")
    pcm = table["pcm"].to_pylist()
    pcm[3], pcm[5] = b"\1\0" * (SAMPLES + 1), b"\1\0" * SAMPLES
    pq.write_table(table.set_column(3, "pcm", pa.array(pcm)), long / "part-00000.parquet")
    assert data.cache_features(long, tmp_path / "features", encoder, window_samples=SAMPLES) == PER_SHARD - 1
    texts = table["text"].to_pylist()
    assert FeatureCache(tmp_path / "features").texts == texts[:3] + texts[4:]


def test_masking_is_bounded_reproducible_and_leaves_its_input() -> None:
    features = torch.ones(200, 300, 64)
    masked = data.mask_features(features, torch.Generator().manual_seed(0))
    assert torch.equal(masked, data.mask_features(features, torch.Generator().manual_seed(0)))
    assert bool((features == 1).all())
    frames = (masked == 0).all(2).sum(1)  # masked in every channel
    channels = (masked == 0).all(1).sum(1)
    assert data.SPAN_FRAMES < int(frames.max()) <= data.SPANS * data.SPAN_FRAMES
    assert 0 < int(channels.max()) <= 4  # 64 / 16
    assert len(set(frames.tolist())) > 5  # every row its own


def test_the_tempo_of_a_row_changes_in_places_and_its_ends_stay() -> None:
    ramp = torch.arange(256.0)[None, :, None].repeat(100, 1, 32) + 1000
    with mock.patch.multiple(data, NOISE=0.0, mask_features=lambda features, _: features):
        found = data.altered(ramp, torch.Generator().manual_seed(0))[..., 0] - 1000
    speed = found.diff(dim=1)
    assert float(speed.min()) > 0.7
    assert float(speed.max()) < 1.4
    assert float((found - ramp[..., 0] + 1000).abs().max()) < 24  # 0.5 s, inside of the window of 5 s
    torch.testing.assert_close(found[:, [0, -1]], torch.tensor([[0.0, 255.0]]).expand(100, 2))
    assert len(set(found[:, 128].tolist())) > 90, "every row its own"


def test_an_altered_row_has_noise_and_masks_is_reproducible_and_leaves_its_input() -> None:
    features = torch.randn(50, 256, 64, generator=torch.Generator().manual_seed(1))
    given = features.clone()
    with mock.patch.object(data, "STRETCH", 0.0):
        found, again = (data.altered(features, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(found, again)
    assert torch.equal(features, given)
    changed = found[found != 0] - features[found != 0]
    assert float(changed.std()) == pytest.approx(data.NOISE, rel=0.1)
    assert bool((found == 0).all(2).any())


def test_two_alterations_of_a_row_have_one_tempo_but_their_own_noise_and_masks() -> None:
    features = torch.randn(50, 256, 64, generator=torch.Generator().manual_seed(1))
    with mock.patch.object(data, "NOISE", 0.0):
        one, other = data.two_altered(features, torch.Generator().manual_seed(0)).chunk(2)
    seen = (one != 0) & (other != 0)
    assert torch.equal(one[seen], other[seen])
    assert float((one - features)[seen].std()) > 0.5, "the tempo is another"
    assert bool(((one == 0).all(2) != (other == 0).all(2)).any(1).all()), "the masks differ in every row"
    one, other = data.two_altered(features, torch.Generator().manual_seed(0)).chunk(2)
    assert not bool((one == other)[(one != 0) & (other != 0)].any()), "so does the noise"


def test_texts_survive_in_every_script(tmp_path: Path, encoder: AudioEncoder) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = ["grüß gott", "नमस्ते", "你好"]
    columns = {"language": ["de", "hi", "zh"], "voice": ["v"] * 3, "text": texts, "pcm": [b"\1\0" * 800] * 3}
    pq.write_table(pa.table(columns), corpus / "part-00000.parquet")
    data.cache_features(corpus, tmp_path / "features", encoder, window_samples=SAMPLES)
    assert FeatureCache(tmp_path / "features").texts == texts
    assert json.loads((tmp_path / "features" / "part-00000.json").read_text())["languages"] == ["de", "hi", "zh"]
