"""What the guard before MONAI Label's app lets through: hosts, origins and names, by ASGI's own messages."""

import asyncio
import json

import pytest

from ragsam.serving.guard import Guard

SERVER = ("127.0.0.1", 8123)


def request(path="/info/", method="GET", query="", body=b"", chunks=1, **headers):
    """Send a request through a guard; return the status, and the body that the app saw."""
    seen, sent = [], []

    async def app(scope, receive, send):
        got, more = b"", True
        while more:
            message = await receive()
            got, more = got + message["body"], message["more_body"]
        seen.append(got)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = [body[i::chunks] if chunks == 1 else body[i : i + chunks] for i in range(0, max(len(body), 1), chunks)]
    parts = [body] if chunks == 1 else parts
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:8123", **{key.replace("_", "-"): value for key, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in headers.items() if value is not None],
        "server": SERVER,
    }
    asyncio.run(Guard(app, ["localhost", "127.0.0.1", "::1", "box.example"])(scope, receive, send))
    return sent[0]["status"], (seen[0] if seen else None)


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "LocalHost:9000", "[::1]:8123", "box.example", "127.0.0.1"])
def test_this_server_is_called_by_its_names_from_any_port(host):
    assert request(host=host) == (200, b"")  # an SSH tunnel has a port of its own


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:8123",
        "",
        None,
        "a@evil.example",
        "[::1",
        "0",
        "127.0.0.1:8123:x",
        "localhost.",
    ],
)
def test_foreign_hosts_are_refused(host):
    assert request(host=host) == (403, None)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://127.0.0.1:3000", "http://localhost:8123", "http://evil@x", "file://"],
)
def test_foreign_origins_are_refused_whatever_they_ask(method, origin):
    assert request(method=method, origin=origin) == (403, None)
    assert request(method=method, origin="http://127.0.0.1:8123") == (200, b"")


def test_a_page_of_another_site_may_link_but_not_embed():
    for site in ("cross-site", "same-site"):
        assert request(sec_fetch_site=site, sec_fetch_dest="image")[0] == 403
        assert request(sec_fetch_site=site, sec_fetch_dest="iframe")[0] == 403
        assert request(sec_fetch_site=site, sec_fetch_dest="document", method="POST")[0] == 403
        assert request("/ohif/", sec_fetch_site=site, sec_fetch_dest="document")[0] == 200
    for site in ("same-origin", "none"):
        assert request(method="POST", sec_fetch_site=site)[0] == 200


@pytest.mark.parametrize(
    "name", ["a%2Fb", "/etc/passwd", "..", "a..b", "a\\b", "a%5Cb", "C:a", "a%00b", "%2E%2E%2Fa", "a%0Ab"]
)
@pytest.mark.parametrize("key", ["image", "id", "label", "tag", "session_id", "any"])
def test_paths_in_the_place_of_names_are_refused(key, name):
    assert request("/datastore/image", "GET", f"x=1&{key}={name}") == (400, None)
    assert request("/datastore/image", "GET", "image=pat 01-a.b_c&tag=%C3%84&check_sum=SHA256:0f") == (200, b"")


@pytest.mark.parametrize(
    "path", ["/model/..", "/session/a\\b", "/proxy/dicom/../instances", "/ohif/%252e%252e/a", "/a\0"]
)
def test_paths_that_lead_upward_are_refused(path):
    assert request(path) == (400, None)


def test_viewers_paths_and_queries_are_their_own():
    assert request("/proxy/dicom/wado/studies/1.2/series/3", query="a=b/c")[0] == 200
    assert request("/ohif/viewer", query="StudyInstanceUIDs=1.2&url=http://x/..")[0] == 200
    assert request("/proxy/dicom/stow/studies", "POST", body=b"--X ../..") == (200, b"--X ../..")


@pytest.mark.parametrize(
    "content",
    [
        {"image": "/etc/passwd"},
        {"ragsam": {"model_filename": ["model.pt", "../x.pt"]}},
        {"bundle_path": "/srv/x"},
        {"label": "../x"},
        {"label": "/x"},
        {"tracking_uri": "http://evil"},
        ["a\\b"],
    ],
)
def test_names_in_json_are_checked(content):
    body = json.dumps(content).encode()
    assert request("/train/ragsam", "POST", body=body, content_type="application/json") == (400, None)
    assert request("/train/ragsam", "POST", body=body) == (400, None)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json; charset=form",
        "application/x-form+json",
        "Application/JSON;form",
        "text/plain",
        "text/form-data",
        None,
    ],
)
def test_json_is_checked_whatever_its_type_is_called(kind):
    """As a form it would hold no value at all, and pass."""
    body = json.dumps({"image": "../x"}).encode()
    assert request("/train/ragsam", "POST", body=body, content_type=kind) == (400, None)


def test_a_second_type_of_the_body_is_refused():
    headers = {"content_type": "application/json", "Content_Type": "multipart/form-data; boundary=x"}
    assert request("/train/ragsam", "POST", body=b'{"image": "a"}', **headers) == (400, None)


def test_json_that_names_no_path_passes_whole(monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_TRACKING_URI", "http://mlflow:5000")
    content = {
        "tracking_uri": "http://mlflow:5000",
        "label": "liver/spleen",
        "label_info": [{"name": "left / right"}],
        "foreground": [[1, 2, 3]],
        "pad": "x" * 200_000,
    }
    body = json.dumps(content).encode()
    assert request("/train/ragsam", "POST", body=body, chunks=7000) == (200, body)


def test_json_that_cannot_be_read_is_refused():
    for body in (b"{", b"[" * 100_000):
        assert request("/train/x", "POST", body=body, content_type="application/json") == (400, None)
