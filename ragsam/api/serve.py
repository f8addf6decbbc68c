"""Serves a run by MONAI Label, from an environment of its own, on a copy of the run: training there writes weights."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.networks.checkpoints import load_metadata
from ragsam.retrieval.bank_manifest import has_bank, read_manifest
from ragsam.runs.run import CARD, RunFolder
from ragsam.runs.settings import set_options
from ragsam.serving.dicom_program import write_program
from ragsam.serving.guard import LOOPBACK
from ragsam.serving.server import NAMES

logger = logging.getLogger(__name__)

#: What the model is called in MONAI Label: its own apps take some names, such as deepedit, for kinds of models.
MODEL = "ragsam"
ENVIRONMENT = ".venv-monailabel"
#: The program that is run there.
SERVER = "ragsam.serving.server"
#: What a copy goes without: it has weights of its own once it has been trained.
_LEFT_OUT = ("checkpoints", "predictions*", "evaluation*", "log.csv")
#: What MONAI Label's app is kept as, so that ours stands in its place.
_TEMPLATE = "bundle_app.py"
#: MONAI Label takes the first class of `main.py` that derives from `MONAILabelApp` itself.
_MAIN = '''"""Written by `ragsam serve`: MONAI Label's app for bundles, with what a run adds to it."""

import bundle_app
from monailabel.interfaces.app import MONAILabelApp

from ragsam.serving.app import RunTasks


class RunApp(RunTasks, bundle_app.MyApp, MONAILabelApp):
    """An app with prompts and novelty."""
'''
_TRUE = ("1", "true", "t", "yes", "y", "on")


def serve(
    run: str | os.PathLike[str],
    studies: str,
    *,
    output: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    names: Sequence[str] = (),
    retrieval: bool = True,
) -> None:
    """Start MONAI Label's server on a run, in the place of this process; it ends with Ctrl-C.

    Args:
        run: a trained run.
        studies: folder of volumes, to which MONAI Label writes labels; or the address of a DICOMweb server.
        output: folder for MONAI Label's app and the copy of the run; None takes `RUN-monailabel`. A copy that is there
            already is served as it is: it may have been trained further.
        host, port: where it listens.
        names: further hosts by which clients call it, such as a proxy's; `localhost`, this machine's name and the
            address reached are known.
        retrieval: False serves the run without its bank.

    Raises:
        InputError: no trained run, a damaged bank, no folder of volumes, no environment with MONAI Label, or an address
            that others reach while MONAI Label does not ask them who they are.
    """
    run = Path(run).absolute()
    require_private(host, os.environ)
    require_servable(run, retrieval=retrieval)
    remote = "://" in studies
    if not remote and not Path(studies).is_dir():
        raise InputError(f"--studies {studies}: no such folder; make one with the volumes in it")
    python = monailabel_python()
    folder = Path(output).absolute() if output else run.with_name(f"{run.name}-monailabel")
    app = make_app(python, folder)
    copy = app / "model" / MODEL
    copy_run(run, copy, retrieval=retrieval)
    card = copy / CARD
    if remote:
        write_program(app / "bin", sys.executable, card)
    logger.info("serve: %s", copy)
    command = server_command(python, app, studies if remote else str(Path(studies).absolute()), host=host, port=port)
    os.chdir(app)  # MONAI Label takes settings from a file `.env` of the working folder
    modality = load_card(card).modality
    os.execve(python, command, server_environment(os.environ, folder, modality, own_names(host, names)))


def require_private(host: str, environment: Mapping[str, str]) -> None:
    """Check that only this machine reaches a server, or that MONAI Label authenticates whoever does.

    Raises:
        InputError: another address without authentication: every caller would be an administrator.
    """
    try:
        private = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = False
    if not private and environment.get("MONAI_LABEL_AUTH_ENABLE", "").lower() not in _TRUE:
        raise InputError(
            f"--host {host}: others reach it, and MONAI Label would take each for an administrator; serve on 127.0.0.1 "
            "(an SSH tunnel leads there), or set MONAI_LABEL_AUTH_ENABLE=true and its realm"
        )


def own_names(host: str, names: Sequence[str]) -> list[str]:
    """Return the hosts by which a server may be called: this machine's own, the one it listens on, and others."""
    return [*dict.fromkeys(name.lower() for name in (*LOOPBACK, host, socket.gethostname(), *names))]


def monailabel_python() -> str:
    """Return the Python that has MONAI Label: this one, or that of `.venv-monailabel` beside this environment.

    Raises:
        InputError: neither.
    """
    if find_spec("monailabel") is not None:
        return sys.executable
    beside = Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    if beside.is_file():
        return str(beside)
    raise InputError(
        f"MONAI Label is not installed ({beside.parents[1]}); run `make monailabel-env` in the source folder"
    )


def require_servable(run: Path, *, retrieval: bool) -> None:
    """Check that a run has what MONAI Label needs; one without bank is served without retrieval, which is said.

    Raises:
        InputError: no trained run, or what is left of a bank.
    """
    if not all((run / name).is_file() for name in ("configs/inference.yaml", "configs/card.yaml", "models/model.pt")):
        raise InputError(f"{run}: no trained run (configs/, models/model.pt); make one with `ragsam train`")
    folder = RunFolder(run)
    wanted = retrieval and folder.content("inference").get("retrieval") and load_metadata(folder.weights).get("fusion")
    if wanted and has_bank(folder.bank):
        read_manifest(folder.bank)
    elif wanted:
        logger.warning("%s: no bank; served without retrieval (`ragsam index` makes a bank)", folder.path.name)


def make_app(python: str, folder: Path) -> Path:
    """Write MONAI Label's app for bundles into a folder where it is not there yet, and ours upon it; return it.

    Raises:
        InputError: where it cannot be written.
    """
    app = folder / "monaibundle"
    main, template = app / "main.py", app / _TEMPLATE
    if not main.is_file():
        command = [python, "-m", "monailabel.main", "apps", "--download", "--name", app.name, "--output", str(folder)]
        made = subprocess.run(command, cwd=Path(python).parent, capture_output=True, text=True)
        if made.returncode or not main.is_file():
            reason = " ".join((made.stdout + made.stderr).split())[-200:]
            raise InputError(f"{app}: MONAI Label could not write its app there ({reason}); choose another --output")
    if not template.is_file():
        shutil.copyfile(main, template)
    write_text_atomic(main, _MAIN)
    return app


def copy_run(run: Path, copy: Path, *, retrieval: bool) -> None:
    """Copy a run for MONAI Label, which trains in place; of a copy that is there already only `retrieval` is set."""
    if not copy.exists():
        part = copy.with_name(f".{copy.name}-part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(run, part, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        part.rename(copy)
    own = RunFolder(run).content("inference").get("retrieval", True)
    folder = RunFolder(copy)
    write_text_atomic(
        folder.config("inference"), set_options(folder.text("inference"), {"retrieval": own and retrieval})
    )


def server_command(python: str, app: Path, studies: str, *, host: str, port: int) -> list[str]:
    """Return the command that starts the server: nothing is looked up in MONAI's zoo, nothing downloaded."""
    command = [python, "-m", SERVER, "start_server", "--app", str(app), "--studies", studies]
    command += ["--uvicorn_app", f"{SERVER}:guarded"]
    for key, value in (("models", MODEL), ("zoo_source", "local"), ("sam2", "false")):
        command += ["--conf", key, value]
    return [*command, "--host", host, "--port", str(port)]


def server_environment(
    environment: Mapping[str, str], folder: Path, modality: str, names: Sequence[str]
) -> dict[str, str]:
    """Return the environment of the server: origins other than its own get no access, whatever is set.

    Of a DICOMweb server it is shown the series of a modality, keeps them in a folder, and looks for new ones and for
    new labels every ten seconds, where nothing else is set.
    """
    defaults = {
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": modality}),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "dicomweb"),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "10",
    }
    found = {**defaults, **environment, NAMES: ",".join(names)}
    found.pop("MONAI_LABEL_CORS_ORIGINS", None)  # `ragsam.serving.server` sets it
    return found
