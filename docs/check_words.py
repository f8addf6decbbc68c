"""Find words that the glossary in CONTRIBUTING.md settles otherwise, in pages, docstrings and messages: `make lint`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = re.compile(r"\b(told|tells|another \w+ than|(?:is|are) none|lies? in|knobs?|carried over)\b")
CODE = re.compile(r"`[^`]*`|\{\{.*?\}\}|\{%.*?%\}")
PAGES = ("README.md", "CHANGELOG.md", "SECURITY.md", "docs/**/*.md", "bundles/**/*.md", "bundles/**/*.yaml")


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a page's lines, or of a module's strings that are longer than a word."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def main() -> int:
    """Print every hit as FILE:LINE: WORD; return 1 if there was one."""
    files = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    for folder in ("ragsam", "data", "transforms"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".html", ".yaml")]
    hits = 0
    for path in sorted(files):
        for line, text in texts_of(path):
            for found in WORDS.findall(CODE.sub("", " ".join(text.split()))):
                print(f"{path.relative_to(ROOT)}:{line}: {found}: not a word of the glossary, see CONTRIBUTING.md")
                hits += 1
    return int(hits > 0)


if __name__ == "__main__":
    sys.exit(main())
