"""A page of HTML that needs nothing else: no script, no style and no picture from elsewhere.

Texts are escaped here, all of them; what these functions return is HTML and is not escaped again.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["bullets", "document", "fold", "heading", "paragraph", "picture", "table"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #24292f; background: #fff;
       margin: 0 auto; max-width: 1240px; padding: 1.5em; }
p, ul { max-width: 62em; }
h1 { font-size: 1.8em; } h2 { margin-top: 2em; border-bottom: 1px solid #d0d4d9; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; display: block;
        overflow-x: auto; }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #c8cdd3; vertical-align: bottom; white-space: normal; }
td { border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child, .words, .label { text-align: left; }
td.words { white-space: normal; }
td.ahead { background: #dbe9f8; font-weight: bold; }
td.behind { background: #f8e3d6; }
img { max-width: 100%; height: auto; display: block; margin: 1.5em 0; }
summary { cursor: pointer; font-weight: bold; margin: .6em 0; }
"""

Cell = str | tuple[str, str]
"""A text, or one with its class: "words" that may wrap, a "label", "ahead", "behind"."""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Of ``level`` 2 to 6."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """One."""
    return f"<p>{html.escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    items = "".join(f"<li>{html.escape(text)}</li>\n" for text in texts)
    return f"<ul>\n{items}</ul>"


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Numbers are set to the right; the first column, words and labels to the left."""
    lines = [[_with_class(cell) for cell in row] for row in rows]
    wordy = {
        column
        for line in lines
        for column, (_, name) in enumerate(line)
        if name in ("words", "label")
    }
    head = "".join(
        _element("th", text, "words" if column in wordy else "")
        for column, text in enumerate(headings)
    )
    body = "".join(
        "<tr>" + "".join(_element("td", text, name) for text, name in line) + "</tr>\n"
        for line in lines
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def fold(summary: str, inner: str) -> str:
    """Shown when the reader asks for it."""
    return f"<details>\n<summary>{html.escape(summary)}</summary>\n{inner}\n</details>"


def picture(path: Path, words: str) -> str:
    """A PNG file, in the page itself; ``words`` for those who do not see it."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def _with_class(cell: Cell) -> tuple[str, str]:
    return cell if isinstance(cell, tuple) else (cell, "")


def _element(tag: str, text: str, name: str) -> str:
    attribute = f' class="{html.escape(name)}"' if name else ""
    return f"<{tag}{attribute}>{html.escape(text)}</{tag}>"
