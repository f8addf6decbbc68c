"""Pages: one file each, pictures and style included, without script or network, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ragsam.report import text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return a page of a template of this folder, with `policy` and `style` added; names it lacks are refused."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": text.number,
        "signed": text.signed,
        "interval": text.interval,
        "probability": text.probability,
        "readable": text.readable,
        "without_folders": text.without_folders,
        "png": lambda data: "data:image/png;base64," + base64.b64encode(data).decode("ascii"),
        "rgb": lambda colour: "rgb({:d},{:d},{:d})".format(*colour),
    }
    return environment.from_string(_asset(template)).render(**content, policy=POLICY, style=_asset("page.css"))


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
