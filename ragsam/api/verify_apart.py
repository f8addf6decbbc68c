"""`verify_bundle` in a process of its own, which is shut in, see `ragsam.api.contained`, and ended after some time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json

if TYPE_CHECKING:
    from ragsam.api.verify import Verification

_RUN = "import sys; del sys.path[0]; from ragsam.api.verify_apart import main; main(*sys.argv[1:])"
_FOUND, _TOLD = "found.json", "stderr.txt"


def verify_apart(bundle: str | os.PathLike[str], *, time_limit_s: float = 1800.0) -> Verification:
    """Verify a bundle, see `verify_bundle`, in a process without network that writes into a temporary folder alone.

    Args:
        time_limit_s: after which it is ended, seconds.

    Raises:
        InputError: no bundle, or no time.
    """
    if not time_limit_s > 0:
        raise InputError(f"--time-limit: {time_limit_s:g} s; give some minutes")
    from ragsam.api.verify import Verification
    from ragsam.runs.templates import find_bundle

    folder = find_bundle(bundle).absolute()
    with tempfile.TemporaryDirectory(prefix="ragsam-") as name:
        place = Path(name).resolve()
        ended = _run(folder, place, time_limit_s)
        if (place / _FOUND).is_file():
            return Verification(**read_json(place / _FOUND))
        told = (place / _TOLD).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(told) if line.strip()), "it said nothing")
    return Verification(faults=[f"verification: {ended} ({' '.join(last.split())[:200]}); the bundle does not pass"])


def _run(folder: Path, place: Path, time_limit_s: float) -> str:
    """Verify in another process; return how it ended."""
    settings = {name: str(place) for name in ("TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")}
    with (place / _TOLD).open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", _RUN, str(folder), str(place)],
            cwd=place,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
            start_new_session=True,
        )
        try:
            return f"it ended with {process.wait(time_limit_s)}"
        except subprocess.TimeoutExpired:
            return f"not done within {time_limit_s:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main(folder: str, place: str) -> None:
    """Verify a bundle in this process, and write what was found into a folder; nothing else is written anywhere."""
    from ragsam.api.contained import leave_network, shut_in

    leave_network()
    from ragsam.api.verify import Verification, verify_bundle

    shut_in(place)
    try:
        found = verify_bundle(folder)
    except InputError as error:
        found = Verification(faults=[str(error)])
    write_json_atomic(Path(place) / _FOUND, asdict(found))
