"""Packed runs unpacked: nothing is believed of the file, and nothing lands outside of the folder."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ragsam.api.pack import BASE_FOLDER, Packed, base_path, is_run_file
from ragsam.drafts import draft_folder
from ragsam.errors import InputError
from ragsam.files import sha256_file, write_text_atomic
from ragsam.networks.bases import BASES
from ragsam.networks.checkpoints import load_metadata
from ragsam.runs.config_reader import config_text, read_mapping
from ragsam.runs.config_safety import code_faults, leading_out
from ragsam.runs.run import WEIGHTS, require_plain
from ragsam.runs.settings import set_options
from ragsam.runs.templates import require_free
from ragsam.training.disk_space import free_bytes

CONFIG = "configs/inference.yaml"
MAX_FILES = 10_000
_DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpack_run(
    archive: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    max_gb: float = 10.0,
) -> Packed:
    """Unpack what `pack_run` wrote into a new folder, whole or not at all, and set its configs to its base weights.

    Args:
        archive: the `.zip`.
        output: the run's folder; it must not be there, or be empty.
        base: the base weights, where they are not in the archive; None expects them under `base/` in the folder.
        max_gb: what it may grow to, gigabytes.

    Returns:
        What was in it.

    Raises:
        InputError: no packed run, a damaged one, one with links, unsafe names or more than `max_gb`, an output that
            holds something, or base weights other than the run was trained on. Nothing is left then.
    """
    target = Path(output).absolute()
    require_free(target)
    require_plain(target, *([] if base is None else [Path(base).absolute()]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _opened(Path(archive)) as opened, draft_folder(target.parent) as draft:
        entries = _safe_entries(opened, Path(archive).name, max_gb, target)
        for entry in entries:
            _extract(opened, entry, draft)
        found = _settle(draft, target, base, entries)
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    return found


def entry_fault(entry: ZipInfo) -> str | None:
    """Return why an entry of an archive is not taken: all but a plain file that a run has, and folders."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or any(sign in name for sign in "\\:") or not name.isprintable():
        return "a name that leads elsewhere"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if not (is_run_file(name) or entry.is_dir()):
        return "no file of a run"
    if entry.flag_bits & 1 or entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "encrypted, or packed in a way that ragsam does not use"
    return None


@contextmanager
def _opened(path: Path) -> Iterator[ZipFile]:
    """Yield an archive; whatever is wrong with it, while it is read too, is one clear error."""
    try:
        with ZipFile(path) as opened:
            yield opened
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path.name}: cannot be unpacked ({error.strerror or error}); mend that first") from error
    except _DAMAGE as error:
        raise InputError(f"{path.name}: not a zip, or a damaged one ({error}); fetch it again") from error


def _safe_entries(opened: ZipFile, archive: str, max_gb: float, target: Path) -> list[ZipInfo]:
    """Return the entries of an archive once all of them are found safe; nothing is written before."""
    entries = opened.infolist()
    for entry in entries[: MAX_FILES + 1]:
        if fault := entry_fault(entry):
            raise InputError(f"{archive}: {entry.filename!r}: {fault}; it is not unpacked")
    names = [entry.filename.removesuffix("/").casefold() for entry in entries if not entry.is_dir()]
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    if len(entries) > MAX_FILES or len(set(names)) < len(names) or folders & set(names):
        raise InputError(f"{archive}: more than {MAX_FILES} files, or one name twice; it is not unpacked")
    if CONFIG not in names or WEIGHTS not in names:
        raise InputError(f"{archive}: not a packed run (no {CONFIG} or {WEIGHTS}); make one with `ragsam pack`")
    size = sum(entry.file_size for entry in entries)
    if size > max_gb * 1e9:
        raise InputError(f"{archive}: grows to {size / 1e9:.1f} GB, more than {max_gb:g}; see --max-gb")
    if size > (free := free_bytes(target)):
        raise InputError(f"{archive}: grows to {size / 1e9:.1f} GB, and {free / 1e9:.1f} are free; free some space")
    return entries


def _extract(opened: ZipFile, entry: ZipInfo, folder: Path) -> None:
    """Write one entry below a folder. Of an entry that is larger than it says zipfile reads no more than it says."""
    path = folder / entry.filename
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: Path, target: Path, base: str | os.PathLike[str] | None, entries: Sequence[ZipInfo]) -> Packed:
    """Set the configs in a folder to the base weights, as they will be found once it is the target."""
    sha256 = load_metadata(folder / WEIGHTS).get("base_sha256")
    paths = [path for path in (folder / "configs").glob("*.yaml") if path.name != "card.yaml"]
    for path in paths:
        for where, value in leading_out(read_mapping(path)):
            raise InputError(f"configs/{path.name}: {where} is {value}, out of the run; it is not unpacked")
    texts = {path: config_text(path) for path in paths}
    wanted = base_path(texts[folder / CONFIG])
    name = wanted.name if wanted else None
    inside = name is not None and (folder / BASE_FOLDER / name).is_file()
    place = (folder if inside else target) / BASE_FOLDER / (name or "")
    if base is not None:
        place = Path(base).absolute()
    code = code_faults(folder)  # before the base weights are named, which lie where one wants them
    if (base is not None or inside) and (sha256 is None or sha256_file(place) != sha256):
        raise InputError(f"{place.name}: not the base weights that the run was trained on; its own are {sha256}")
    known = name in BASES and not inside and base is None  # it is found by its name
    if name is not None and not known:
        final = str(target / BASE_FOLDER / name) if base is None else str(place)
        for path, text in texts.items():
            write_text_atomic(path, set_options(text, {"base": final}))
    return Packed(
        files=len(entries),
        size=sum(entry.file_size for entry in entries),
        bank=(folder / "bank" / "manifest.json").is_file(),
        base=name,
        base_sha256=sha256,
        with_base=inside,
        code=tuple(code),
    )
