"""What every storage promises of tables that are replaced, for the tests of each kind."""

from __future__ import annotations

from pipeline.storage.base import Storage


def fill(storage: Storage, generation: str, parts: int, missing: str | None = None) -> None:
    """Replace the table by so many parts; the one that is `missing` is added without being written."""
    with storage.replace("transcripts") as table:
        for part in range(parts):
            if f"part-{part}" != missing:
                table.path(f"part-{part}").write_text(generation)
            table.add(f"part-{part}")


def check_versions(storage: Storage) -> None:
    """A replacement knows the versions of what it wrote, and an object that was written again has another."""
    with storage.replace("transcripts") as table:
        for name in ("a", "b"):
            table.path(name).write_text(name)
            table.add(name)
    first = storage.versions("transcripts/")
    assert first == table.versions
    assert list(first) == ["transcripts/a", "transcripts/b"]
    storage.put("transcripts/a", b"x")
    assert storage.versions("transcripts/a") != {"transcripts/a": first["transcripts/a"]}
    assert storage.versions("transcripts/b") == {"transcripts/b": first["transcripts/b"]}
