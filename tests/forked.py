"""Runs Python programs in processes forked from one that has imported the heavy packages, which saves their import.

A program has its own arguments, folder, environment, streams and exit code. Where a fresh start is what is tested,
start it with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
#: Not `ragsam.cli` nor what else runs as `__main__`: Python warns where that was imported before.
_CONTEXT.set_forkserver_preload(
    ["monai.bundle", "ragsam.bundle", "ragsam.api.train", "ragsam.api.index", "ragsam.api.segment"]
)


def run_python(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does with `python ARGUMENTS`, and return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start_python(arguments, *streams, cwd=cwd, env=env)
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [stream.read_text(encoding="utf-8") for stream in streams]
    return subprocess.CompletedProcess([*arguments], process.exitcode, *texts)


def start_python(
    arguments: Sequence[str | os.PathLike[str]],
    stdout: Path,
    stderr: Path,
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start a program that writes into two files.

    Args:
        arguments: of `python`: `-m MODULE ...`, `-c CODE ...` or `FILE ...`.
        cwd: its folder; None is this process's.
        env: its environment; None is this process's.
    """
    for stream in (stdout, stderr):
        stream.touch()
    place, environment = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
    words = [str(word) for word in arguments]
    process = _CONTEXT.Process(target=_run, args=(words, place, environment, str(stdout), str(stderr)))
    process.start()
    return process


def _run(arguments: list[str], place: str, environment: dict[str, str], *streams: str) -> None:
    for number, stream in enumerate(streams, start=1):
        with open(stream, "ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    first, *rest = arguments
    if first == "-m":
        sys.argv, sys.path[:0] = rest, [place]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [place]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:0] = arguments, [str(Path(first).parent)]
        runpy.run_path(first, run_name="__main__")
