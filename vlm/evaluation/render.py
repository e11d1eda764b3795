"""Render a report's sections as Markdown and as a single HTML file."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass
class Section:
    """A heading and its content, in this order.

    Attributes:
        title: title of the section.
        text: plain paragraphs.
        table: rows of cells, starting with the headings; the first column is text, the others are
            numbers.
        plots: (file name, description, PNG) of each plot.
        code: a block in a fixed-width font.
    """

    title: str
    text: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    plots: list[tuple[str, str, bytes]] = field(default_factory=list)
    code: str = ""


def write_sections(
    folder: Path,
    title: str,
    sections: Sequence[Section],
    results: Mapping[str, Any],
    name: str = "results.json",
) -> Path:
    """Write report.md, report.html, the results and the plots; returns the path of report.html.

    `results` is plain data for programs, without NaN or infinity, and goes to the file `name`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot, _, png in section.plots:
            (folder / plot).write_bytes(png)
    (folder / "report.md").write_text(to_markdown(title, sections), encoding="utf-8")
    (folder / "report.html").write_text(to_html(title, sections), encoding="utf-8")
    content = json.dumps(results, indent=1, allow_nan=False)
    (folder / name).write_text(content + "\n", encoding="utf-8")
    return folder / "report.html"


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Render as Markdown; plots are links to files next to it."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += section.text
        if section.table:
            head, *rows = section.table
            lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
            cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        parts += [f"![{what}]({name})" for name, what, _ in section.plots]
        if section.code:
            parts.append(f"```\n{section.code.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Render as one self-contained HTML file, including the plots."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        if section.table:
            head, *rows = section.table
            parts.append('<div class="wide"><table>')
            parts.append(f"<thead>{_row(head, 'th')}</thead>")
            parts.append(f"<tbody>{''.join(_row(row, 'td') for row in rows)}</tbody>")
            parts.append("</table></div>")
        for _, what, png in section.plots:
            data = base64.b64encode(png).decode()
            parts.append(f'<img alt="{html.escape(what)}" src="data:image/png;base64,{data}">')
        if section.code:
            parts.append(f"<pre>{html.escape(section.code.rstrip())}</pre>")
    return _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(parts))


def new_figure(width: float, height: float, plots: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches, and its plots side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, plots, squeeze=False)[0].tolist()
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
"""
