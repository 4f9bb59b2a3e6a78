"""The site of the pages: it is built without a network and loads nothing, and a wrong link is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from infra import site

pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "zensical").exists(), reason="needs zensical, which builds the site"
)
OF_TWO_PAGES = "site_name: two\ndocs_dir: pages\nsite_dir: site\ntheme: {font: false}\nnav: [{A: a.md}]\n"


def test_the_pages_become_a_site_that_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert site.main(tmp_path / "site") == 0
    pages = {str(path.relative_to(tmp_path / "site")): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert {
        "index.html",
        "docs/index.html",
        "docs/archives.html",
        "pipeline/assets/tiny/MODEL_CARD.html",
    } <= pages.keys()
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(\S+?)[\" >]|<link[^>]* href=\"?(\S+?)[\" >]", text)
        assert loaded, name
        assert not [one for one in loaded if "//" in "".join(one)], name
    assert "schema" in (tmp_path / "site/pipeline/schemas.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("link", "message"),
    [("b.md#there", None), ("b.md#nowhere", "anchor does not exist"), ("#nowhere", "anchor does not exist")],
)
def test_a_link_to_an_anchor_that_is_not_there_is_an_error(
    link: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mkdocs.yml").write_text(OF_TWO_PAGES)
    (tmp_path / "a.md").write_text(f"# A\n\n[b](b.md) and [there]({link})\n")
    (tmp_path / "b.md").write_text("# B\n\n## There\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "SETTINGS", tmp_path / "mkdocs.yml")
    assert site.main(tmp_path / "out") == (1 if message else 0)
    assert (message or "") in capsys.readouterr().err
    assert (tmp_path / "out").exists() is (message is None)


def test_a_link_to_a_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mkdocs.yml").write_text(OF_TWO_PAGES)
    (tmp_path / "a.md").write_text("# A\n\n![lost](lost.svg)\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "SETTINGS", tmp_path / "mkdocs.yml")
    with pytest.raises(FileNotFoundError, match=r"lost\.svg"):
        site.linked()
