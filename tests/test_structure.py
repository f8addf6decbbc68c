"""The shape of the code: short functions, and a count that says what it counts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from bodies import Counts, count_file, count_source, python_files  # noqa: E402

PACKAGE = [ROOT / part for part in ("ragsam", "transforms", "data", "bundles")]
LONGEST_FUNCTION = 50
TOP_LEVEL = {"ragsam", "bundles", "transforms", "data", "tests", "benchmarks", "docs", ".ci", ".gitignore", "LICENSE"}
TOP_LEVEL |= {"mkdocs.yml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", ".github"}
TOP_LEVEL |= {"Makefile", "README.md", "constraints.txt", "pyproject.toml", "requirements-monailabel.txt", "setup.cfg"}
LARGEST_FILE = 1_000_000


def test_every_kind_of_branch_is_counted():
    source = '''
def first(a, b):
    """Not a line of the body."""

    # nor is this
    if a and b or a:
        return [x for x in a if x]
    return 1 if a else 2


async def second():
    for _ in ():
        while True:
            try:
                pass
            except ValueError:
                pass
'''
    # first: 3 lines, if, 2 operands, for and if of the comprehension, conditional expression; second: 6 lines, 3
    assert count_source(source) == Counts(lines=17, body_lines=9, branches=2 + 6 + 3, longest=6)


def test_files_without_a_function_count_no_branches_by_lines():
    assert count_source("x = 1\n").density == 0
    assert (Counts(1, 2, 3, 4) + Counts(1, 2, 3, 2)) == Counts(2, 4, 6, 4)


@pytest.mark.parametrize("part", ["ragsam", "transforms", "data", "bundles", "tests", "benchmarks"])
def test_functions_are_short(part):
    long = {str(path): count_file(path).longest for path in python_files([ROOT / part])}
    assert {path: lines for path, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def test_the_repository_holds_nothing_that_a_run_left():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [Path(name) for name in listed.split("\0") if name]
    assert {file.parts[0] for file in files} <= TOP_LEVEL
    sizes = {str(file): (ROOT / file).stat().st_size for file in files if (ROOT / file).is_file()}
    assert {file: size for file, size in sizes.items() if size > LARGEST_FILE} == {}
