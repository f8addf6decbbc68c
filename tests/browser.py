"""A headless Chromium driven over a pipe by the DevTools protocol: what a page shows, asks for and complains about."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WEBGL = ("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")
LOCAL = ("file:", "data:", "blob:", "about:")
TIMEOUT_S = 120
#: Chromium's own note that a screenshot waits for the software renderer.
HARMLESS = "GPU stall due to ReadPixels"


class Browser:
    """One page of a browser with a new profile, to be used in a `with` block.

    `requests` are the addresses that the page asked for, `complaints` the errors and warnings that it gave.
    """

    def __init__(
        self, profile: Path, *flags: str, width: int = 1280, height: int = 900, timeout_s: float = 120
    ) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number, self._buffer = 0, b""
        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process, self._write, self._read = _start(command)
        target = self._ask("Target.createTarget", {"url": "about:blank"}, whole=True)["targetId"]
        attached = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, whole=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")
        phone = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", phone)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, page: Path) -> None:
        """Load a file and wait until it stands."""
        self._ask("Page.navigate", {"url": page.as_uri()})
        self.wait("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return a JavaScript expression's value, awaited if it is a promise."""
        options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._ask("Runtime.evaluate", options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} never came; {self.complaints}"
            time.sleep(0.05)

    def picture(self, selector: str | None = None) -> np.ndarray:
        """Return an element, or the whole page, as it is on the screen: [rows, columns, RGB]."""
        box = "document.documentElement" if selector is None else f"document.querySelector({json.dumps(selector)})"
        place = f"(r => [r.x + scrollX, r.y + scrollY, r.width, r.height])({box}.getBoundingClientRect())"
        x, y, width, height = self.run(place)
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self._ask("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB"))

    def left_the_machine(self) -> list[str]:
        """Return the requests for anything that is not in the file itself."""
        return [address for address in self.requests if not address.startswith(LOCAL)]

    def _ask(self, method: str, parameters: dict[str, Any] | None = None, *, whole: bool = False) -> dict[str, Any]:
        """Send a command to the page, or to the whole browser, and return the answer; note what happens meanwhile."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": parameters or {}}
        if not whole:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints += [told["entry"]["text"]] if HARMLESS not in told["entry"]["text"] else []


def _start(command: list[str]) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start a browser that reads commands from its file 3 and writes answers to its file 4."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # Each is moved above 4 first, so that neither overwrites the other.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands_out, answers_in)]
    script = f'exec 3<&{high[0]} 4>&{high[1]}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (commands_out, answers_in, *high):
        os.close(end)
    return process, commands_in, answers_out
