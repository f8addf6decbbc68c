"""Pages: one file each, pictures and style included, without network, every text escaped, no script but named ones."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import resources
from typing import Any

from ragsam.report import formatting as text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(template: str, content: Mapping[str, Any], *, scripts: Sequence[str] = ()) -> str:
    """Return a page of a template of this folder, with `policy` and `style` added; names it lacks are refused.

    Args:
        template: its file's name; it may include others of the folder.
        content: what it shows.
        scripts: texts of the scripts that may run, recognised by their hash; every other one is refused by the browser.
    """
    page = _environment().get_template(template)
    return page.render(**content, policy=_policy(scripts), style=asset("page.css"))


@cache
def _environment() -> Any:
    """Return what renders the templates; it compiles each once."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "loader": FunctionLoader(asset)}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, **options)
    environment.filters |= {
        "number": text.number,
        "signed": partial(text.number, sign="+"),
        "interval": text.interval,
        "probability": text.probability,
        "readable": text.readable,
        "without_folders": text.without_folders,
        "png": lambda data: "data:image/png;base64," + base64.b64encode(data).decode("ascii"),
        "webp": lambda data: "data:image/webp;base64," + base64.b64encode(_webp(data)).decode("ascii"),
        "rgb": lambda colour: "rgb({:d},{:d},{:d})".format(*colour),
    }
    return environment


def asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _webp(png: bytes) -> bytes:
    """Return a picture as WebP without loss, which of a slice takes six tenths of the PNG's bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, format="WEBP", lossless=True, method=2, quality=50)
    return buffer.getvalue()


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy."""
    if not scripts:
        return POLICY
    policy = f"{POLICY}; script-src"
    for script in scripts:
        digest = hashlib.sha256(script.encode("utf-8")).digest()
        policy += f" 'sha256-{base64.b64encode(digest).decode('ascii')}'"
    return policy
