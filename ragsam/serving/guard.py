"""Keeps web pages, foreign names of this machine, and paths in the place of names away from MONAI Label's app."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import IO, Any
from urllib.parse import parse_qsl, unquote, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Below them paths and bodies are the viewer's and the DICOMweb server's.
_PASSED_ON = ("/proxy/", "/ohif/", "/static/")
#: Values in a request's JSON that name organs, not files.
_FREE_TEXT = ("label_info", "label_names", "labels")
_MOST_JSON_BYTES = 2**24
_IN_MEMORY_BYTES = 2**20
_CHUNK_BYTES = 2**16
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
#: A drive of Windows in front of a path, as `C:x`.
_DRIVE = re.compile(r"[A-Za-z]:")


class RefusedError(Exception):
    """A request that the app does not get to see.

    Args:
        status: HTTP's code.
        reason: one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware: passes on what comes from this server's own pages or from no page at all, and names no path.

    It refuses hosts that are not this server's (DNS rebinding), each `Origin` but this server's own, `null` among
    them, requests that a browser calls cross-site, and values with `/`, `\\`, `..` or control characters where MONAI
    Label takes the name of an image, label, session, model or file.

    Args:
        app: MONAI Label's.
        names: hosts by which this server may be called, beside the address that a client has reached.
    """

    def __init__(self, app: App, names: Sequence[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in names if name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            check_caller(scope, self.names)
            check_path(scope)
            if scope["method"] in ("GET", "HEAD", "OPTIONS") or scope["path"].startswith(_PASSED_ON[0]):
                await self.app(scope, receive, send)
                return
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as body:
                await _read(receive, body)
                await _check_body(scope, body)
                await self.app(scope, _replay(body, receive), send)
        except RefusedError as refused:
            await _answer(send, refused)


def check_caller(scope: Scope, names: frozenset[str]) -> None:
    """Check whom a request calls, and which page sends it.

    Raises:
        RefusedError: another host, another origin, or a page of another site.
    """
    if scope["type"] != "http":
        raise RefusedError(403, "only HTTP is served")
    headers: dict[str, list[str]] = {}
    for key, value in scope["headers"]:
        headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = headers.get("host", [])
    reached = (scope.get("server") or (None,))[0]
    if len(hosts) != 1 or _name(hosts[0]) is None or _name(hosts[0]) not in names | {reached}:
        raise RefusedError(
            403, f"Host {', '.join(hosts) or '(none)'} is not this server; see `ragsam serve --allow-host`"
        )
    for origin in headers.get("origin", []):
        if urlsplit(origin).netloc.lower() != hosts[0].lower():
            raise RefusedError(403, f"Origin {origin}: pages of other addresses get no access")
    sites = set(headers.get("sec-fetch-site", ())) - {"same-origin", "none"}
    link = scope["method"] == "GET" and headers.get("sec-fetch-dest") == ["document"]
    if sites and not link:
        raise RefusedError(403, "pages of other addresses get no access")


def _name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.port != 0 else None  # reading the port refuses what is none
    except ValueError:
        return None


def check_path(scope: Scope) -> None:
    """Check a request's path, and its query where MONAI Label reads it.

    Raises:
        RefusedError: an upward path, or a path in the place of a name.
    """
    path = scope["path"]
    while path != unquote(path):
        path = unquote(path)
    if not all(_plain(part) for part in path.split("/")):
        raise RefusedError(400, "path: `..`, `\\` and control characters are not allowed")
    if not path.startswith(_PASSED_ON):
        for key, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            _check_name(key, value)


def _plain(value: str) -> bool:
    return ".." not in value and "\\" not in value and value.isprintable() and not _DRIVE.match(value)


def _check_name(key: str, value: str) -> None:
    if "/" in value or not _plain(value):
        raise RefusedError(400, f"{key[:40]!a}: a name without `/`, `\\`, `..` and control characters is needed")


async def _read(receive: Receive, body: IO[bytes]) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request's body is not whole")
        body.write(message.get("body", b""))
        more = message.get("more_body", False)
    body.seek(0)


def _replay(body: IO[bytes], receive: Receive) -> Receive:
    """Return a `receive` that gives a body again, then what comes after it."""
    body.seek(0)
    done = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal done
        if done:
            return await receive()
        chunk = body.read(_CHUNK_BYTES)
        done = len(chunk) < _CHUNK_BYTES
        return {"type": "http.request", "body": chunk, "more_body": not done}

    return replay


async def _check_body(scope: Scope, body: IO[bytes]) -> None:
    """Check a form's values, file names and JSON, or a JSON body.

    Raises:
        RefusedError: a path in the place of a name, a form or JSON that cannot be read.
    """
    kinds = [value for key, value in scope["headers"] if key.lower() == b"content-type"]
    if len(kinds) > 1:
        raise RefusedError(400, "one Content-Type is needed")
    kind = b"".join(kinds).split(b";")[0].strip().lower()
    if kind not in _FORMS:  # MONAI Label takes JSON by other names too
        _check_json(body.read(_MOST_JSON_BYTES + 1), needed=b"json" in kind)
        return
    from starlette.exceptions import HTTPException  # MONAI Label's environment has it
    from starlette.requests import Request

    try:
        async with Request(scope, _replay(body, _nothing)).form() as form:
            for key, value in form.multi_items():
                if not isinstance(value, str):
                    _check_name(f"file name of {key}", value.filename or "")
                elif key in ("params", "info"):
                    _check_json(value.encode())
                else:
                    _check_name(key, value)
    except HTTPException as error:
        raise RefusedError(error.status_code, str(error.detail)) from error


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


def _check_json(text: bytes, *, needed: bool = True) -> None:
    if not text.strip():
        return
    if len(text) > _MOST_JSON_BYTES:
        raise RefusedError(413, f"JSON of more than {_MOST_JSON_BYTES} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if needed:
            raise RefusedError(400, "the request's JSON cannot be read") from error
        return
    for key, value in _strings(content):
        if key == "tracking_uri" and value == os.environ.get("MONAI_LABEL_TRACKING_URI"):
            continue  # viewers send back what the server has told them
        if key != "label":
            _check_name(key, value)
        elif value.startswith("/") or not _plain(value):  # in prompts an organ, such as `liver/spleen`
            raise RefusedError(400, "label: an organ or a name is needed")


def _strings(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the strings in JSON that may name something, with the keys nearest to them."""
    left = [("JSON", content)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(name, part) for name, part in value.items() if name not in _FREE_TEXT]
        elif isinstance(value, list):
            left += [(key, part) for part in value]
        elif isinstance(value, str):
            yield key, value


async def _answer(send: Send, refused: RefusedError) -> None:
    body = json.dumps({"detail": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
