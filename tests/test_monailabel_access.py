"""Who gets an answer of a real server: viewers do; web pages, foreign hosts, and paths in the place of names do not."""

import http.client
import json
import os
import signal
import subprocess
import sys
import uuid
from urllib.parse import quote

import pytest
from label_server import INSTALLED, free_port, wait_for
from small_study import files_below

from ragsam.data.datalist import load_datalist

pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not INSTALLED, reason="MONAI Label is not installed; run `make monailabel-env`"),
]


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    """A server's port, its folder, and its process; its settings let every origin in."""
    folder, port = tmp_path_factory.mktemp("access"), free_port()
    (folder / "studies").mkdir()
    command = [sys.executable, "-m", "ragsam.cli", "serve", str(run), "--studies", str(folder / "studies")]
    command += ["--output", str(folder / "app"), "--port", str(port), "--allow-host", "proxy.example"]
    environment = {**os.environ, "MONAI_LABEL_CORS_ORIGINS": '["http://evil.example"]'}
    environment["MONAI_LABEL_SESSION_PATH"] = str(folder / "sessions")
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder, env=environment)
        wait_for(f"http://127.0.0.1:{port}/info/", process, log)
        yield port, folder, process
        process.kill()
        process.wait(30)


def form(fields, file=None):
    """Return the body and the type of a form, with a file (field, name, bytes)."""
    boundary = uuid.uuid4().hex
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if file:
        parts.append(f'name="{file[0]}"; filename="{file[1]}"\r\n\r\n'.encode() + file[2])
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def send(port, method, path, body=None, kind=None, **headers):
    """Send a request; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    if kind:
        headers["Content-Type"] = kind
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_viewers_work(served, study):
    port, folder, _ = served
    case = load_datalist(study).section("test")[0]
    volume, label = case.image.read_bytes(), case.label.read_bytes()
    client = json.dumps({"client_id": "user-xyz"})
    upload = form({"params": client}, ("file", "case one.nii.gz", volume))
    assert send(port, "PUT", "/datastore/?image=case%20one", *upload)[0] == 200
    # A viewer of the server's own, and one by an SSH tunnel or a proxy
    own = f"http://127.0.0.1:{port}"
    asked = json.dumps({"client_id": "u", "result_extension": ".nii.gz", "result_dtype": "uint8", "device": "cpu"})
    path = "/infer/ragsam?image=case%20one&output=image"
    status, _, first = send(port, "POST", path, *form({"params": asked}), Origin=own)
    assert status == 200
    tunnel = {"Host": "localhost:9999", "Origin": "http://localhost:9999", "Sec-Fetch-Site": "same-origin"}
    assert send(port, "POST", path, *form({"params": asked}), **tunnel)[::2] == (200, first)
    assert send(port, "GET", "/info/", Host="proxy.example")[0] == 200
    info = json.dumps({"label_info": [{"name": "left / right", "idx": 1}], "client_id": "u"})
    saved = form({"params": info}, ("label", "label.nii.gz", label))
    assert send(port, "PUT", "/datastore/label?image=case%20one&tag=final", *saved)[0] == 200
    assert (folder / "studies" / "labels" / "final" / "case one.nii.gz").read_bytes() == label
    status, _, body = send(port, "PUT", "/session/", *form({"params": client}, ("files", "v.nii.gz", volume)))
    assert status == 200
    assert send(port, "DELETE", f"/session/{json.loads(body)['session_id']}")[0] == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    status, headers, page = send(port, "GET", "/ohif/", **link)
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    assert b"app-config.js" in page
    assert send(port, "GET", "/ohif/app-config.js", **{"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_web_pages_and_foreign_hosts_get_nothing(served, study):
    port, folder, _ = served
    before = files_below(folder / "studies")
    upload = form({"params": "{}"}, ("file", "x.nii.gz", b"x"))
    asked = [
        ("GET", "/datastore/?output=all", None, None),
        ("GET", "/logs/", None, None),
        ("OPTIONS", "/datastore/image", None, None),
        ("PUT", "/datastore/image?image=new", *upload),
        ("POST", "/train/ragsam", b"{}", "text/plain"),
        ("POST", "/reload", b"", "application/x-www-form-urlencoded"),
        ("DELETE", "/datastore/image?id=case%20one", None, None),
        ("DELETE", "/model/ragsam", None, None),
    ]
    callers = [{"Origin": origin} for origin in ("http://evil.example", "null", "http://127.0.0.1:1")]
    callers += [{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, {"Host": f"evil.example:{port}"}]
    callers += [{"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}]  # DNS rebinding
    for caller in callers:
        for request in asked:
            status, headers, body = send(port, *request, **caller, **{"Access-Control-Request-Method": "PUT"})
            assert status == 403, (caller, request)
            assert "access-control-allow-origin" not in headers
            assert set(json.loads(body)) == {"detail"}
    assert files_below(folder / "studies") == before
    _, headers, _ = send(port, "GET", "/info/", Origin=f"http://127.0.0.1:{port}")
    assert headers["access-control-allow-origin"] == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("name", ["../outside", "..", "a/b", "/etc/hosts", "a\\..\\b", "a\0b"])
def test_no_path_is_taken_for_a_name(served, name):
    port, folder, _ = served
    before = files_below(folder)
    sent, short = quote(name, safe=""), json.dumps({"image": name})
    payload = ("file", "evil.py", b"x")
    tries = [
        ("PUT", f"/datastore/image?image={sent}", *form({"params": "{}"}, payload)),
        ("PUT", f"/datastore/?image={sent}", *form({"params": "{}"}, payload)),
        ("PUT", f"/datastore/label?image=a&tag={sent}", *form({"params": "{}"}, ("label", "x.py", b"x"))),
        ("PUT", f"/datastore/image/info?image={sent}", *form({"info": "{}"})),
        ("GET", f"/datastore/image?image={sent}", None, None),
        ("HEAD", f"/datastore/label?image=a&tag={sent}", None, None),
        ("GET", f"/datastore/label?label={sent}&tag=final", None, None),
        ("DELETE", f"/datastore/image?id={sent}", None, None),
        ("DELETE", f"/datastore/label?id=a&tag={sent}", None, None),
        ("POST", f"/infer/ragsam?image={sent}", *form({"params": "{}"})),
        ("POST", f"/infer/ragsam?session_id={sent}", *form({"params": "{}"})),
        ("POST", "/infer/ragsam?image=a", *form({"params": short})),
        ("POST", "/batch/infer/ragsam", json.dumps({"label_tag": name}).encode(), "application/json"),
        ("POST", "/train/ragsam", json.dumps({"bundle_path": name}).encode(), "application/json"),
        ("POST", "/activelearning/first", json.dumps({"label_tag": name}).encode(), "application/json"),
    ]
    if "\0" not in name:
        tries.append(("PUT", "/datastore/image?image=a", *form({"params": "{}"}, ("file", name, b"x"))))
    tries += [(method, f"/session/{sent}", None, None) for method in ("GET", "DELETE") if "/" not in name]
    for request in tries:
        assert send(port, *request)[0] == 400, request[:2]
    assert files_below(folder) == before


def test_ctrl_c_ends_the_server_with_one_line(served):
    _, folder, process = served
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("ragsam: interrupted; labels ")
