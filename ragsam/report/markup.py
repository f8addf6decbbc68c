"""Tables in Markdown and LaTeX, with every text escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is: no markup, no HTML, no new cell, no new line."""
    return re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def escape_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def markdown_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str,
    total: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return a table of texts with its total in the last row, under its title and over its notes."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    body = [line([escape_markdown(cell) for cell in row]) for row in rows]
    if total is not None:
        body.append(line([f"**{escape_markdown(cell)}**" for cell in total]))
    ruler = line(["---", *["---:"] * (len(heads) - 1)])
    parts = [
        escape_markdown(title),
        "\n".join([line([escape_markdown(head) for head in heads]), ruler, *body]),
        *map(escape_markdown, notes),
    ]
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

    def line(cells: Sequence[str]) -> str:
        return " & ".join(escape_latex(cell) for cell in cells) + r" \\"

    caption = " ".join(map(escape_latex, [title, *notes]))
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule", line(heads), r"\midrule",
        *(line(row) for row in rows),
        r"\midrule", line(total), r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip
