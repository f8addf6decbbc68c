"""The public bundles, written from one template: `python -m ragsam.runs.write_bundles` after a change of either.

`bundles/ragsam/` holds the wiring of the configs, `ragsam.runs.options` what stands on top of it. Written too is the
reference page of the options, docs/options.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ragsam.files import write_text_atomic
from ragsam.runs.option_list import reference_page
from ragsam.runs.options import OPTIONS, untrained_network
from ragsam.runs.settings import WIRING, as_yaml

OVERLAYS = ("multi_gpu_train.yaml", "multi_gpu_evaluate.yaml")
_MADE = "# Options on top, wiring below. Made from bundles/ragsam and ragsam/runs/options.py by `make bundles`."
_REFERENCE = re.compile(r"@(\w+)")


class _Dumper(yaml.SafeDumper):
    """Plain lists on one line, everything else a line each."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        plain = not any(isinstance(item, list | dict) for item in data)
        expressions = any(str(item).startswith("$") for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain and not expressions)


_Dumper.add_representer(list, _Dumper.represent_list)


def write_bundles(bundles: Path, docs: Path) -> None:
    """Write every bundle of `variants.yaml`, and the reference page.

    Args:
        bundles: the folder that gets the bundles.
        docs: the folder that gets `options.md`.
    """
    template = Path(str(resources.files("ragsam.bundles"))) / "ragsam"
    for name, variant in _read(template / "variants.yaml").items():
        _write_bundle(template, bundles / name, variant)
    write_text_atomic(docs / "options.md", reference_page())


def _write_bundle(template: Path, bundle: Path, variant: Mapping[str, Any]) -> None:
    texts = {"name": bundle.name, **{key: text.strip() for key, text in variant["texts"].items()}}
    files = {f"configs/{name}.yaml": text for name, text in _configs(template, variant["options"]).items()}
    for name in (*OVERLAYS, "logging.conf"):
        files[f"configs/{name}"] = (template / name).read_text(encoding="utf-8")
    for name, source in (("configs/metadata.json", "metadata.json"), ("docs/README.md", "README.md")):
        files[name] = Template((template / source).read_text(encoding="utf-8")).substitute(texts)
    for name, text in files.items():
        write_text_atomic(bundle / name, text)
    shutil.copyfile(_project() / "LICENSE", bundle / "LICENSE")


def _configs(template: Path, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each config; `evaluate` is `inference` with what differs."""
    wiring = {name: _read(template / f"{name}.yaml") for name in ("train", "inference", "evaluate")}
    wiring["evaluate"] = _merged(wiring["inference"], wiring["evaluate"])
    titles = {name: _title(template / f"{name}.yaml") for name in wiring}
    return {name: config_text(titles[name], content, defaults) for name, content in wiring.items()}


def config_text(title: str, wiring: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return a config: the options that its wiring uses, and below them the wiring, which takes their values.

    Args:
        title: its first line.
        wiring: its content; an option among it has that value.
        defaults: values of options that differ from the package's.
    """
    wiring = dict(wiring)
    own = {name: wiring.pop(name) for name in list(wiring) if name in OPTIONS}
    _feed(wiring, "")
    below = yaml.dump(wiring, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    values = {name: option.default for name, option in OPTIONS.items()} | dict(defaults) | own
    values["untrained"] = untrained_network(values)
    used = _used(below, values)
    lines = [title, _MADE]
    group = None
    for name in (name for name in OPTIONS if name in used):
        if OPTIONS[name].group != group:
            group = OPTIONS[name].group
            lines += ["", f"# {group}."]
        lines.append(f"{name}: {as_yaml(values[name])}  # {OPTIONS[name].line}")
    return "\n".join(lines) + "\n" + WIRING + below


def _used(below: str, values: Mapping[str, Any]) -> set[str]:
    """Return the options that a wiring names, and those that the values of these name."""
    found: set[str] = set()
    todo = set(_REFERENCE.findall(below)) & values.keys()
    while todo:
        found |= todo
        texts = " ".join(str(values[name]) for name in todo)
        todo = set(_REFERENCE.findall(texts)) & values.keys() - found
    return found


def _feed(part: Any, key: str) -> None:
    """Put references to options into the parts of a wiring that take them; what a part has already stays."""
    if isinstance(part, list):
        for item in part:
            _feed(item, "")
    if not isinstance(part, dict):
        return
    for name, inner in part.items():
        _feed(inner, name)
    target = part.get("_target_", "").rpartition(".")[2]
    for argument, name in _fed(target, key):
        part.setdefault(argument, f"@{name}")


def _fed(*parts: str) -> Iterator[tuple[str, str]]:
    """Yield argument and option of everything that is fed to a part, which has any of these names."""
    for option in OPTIONS.values():
        for feed in option.feeds:
            part, _, argument = feed.partition(".")
            if part in parts:
                yield argument or option.name, option.name


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with another laid over it: mappings are merged, what `+NAME` lists is added to NAME."""
    merged = dict(content)
    for key, value in changes.items():
        name = key.removeprefix("+")
        if name != key:
            merged[name] = [*content[name], *value]
        elif isinstance(value, Mapping) and isinstance(content.get(key), Mapping):
            merged[key] = _merged(content[key], value)
        else:
            merged[key] = value
    return merged


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0]


def _project() -> Path:
    return Path(str(resources.files("ragsam.bundles"))).parent


if __name__ == "__main__":
    write_bundles(_project() / "bundles", _project() / "docs")
