"""The public bundles, written from one template: `python -m ragsam.runs.write_bundles` after a change of either.

`bundles/ragsam/` holds the wiring of the configs, `ragsam.runs.options` what stands on top of it. Written too is the
reference page of the options, docs/reference/options.md.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ragsam.files import write_text_atomic
from ragsam.runs.option_list import reference_page
from ragsam.runs.options import BUNDLES, OPTIONS, by_group, untrained_network
from ragsam.runs.settings import WIRING, as_yaml

OVERLAYS = ("multi_gpu_train.yaml", "multi_gpu_evaluate.yaml")
_MADE = "# Options on top, wiring below. Made from bundles/ragsam and ragsam/runs/options.py by `make bundles`."
_REFERENCE = re.compile(r"@(\w+)")
_ONE_LINE = 10_000


class _Dumper(yaml.SafeDumper):
    """Plain lists on one line, everything else a line each."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        plain = not any(isinstance(item, dict) or str(item).startswith("$") for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _Dumper.represent_list)


def write_bundles(bundles: Path, docs: Path) -> None:
    """Write every bundle of `variants.yaml`, and the reference page.

    Args:
        bundles: the folder that gets the bundles.
        docs: the folder that gets `options.md`.
    """
    for name, variant in _read("variants.yaml").items():
        _write_bundle(bundles / name, variant)
    write_text_atomic(docs / "options.md", reference_page())


def _write_bundle(bundle: Path, variant: Mapping[str, Any]) -> None:
    wiring = {name: _read(f"{name}.yaml") for name in ("train", "inference")}
    wiring["evaluate"] = laid_over(wiring["inference"], _read("evaluate.yaml"))
    for name, content in wiring.items():
        title = _text(f"{name}.yaml").partition("\n")[0]
        write_text_atomic(bundle / "configs" / f"{name}.yaml", config_text(title, content, variant["options"]))
    for name in (*OVERLAYS, "logging.conf"):
        write_text_atomic(bundle / "configs" / name, _text(name))
    texts = {"name": bundle.name}
    for name, text in variant["texts"].items():
        texts[name] = text.strip()
    for name, target in (("metadata.json", "configs/metadata.json"), ("README.md", "docs/README.md")):
        write_text_atomic(bundle / target, Template(_text(name)).substitute(texts))
    shutil.copyfile(BUNDLES.parent / "LICENSE", bundle / "LICENSE")


def config_text(title: str, wiring: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return a config: the options that its wiring uses, and below them the wiring, which takes their values.

    Args:
        title: its first line.
        wiring: its content; an option among it has that value.
        defaults: values of options that differ from the package's.
    """
    values = {name: option.default for name, option in OPTIONS.items()} | dict(defaults)
    parts = {}
    for name, content in wiring.items():
        place = values if name in OPTIONS else parts
        place[name] = content
    values["untrained"] = untrained_network(values)
    parts = _fed(parts, _feeds())
    below = yaml.dump(parts, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_ONE_LINE)
    used = _used(below, values)
    lines = [title, _MADE]
    for group, options in by_group(option for option in OPTIONS.values() if option.name in used):
        lines += ["", f"# {group}."]
        lines += [f"{option.name}: {as_yaml(values[option.name])}  # {option.line}" for option in options]
    return "\n".join(lines) + "\n" + WIRING + below


def _used(below: str, values: Mapping[str, Any]) -> set[str]:
    """Return the options that a wiring names, and those that the values of these name."""
    used: set[str] = set()
    named = set(_REFERENCE.findall(below)) & values.keys()
    while named:
        used |= named
        texts = " ".join(str(values[name]) for name in named)
        named = set(_REFERENCE.findall(texts)) & values.keys() - used
    return used


def _feeds() -> dict[str, dict[str, str]]:
    """Return by the name of a part its arguments, with the options whose values they get."""
    feeds: dict[str, dict[str, str]] = defaultdict(dict)
    for option in OPTIONS.values():
        for feed in option.feeds:
            part, _, argument = feed.partition(".")
            feeds[part][argument or option.name] = f"@{option.name}"
    return feeds


def _fed(content: Any, feeds: Mapping[str, Mapping[str, str]], name: str = "") -> Any:
    """Return a part of a wiring with references to options in its arguments; what has a value already keeps it."""
    if isinstance(content, list):
        return [_fed(item, feeds) for item in content]
    if not isinstance(content, dict):
        return content
    fed = {key: _fed(value, feeds, key) for key, value in content.items()}
    target = content.get("_target_", "").rpartition(".")[2]
    return {**fed, **feeds.get(name, {}), **feeds.get(target, {}), **fed}


def laid_over(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with another laid over it: mappings are merged, what `+NAME` lists is added to NAME."""
    merged = dict(content)
    for key, value in changes.items():
        if key.startswith("+"):
            merged[key[1:]] = merged[key[1:]] + value
        elif isinstance(value, dict):
            merged[key] = laid_over(merged[key], value)
        else:
            merged[key] = value
    return merged


def _text(name: str) -> str:
    """Return a file of the template."""
    return (BUNDLES / "ragsam" / name).read_text(encoding="utf-8")


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(_text(name))


if __name__ == "__main__":
    write_bundles(BUNDLES, BUNDLES.parent / "docs" / "reference")
