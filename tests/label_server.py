"""Starts `ragsam serve` and asks MONAI Label's server as its clients do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ragsam.api.serve import ENVIRONMENT

PYTHON = Path(__file__).resolve().parent.parent / ENVIRONMENT / "bin" / "python"
INSTALLED = (PYTHON.parents[1] / ".installed").is_file()
WAIT_S = 300


def ask(
    url: str,
    *,
    method: str = "POST",
    fields: Mapping[str, str] | None = None,
    files: Mapping[str, Path] | None = None,
    body: Any = None,
) -> bytes:
    """Send a request as curl does, with -F (fields, files) or -d (body); return the answer's bytes."""
    headers, data = {}, None
    if body is not None:
        headers, data = {"Content-Type": "application/json"}, json.dumps(body).encode()
    elif fields is not None:
        boundary = uuid.uuid4().hex
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
        parts += [
            f'name="{name}"; filename="{path.name}"\r\n\r\n'.encode() + path.read_bytes()
            for name, path in (files or {}).items()
        ]
        data = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts)
        data += f"--{boundary}--\r\n".encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return answer.read()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers; fail with the end of its log where it does not."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            ask(url, method="GET")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


@contextmanager
def started(command: list[str], folder: Path, url: str) -> Iterator[None]:
    """Run a server in a folder, where its log is kept, until the block ends."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder, env=dict(os.environ))
    try:
        wait_for(url, process, log)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def label_server(run: Path, studies: str, folder: Path) -> Iterator[str]:
    """Serve a run; give the server's address."""
    port = free_port()
    command = [sys.executable, "-m", "ragsam.cli", "serve", str(run), "--studies", studies, "--port", str(port)]
    with started(command, folder, f"http://127.0.0.1:{port}/info/"):
        yield f"http://127.0.0.1:{port}"


def infer(
    address: str, image: str, output: Path, model: str = "ragsam", **params: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ask for a label volume; return its voxels and its affine."""
    fields = {"params": json.dumps({"result_extension": ".nii.gz", "result_dtype": "uint8", "device": "cpu", **params})}
    output.write_bytes(ask(f"{address}/infer/{model}?image={image}&output=image", fields=fields))
    volume = nib.load(output)
    return np.asarray(volume.dataobj), volume.affine
