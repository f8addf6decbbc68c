"""MLflow by a option: the run's losses and scores arrive; without the package a line says so."""

import importlib.util
from types import SimpleNamespace

import pytest
from ignite.engine import Engine
from small_study import QUICK

from ragsam.api.train import train_run
from ragsam.errors import InputError
from ragsam.report.training import read_log
from ragsam.training import mlflow_log
from ragsam.training.mlflow_log import MLflowLog

needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra `mlflow` is not here")


def test_without_the_package_a_line_says_so(study, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="mlflow: not installed; install the extra `mlflow`"):
        train_run("sam_lora", study, tmp_path / "run", {**QUICK, "mlflow": "sqlite:///x.db"})
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_gone_does_not_stop_a_training(caplog):
    def log_metric(*args, **options):
        raise ConnectionError("no route\nto host")

    gone = SimpleNamespace(
        cur_run=SimpleNamespace(info=SimpleNamespace(run_id="1")), client=SimpleNamespace(log_metric=log_metric)
    )
    engine = Engine(lambda engine, batch: None)
    log = MLflowLog("http://127.0.0.1:1", "run", engine)
    log._handler = gone
    for step in (1, 2):
        log._send({"loss": 1.0}, step)
    log.finish(engine)
    assert [record.getMessage() for record in caplog.records] == ["mlflow: nothing more is sent (no route to host)"]


@needs_mlflow
def test_losses_and_scores_arrive(study, tmp_path):
    import mlflow

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = train_run("sam_lora", study, tmp_path / "run", {**QUICK, "mlflow": address})
    client = mlflow.MlflowClient(address)
    (told,) = client.search_runs([client.get_experiment_by_name("ragsam").experiment_id])
    assert (told.info.run_name, told.info.status) == ("run", "FINISHED")
    steps = client.get_metric_history(told.info.run_id, "step/loss")
    assert [metric.step for metric in steps] == list(range(1, QUICK["epochs"] * QUICK["steps_per_epoch"] + 1))
    for row, metric in zip(
        read_log(run / "log.csv"), client.get_metric_history(told.info.run_id, "score"), strict=True
    ):
        assert metric.value == pytest.approx(float(row["score"]), abs=1e-4)


@needs_mlflow
def test_a_folder_is_refused_in_a_line(study, tmp_path):
    with pytest.raises(InputError, match="cannot be used"):
        train_run("sam_lora", study, tmp_path / "run", {**QUICK, "mlflow": str(tmp_path)})
