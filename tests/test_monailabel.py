"""MONAI Label's real server on a real run: upload, labels with retrieval, training from labels, labels again."""

import csv
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.data.datalist import load_datalist
from ragsam.workflows.jobs import segment_with_run
from ragsam.workflows.serving import ENVIRONMENT

PYTHON = Path(__file__).resolve().parent.parent / ENVIRONMENT / "bin" / "python"
pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not PYTHON.is_file(), reason="MONAI Label is not installed; run `make monailabel-env`"),
]
WAIT_S = 300


def ask(url, *, method="POST", fields=None, files=None, body=None):
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


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """The address of a server that `ragsam serve` started, and its folders."""
    folder = tmp_path_factory.mktemp("served")
    own_run, studies = shutil.copytree(run, folder / "run"), folder / "studies"
    studies.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ragsam.cli", "serve", str(own_run), "--studies", str(studies)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, folder / "server.log")
        yield {"address": address, "folder": folder}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(address, process, log):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            return ask(f"{address}/info/", method="GET")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def infer(server, case, output):
    fields = {"params": '{"result_dtype": "uint8", "result_extension": ".nii.gz", "device": "cpu"}'}
    output.write_bytes(ask(f"{server['address']}/infer/ragsam?image={case}&output=image", fields=fields))
    volume = nib.load(output)
    return np.asarray(volume.dataobj), volume.affine


def test_a_run_is_served_trained_and_served_again(server, study, tmp_path):
    cases = load_datalist(study).section("test")
    address = server["address"]
    info = json.loads(ask(f"{address}/info/", method="GET"))
    assert info["models"]["ragsam"]["labels"] == {"anterior": 1, "posterior": 2}
    assert "ragsam" in info["trainers"]
    for case in cases:
        ask(
            f"{address}/datastore/image?image={case.case}",
            method="PUT",
            fields={"params": "{}"},
            files={"file": case.image},
        )
    # Voxel by voxel what `ragsam segment` writes, and that is what `monai.bundle run` writes (test_bundle_monai.py).
    segment_with_run(server["folder"] / "run", [case.image for case in cases], tmp_path / "ours")
    found = {}
    for case in cases:
        labels, affine = infer(server, case.case, tmp_path / f"{case.case}.nii.gz")
        ours = nib.load(tmp_path / "ours" / f"{case.case}.nii.gz")
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, np.asarray(ours.dataobj))
        assert np.allclose(affine, nib.load(case.image).affine, atol=1e-5)
        found[case.case] = labels
    # Labels come back from the viewer, and the copy trains on them; the run itself stays as it is.
    copy = server["folder"] / "run-monailabel" / "monaibundle" / "model" / "ragsam"
    before = torch.load(copy / "models" / "model.pt", weights_only=True)
    for case in cases:
        url = f"{address}/datastore/label?image={case.case}&tag=final"
        ask(url, method="PUT", fields={"params": "{}"}, files={"label": case.label})
    body = {"max_epochs": 2, "val_split": 0.34, "device": "cpu", "multi_gpu": False}
    ask(f"{address}/train/ragsam?run_sync=true", body=body)
    with (copy / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)][-1] == "2"
    after = torch.load(copy / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    untouched = torch.load(server["folder"] / "run" / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(before[key], tensor) for key, tensor in untouched.items())
    seen = json.loads((copy / "configs" / "metadata.json").read_text())["data_fingerprint"]
    assert (seen["training"]["volumes"], seen["validation"]["volumes"]) == (2, 1)
    # The next answer is that of the new weights.
    segment_with_run(copy, [cases[0].image], tmp_path / "trained")
    labels, _ = infer(server, cases[0].case, tmp_path / "again.nii.gz")
    assert np.array_equal(labels, np.asarray(nib.load(tmp_path / "trained" / f"{cases[0].case}.nii.gz").dataobj))


def test_only_this_machine_is_listened_to(server):
    port = int(server["address"].rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port}
    assert listening == {f"0100007F:{port:04X}"}  # 127.0.0.1, as the kernel writes it
