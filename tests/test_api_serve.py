"""`ragsam serve` before the server starts: who may reach it, what is copied, and what is said where it cannot work."""

import json
import shutil
import socket
import sys

import pytest
import yaml
from small_study import files_below

from ragsam.api import serve as serving
from ragsam.api.serve import (
    copy_run,
    make_app,
    own_names,
    require_private,
    require_servable,
    server_command,
    server_environment,
)
from ragsam.cli import main
from ragsam.errors import InputError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_alone_needs_no_authentication(host):
    require_private(host, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org"])
def test_another_address_without_authentication_is_refused(host):
    for environment in ({}, {"MONAI_LABEL_AUTH_ENABLE": "false"}, {"MONAI_LABEL_AUTH_ENABLE": ""}):
        with pytest.raises(InputError, match="take each for an administrator"):
            require_private(host, environment)
    require_private(host, {"MONAI_LABEL_AUTH_ENABLE": "true"})


def test_the_command_line_refuses_before_anything_is_written(own_run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    command = ["serve", str(own_run), "--studies", str(tmp_path)]
    assert main([*command, "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err.startswith("ragsam: --host 0.0.0.0: others reach it")
    monkeypatch.setattr(serving, "ENVIRONMENT", "nowhere")
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    assert main(command) == 2
    assert "run `make monailabel-env` in the source folder" in capsys.readouterr().err
    monkeypatch.setattr(serving, "find_spec", lambda name: True)
    assert main(["serve", str(own_run), "--studies", str(tmp_path / "lost")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "run-monailabel").exists()


def test_a_run_needs_weights_and_may_lack_a_bank(own_run, caplog):
    caplog.set_level("INFO", logger="ragsam")
    require_servable(own_run, retrieval=True)
    assert caplog.text == ""
    (own_run / "bank" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest\.json in it; make a bank with `ragsam index`"):
        require_servable(own_run, retrieval=True)  # something is left of it
    shutil.rmtree(own_run / "bank")
    require_servable(own_run, retrieval=True)
    assert caplog.messages == ["run: no bank; served without retrieval (`ragsam index` makes a bank)"]
    require_servable(own_run, retrieval=False)
    assert len(caplog.messages) == 1
    (own_run / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="no trained run"):
        require_servable(own_run, retrieval=False)


def test_the_copy_is_whole_switches_retrieval_off_and_is_kept(own_run, tmp_path):
    (own_run / "predictions").mkdir()
    (own_run / "predictions" / "x.nii.gz").write_bytes(b"")
    copy = tmp_path / "app" / "model" / "ragsam"
    copy_run(own_run, copy, retrieval=True)
    left = [name for name in files_below(own_run) if name not in files_below(copy)]
    assert left
    assert {name.split("/")[0] for name in left} <= {"predictions", "log.csv", "checkpoints"}
    assert not (copy / "models" / "model.pt").samefile(own_run / "models" / "model.pt")
    (copy / "models" / "model.pt").write_bytes(b"trained further")
    copy_run(own_run, copy, retrieval=False)
    assert (copy / "models" / "model.pt").read_bytes() == b"trained further"
    config = copy / "configs" / "inference.yaml"
    assert yaml.safe_load(config.read_text())["retrieval"] is False
    copy_run(own_run, copy, retrieval=True)
    assert config.read_bytes() == (own_run / "configs" / "inference.yaml").read_bytes()


def test_the_server_looks_nothing_up_and_lets_no_other_origin_in(tmp_path):
    command = server_command(sys.executable, tmp_path / "app", "/studies", host="127.0.0.1", port=8123)
    text = " ".join(command)
    for part in (
        "--conf models ragsam",
        "--conf zoo_source local",
        "--conf sam2 false",
        "--host 127.0.0.1",
        "server:guarded",
    ):
        assert part in text
    environment = {"MONAI_LABEL_CORS_ORIGINS": '["http://evil"]', "PATH": "/bin"}
    found = server_environment(environment, tmp_path, "MR", own_names("Box.Example", ["proxy"]))
    assert json.loads(found.pop("MONAI_LABEL_DICOMWEB_SEARCH_FILTER")) == {"Modality": "MR"}
    assert found.pop("MONAI_LABEL_DICOMWEB_CACHE_PATH") == str(tmp_path / "dicomweb")
    names = found.pop("RAGSAM_SERVED_NAMES").split(",")
    assert names == ["localhost", "127.0.0.1", "::1", "box.example", socket.gethostname().lower(), "proxy"]
    assert found == {"PATH": "/bin", "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "10"}
    own = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": "{}"}
    assert own.items() <= server_environment(own, tmp_path, "CT", []).items()


def test_the_app_is_monai_labels_with_ours_upon_it(tmp_path, monkeypatch):
    app = tmp_path / "monaibundle"
    app.mkdir()
    (app / "main.py").write_text("MONAI Label's own")
    monkeypatch.setattr(serving.subprocess, "run", None)  # it is there already
    for _ in range(2):
        assert make_app("python", tmp_path) == app
        assert (app / "bundle_app.py").read_text() == "MONAI Label's own"
        assert "class RunApp(RunTasks, bundle_app.MyApp, MONAILabelApp)" in (app / "main.py").read_text()
