"""NiiVue's code (https://github.com/niivue/niivue, BSD-2-Clause), as the package ipyniivue ships it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ragsam.errors import InputError
from ragsam.report.html import asset

PACKAGE, SCRIPT = "ipyniivue", "ipyniivue/static/widget.js"
WAY_OUT = "pip install 'ragsam[viewer]'"

# The package is a Jupyter widget, whose module exports the widget alone. The words before its use
# identify the class.
_CLASS = re.compile(r'"Creating new Niivue instance"\).{0,300}?=new ([\w$]+)\(', re.DOTALL)
_EXPORT = re.compile(r"export\s*\{[^{}]*\}\s*;?\s*$")


@dataclass(frozen=True)
class ViewerCode:
    """What a page needs of NiiVue.

    Attributes:
        module: a JavaScript module that sets `globalThis.Niivue` and sends the document the event `niivue`.
        licence: the texts that must go with it: NiiVue's, and the notices of the libraries in it.
        source: package and version.
    """

    module: str
    licence: str
    source: str


def load_viewer_code() -> ViewerCode:
    """Return NiiVue's code from the installed package, which is read and not imported.

    Raises:
        InputError: where the package is missing, or its files are not as this needs them.
    """
    try:
        package = metadata.distribution(PACKAGE)
        script = Path(str(package.locate_file(SCRIPT))).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError, ValueError) as error:
        raise InputError(f"--viewer: it needs the package {PACKAGE}, which brings NiiVue; {WAY_OUT}") from error
    source = f"{PACKAGE} {package.version}"
    licence = package.read_text("licenses/LICENSE") or package.read_text("LICENSE")
    module = as_global(script)
    if module is None or not licence:
        raise InputError(f"--viewer: {source} is not as expected; {WAY_OUT}")
    return ViewerCode(module, f"{licence.strip()}\n\n{asset('viewer_notices.txt')}", source)


def as_global(script: str) -> str | None:
    """Return the widget's module with its export replaced, so that a page has NiiVue's class; None if it is not there.

    An inline module cannot be imported from, and `blob:` or `data:` scripts would open the page's policy to any code.
    """
    found, export = _CLASS.search(script), _EXPORT.search(script)
    if found is None or export is None:
        return None
    return script[: export.start()] + f'globalThis.Niivue={found[1]};document.dispatchEvent(new Event("niivue"));\n'
