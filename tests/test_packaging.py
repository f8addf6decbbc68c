"""What is shipped: a wheel that works without the checkout, rooms whose arrows run downward, and no loose ends."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import setuptools
import yaml

import ragsam
from ragsam.data.cards.load import list_cards

ROOT = Path(__file__).resolve().parent.parent
#: The floors, from the ground up, as DESIGN.md draws them. A room may import what lies on the floors below, not beside.
FLOORS = (
    {"errors", "drafts"},
    {"files"},
    {"io", "console", "metrics", "outputs"},
    {"parts"},
    {"transforms"},
    {"data"},
    {"networks", "evaluation"},
    {"retrieval", "report"},
    {"runs"},
    {"inference"},
    {"prompting"},
    {"training", "serving"},
    {"api"},
    {"commands"},
    {"cli", "bundles", "bundle", "workflows"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: The facade of names for configs: it takes each from its home when it is asked for, and what is of before from there.
FACADES = {"bundle", "workflows"}
HEAVY = {"SimpleITK", "itk", "faiss", "matplotlib"}
PARTS = ("ragsam", "transforms", "data", "bundles")


def modules():
    """Return {dotted name: path} of every module of the package."""
    found = {}
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            names = [*path.relative_to(ROOT).with_suffix("").parts]
            names = names if part == "ragsam" else ["ragsam", *names]
            found[".".join(name for name in names if name != "__init__")] = path
    return found


MODULES = modules()


def tree_of(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(nodes):
    """Return the dotted names that import statements among the nodes name; relative imports do not occur."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(node):
    """Yield the nodes that run when a module is imported: all but the insides of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import(child)


def home_of(name):
    """Return the module that an imported name is, or is taken from."""
    return name if name in MODULES else name.rpartition(".")[0]


def room_of(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "ragsam" else None


# The layers


def test_floors_hold_the_rooms_there_are():
    assert {room_of(name) for name in MODULES} - {None} == set(FLOOR_OF)


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name)])
def test_arrows_run_downward(name):
    room = room_of(name)
    used = {room_of(other) for other in imported(ast.walk(tree_of(name)))} - {None, room, "__version__"}
    assert all(FLOOR_OF[other] < FLOOR_OF[room] for other in used - FACADES)
    assert not used & FACADES or room in FACADES


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {home_of(other) for other in imported(ast.walk(tree_of(name)))} - {name} for name in MODULES}
    TopologicalSorter({name: others & set(MODULES) for name, others in graph.items()}).prepare()  # raises on a circle


def test_retrieval_knows_of_networks_only_the_supports():
    names = {n for m in MODULES if room_of(m) == "retrieval" for n in imported(ast.walk(tree_of(m)))}
    files = {name.rpartition(".")[0] for name in names if room_of(name) == "networks"}
    assert files == {"ragsam.networks.supports"}


@pytest.mark.parametrize(
    ("room", "allowed"),
    [("metrics", {"numpy", "scipy"}), ("networks", {"torch", "segment_anything", "safetensors", "numpy"})],
)
def test_lower_rooms_need_few_packages(room, allowed):
    names = {n for m in MODULES if room_of(m) == room for n in imported(ast.walk(tree_of(m)))}
    tops = {name.split(".")[0] for name in names} - {"ragsam", "__future__"} - sys.stdlib_module_names
    assert tops <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(name):
    tops = {other.split(".")[0] for other in imported(at_import(tree_of(name)))}
    assert not tops & HEAVY


def test_every_module_imports_where_the_heavy_packages_are_not_installed():
    code = f"import sys\nsys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))\n"  # None there makes an import fail
    code += "\n".join(f"import {name}" for name in MODULES)
    code += "\nimport torch\nfrom ragsam.networks import Segmenter\n"
    code += "print(tuple(Segmenter(2, image_size=32)(torch.zeros(1, 3, 32, 32)).shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "(1, 3, 32, 32)\n", done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_nothing_prints_or_asserts(name):
    for node in ast.walk(tree_of(name)):
        assert not isinstance(node, ast.Assert), node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "pprint", "breakpoint"), node.lineno


def test_bundles_name_only_the_facade():
    """What a config names by text is an import too."""
    for path in (ROOT / "bundles").glob("*/configs/*.yaml"):
        text = path.read_text(encoding="utf-8")
        targets = {line.split("_target_:")[1].strip() for line in text.splitlines() if "_target_:" in line}
        assert len(targets) >= 5
        assert {target.split(".")[0] for target in targets} <= {"ragsam", "monai", "torch"}
        rooms = {room_of(target) for target in targets} - {None}
        assert rooms <= {"bundle"}
        yaml.safe_load(text)  # a config is plain YAML


def test_no_text_names_a_page_that_the_wheel_lacks():
    """Help, errors and log: the pages of docs/ stay in the source folder; `docs/README.md` is a bundle's own."""
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert "docs/how-to/train.md" in pages
    for name in MODULES:
        nodes = list(ast.walk(tree_of(name)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not any(page in node.value for page in pages), f"{name}: {node.value}"


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the tree, without network."""
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    copy.mkdir()
    for name in (*PARTS, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(source, copy / name)
    pip(["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder / "out"), str(copy)])
    (built,) = (folder / "out").glob("*.whl")
    return built


def pip(arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def shipped_name(path):
    parts = path.relative_to(ROOT).parts
    return "/".join(parts if parts[0] == "ragsam" else ("ragsam", *parts))


def test_wheel_holds_every_file_of_the_package(wheel):
    assert wheel.name == f"ragsam-{ragsam.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        contents = {name: archive.read(name) for name in names}
    files = [path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts and ".egg-info" not in str(path)]
    assert {shipped_name(path) for path in files} <= names
    for path in files:
        assert contents[shipped_name(path)] == path.read_bytes()
    assert {
        "ragsam/cli.py",
        "ragsam/transforms/chains.py",
        *(f"ragsam/data/cards/{name}.yaml" for name in list_cards()),
        "ragsam/bundles/sam_lora/LICENSE",
        "ragsam/bundles/sam_lora/configs/metadata.json",
        "ragsam/bundles/sam_lora/configs/logging.conf",
        "ragsam/bundles/sam_lora/configs/train.yaml",
        "ragsam/bundles/sam_lora/configs/inference.yaml",
        "ragsam/bundles/sam_lora/configs/evaluate.yaml",
        "ragsam/bundles/sam_lora/docs/README.md",
        "ragsam/report/page.html",
        "ragsam/report/page.css",
    } <= names
    info = f"ragsam-{ragsam.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert b"ragsam = ragsam.cli:main" in contents[f"{info}/entry_points.txt"]
    assert {name.split("/")[0] for name in names} == {"ragsam", info}  # nothing generic lands in site-packages


def test_wheel_works_without_the_checkout(wheel, study, tmp_path):
    """Trains by the bundle's name, indexes, segments and reports from an installation in a folder of its own."""
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip(["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)])
    script = """
import json, sys
from ragsam import data, transforms
from ragsam.cli import main
from ragsam.data.cards.load import list_cards
job = [["train", "sam_lora", "--data", sys.argv[1], "--output", "run"], ["index", "run"],
       ["segment", "run", sys.argv[1], "--output", "out"],
       ["evaluate", "--reference", sys.argv[1], "--prediction", "out", "--output", "measured", "--bank", "run/bank"]]
for option in ("epochs=1", "steps_per_epoch=1", "batch_size=2"):
    job[0] += ["--set", option]
codes = [main(command) for command in job]
ours = sorted({module.__file__ for name, module in sys.modules.items() if name.startswith("ragsam")} - {None})
json.dump({"codes": codes, "files": ours, "cards": list_cards()}, open("result.json", "w"))
"""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(study)],
        cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((elsewhere / "result.json").read_text())
    assert result["codes"] == [0, 0, 0, 0]
    assert len(result["files"]) > 30
    assert all(Path(path).is_relative_to(target) for path in result["files"])
    assert result["cards"] == list_cards()
    assert (elsewhere / "measured" / "report.html").stat().st_size > 10_000
