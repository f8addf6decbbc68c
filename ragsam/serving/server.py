"""Runs MONAI Label's server with its app behind `Guard`: a program for MONAI Label's environment."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache

from ragsam.serving.guard import App, Guard, Receive, Scope, Send

#: The variable of the environment with the names by which the server may be called, by commas.
NAMES = "RAGSAM_SERVED_NAMES"


@cache
def _app() -> App:
    from monailabel.config import settings

    # Not by the environment: MONAI Label logs its settings as JSON, which its own type of this one is not.
    settings.MONAI_LABEL_CORS_ORIGINS = [
        f"http://{name}:{settings.MONAI_LABEL_SERVER_PORT}" for name in ("127.0.0.1", "localhost")
    ]
    from monailabel.app import app  # takes the setting when it is imported

    return Guard(app, os.environ[NAMES].split(","))


async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request by MONAI Label's app, if the guard lets it through."""
    await _app()(scope, receive, send)


def main() -> int:
    """Run MONAI Label's server on this program's arguments until Ctrl-C; return the exit code."""
    from monailabel.main import Main

    with contextlib.suppress(KeyboardInterrupt):  # uvicorn takes most of them itself, and returns
        Main().run()
    sys.stderr.write(
        "\nragsam: interrupted; labels and the copy of the run are kept; to continue, serve the run again\n"
    )
    return 130


if __name__ == "__main__":
    sys.exit(main())
