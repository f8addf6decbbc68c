"""Tables in Markdown and LaTeX, with every text escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}",
})  # fmt: skip


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is: no markup, no HTML, no new cell, no new line."""
    return re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def escape_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return " ".join(text.split()).translate(_LATEX)


def markdown_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str,
    total: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return a table of texts with its total in the last row, under its title and over its notes."""
    lines = [_markdown_row(heads), "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += map(_markdown_row, rows)
    if total is not None:
        lines.append(_markdown_row(total, "**"))
    table = "\n".join(lines)
    parts = [escape_markdown(title), table, *map(escape_markdown, notes)]
    return "\n\n".join(parts) + "\n"


def latex_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str,
    total: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Return the same for LaTeX with the package booktabs; title and notes are the caption."""
    caption = " ".join(map(escape_latex, [title, *notes]))
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        _latex_row(heads),
        r"\midrule",
        *map(_latex_row, rows),
        r"\midrule",
        _latex_row(total),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _markdown_row(cells: Sequence[str], mark: str = "") -> str:
    return "| " + " | ".join(f"{mark}{escape_markdown(cell)}{mark}" for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"
