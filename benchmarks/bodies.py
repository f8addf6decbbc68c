"""How branching the code is: branches and functions by 100 lines of function bodies, and the longest functions.

    python benchmarks/bodies.py ragsam data transforms bundles

Counted as a branch: if, conditional expression, for, while, except, each further operand of and/or, and each for and if
of a comprehension. A body is the lines of code between a function's docstring and its end, without blanks and comments.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Counts:
    """What was counted in some files.

    Attributes:
        lines: all lines.
        body_lines: lines of code in functions.
        branches: branches and functions.
        longest: body lines of the longest function.
    """

    lines: int = 0
    body_lines: int = 0
    branches: int = 0
    longest: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.lines + other.lines,
            self.body_lines + other.body_lines,
            self.branches + other.branches,
            max(self.longest, other.longest),
        )

    @property
    def density(self) -> float:
        """Branches by 100 body lines."""
        return 100 * self.branches / max(self.body_lines, 1)


def python_files(places: Iterable[Path]) -> list[Path]:
    """Return the Python files that are given or lie below given folders."""
    files: list[Path] = []
    for place in places:
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return files


def count_file(path: Path) -> Counts:
    """Count one file."""
    return count_source(path.read_text(encoding="utf-8"))


def count_source(source: str) -> Counts:
    """Count one file's text."""
    lines = source.splitlines()
    nodes = list(ast.walk(ast.parse(source)))
    bodies = [_code_lines(node, lines) for node in nodes if isinstance(node, FUNCTIONS)]
    return Counts(
        lines=len(lines),
        body_lines=len(set().union(*bodies)),
        branches=len(bodies) + sum(map(_branches, nodes)),
        longest=max(map(len, bodies), default=0),
    )


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> set[int]:
    """Return the numbers of a body's lines of code, those of functions within it included."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    numbers: set[int] = set()
    for statement in statements:
        for number in range(statement.lineno, statement.end_lineno + 1):
            text = lines[number - 1].strip()
            if text and not text.startswith("#"):
                numbers.add(number)
    return numbers


def _branches(node: ast.AST) -> int:
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def main() -> None:
    """Print a row a file and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+", type=Path)
    args = parser.parse_args()
    total = Counts()
    for path in python_files(args.places):
        counts = count_file(path)
        total += counts
        sys.stdout.write(f"{path}: {_told(counts)}\n")
    sys.stdout.write(f"all: {_told(total)}\n")


def _told(counts: Counts) -> str:
    longest = f"longest function {counts.longest}"
    return f"{counts.lines} lines, {counts.body_lines} in bodies, {counts.density:.1f} branches by 100, {longest}"


if __name__ == "__main__":
    main()
