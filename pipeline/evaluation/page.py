"""The look of an evaluation's report: one self-contained HTML page, its style, tables and plots.

Text is escaped wherever it enters: `Markup.format` and `cell` escape everything that is not Markup itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

# Nothing is loaded and no script runs, whatever the transcripts hold; only a player may fetch its audio.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self' file: http: https:"

STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#57606a;--line:#d5dae0;--paper:#fff;--panel:#f5f7f9;
--series:#0b62b8;--other:#b45309;--bad:#b3261e;--bad-paper:#fdecea;--good:#1a6b34;--good-paper:#e8f5ec;
--warn-paper:#fff6e0;--font:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#a3acb8;--line:#3a424d;--paper:#14181d;--panel:#1c2229;
--series:#6cb2ff;--other:#f5a54a;--bad:#ff8a80;--bad-paper:#3a1d1b;--good:#7dd895;--good-paper:#16301f;
--warn-paper:#33290f}}
*{box-sizing:border-box}
body{font:16px/1.5 var(--font);margin:0 auto;max-width:84rem;padding:1.5rem 1rem 4rem;color:var(--ink);
background:var(--paper)}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem}h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.4rem 0;max-width:50rem}.soft,figcaption,caption{color:var(--soft);font-size:.875rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:1rem 0 0;font-size:.9rem}a{color:var(--series)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--series);outline-offset:2px}
.verdict{border-left:.4rem solid var(--good);background:var(--good-paper);padding:.75rem 1rem;margin:1rem 0;
border-radius:.25rem;overflow-wrap:anywhere}.verdict.failed{border-color:var(--bad);background:var(--bad-paper)}
.verdict.warned{border-color:var(--other);background:var(--warn-paper)}
.verdict strong{font-size:1.1rem}.verdict ul{margin:.4rem 0 0;padding-left:1.2rem}
.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}
dl{display:grid;grid-template-columns:fit-content(40%) 1fr;gap:.2rem 1.25rem;margin:0}dt{color:var(--soft)}
dd{margin:0}dt,dd,summary{overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.5rem 0;border:1px solid var(--line);border-radius:.375rem}
table{border-collapse:collapse;width:100%;font-size:.8125rem;line-height:1.4}
caption{text-align:left;padding:.5rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .5rem;border-top:1px solid var(--line)}
thead th{background:var(--panel);border-top:0;vertical-align:bottom;font-weight:600}thead .n{white-space:normal}
tbody th{font-weight:600}tbody tr:hover{background:var(--panel)}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.w{white-space:nowrap}
figure{margin:1rem 0;max-width:44rem;border:1px solid var(--line);border-radius:.375rem;padding:.75rem}
figure div{overflow-x:auto}figure svg{display:block;width:100%;height:auto;min-width:26rem}
figure.wide{max-width:none}figure.wide svg{min-width:44rem}figcaption{margin-bottom:.5rem}
.sweep text{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
td .soft{font-size:inherit}details{margin:.5rem 0}summary{cursor:pointer}
del{color:var(--bad);background:var(--bad-paper);text-decoration:line-through}
ins{color:var(--good);background:var(--good-paper);text-decoration:underline;text-decoration-thickness:2px}
ol.worst{list-style:none;margin:0;padding:0}
ol.worst>li{border:1px solid var(--line);border-radius:.375rem;padding:.75rem 1rem;margin:.75rem 0}
.worst header{display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline;font-size:.875rem;color:var(--soft)}
.worst header b{color:var(--ink);overflow-wrap:anywhere}.text{margin:.4rem 0;max-width:none;overflow-wrap:anywhere}
.worst audio{width:100%;max-width:26rem;height:2.25rem;margin-top:.3rem;display:block}
.place{font-size:.8rem;color:var(--soft);overflow-wrap:anywhere}
"""


def page(title: str, parts: Iterable[Markup]) -> str:
    """A whole page in English that is readable offline."""
    head = Markup(
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="{}">'
        '<link rel="icon" href="data:,"><title>{}</title><style>{}</style></head>\n<body>\n'
    ).format(POLICY, title, Markup(STYLE))
    return str(head + Markup("\n").join(part for part in parts if part) + Markup("\n</body>\n</html>\n"))


def section(name: str, title: str, *parts: Markup) -> Markup:
    """A part of the page with a heading; empty where all its parts are."""
    body = Markup("\n").join(part for part in parts if part)
    if not body:
        return Markup()
    return Markup('<section id="{}"><h2>{}</h2>\n{}\n</section>').format(name, title, body)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str | Markup]], *, text: int = 1) -> Markup:
    """A table that scrolls by itself on a narrow screen; empty without rows. The first `text` columns are words, the
    others figures."""
    body = Markup().join(
        Markup("<tr>{}</tr>\n").format(
            Markup().join(_cell(value, column, text, "th" if column == 0 else "td") for column, value in enumerate(row))
        )
        for row in rows
    )
    if not body:
        return Markup()
    head = Markup().join(_cell(name, column, text, "th", "col") for column, name in enumerate(header))
    return Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{0}"><table><caption>{0}</caption>'
        "<thead><tr>{1}</tr></thead>\n<tbody>{2}</tbody></table></div>"
    ).format(caption, head, body)


def _cell(value: str | Markup, column: int, text: int, tag: str, scope: str = "row") -> Markup:
    attributes = Markup(' scope="{}"').format(scope) if tag == "th" else Markup()
    kind = "w" if column < text else "n"
    return Markup('<{0}{1} class="{2}"{3}>{4}</{0}>').format(
        Markup(tag), attributes, kind, Markup(' dir="auto"') if kind == "w" else Markup(), escape(value)
    )


def plot(svg: str, caption: str, *, wide: bool = False) -> Markup:
    """A drawing of plots.py with what it shows; empty where nothing was drawn."""
    if not svg:
        return Markup()
    return Markup("<figure{}><figcaption>{}</figcaption><div>{}</div></figure>").format(
        Markup(' class="wide"') if wide else Markup(), caption, Markup(svg)
    )
