"""Two processes at one training or evaluation: the numbers of one process with twice the batch."""

import csv
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from forked import start_python
from label_server import free_port
from small_study import files_below
from torch.utils.data import SequentialSampler

from ragsam.api.index import index_run
from ragsam.api.train import train_run
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights
from ragsam.runs.run import run_config
from ragsam.runs.settings import read_options
from ragsam.runs.templates import OVERLAYS, find_bundle, make_run
from ragsam.training import distributed as processes
from ragsam.training.epoch_seeds import epoch_seed

#: A step an epoch, so that the log has every step's loss; nothing random but what is drawn for all processes. In the
#: last two the encoder is frozen.
QUICK = {
    "epochs": 6,
    "steps_per_epoch": 1,
    "validate_every": 1,
    "image_size": 32,
    "frozen_from": 5,
    "frozen_views": 1,
}
RANDOM = {"affine", "contrast", "intensity", "noise", "supports_withheld", "supports_wrong"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
QUICK |= dict.fromkeys(
    RANDOM & read_options((find_bundle("sam_lora") / "configs" / "train.yaml").read_text()).keys(), 0.0
)


def torchrun(run, name, **options):
    """Run a config of a run in two processes by torchrun; return what they told."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += bundle_command(run, name, **options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def two_ranks(run, name, folder, **options):
    """Run a config in two processes that are forked and find each other as torchrun's do; return what they told."""
    common = {**ENVIRONMENT, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started, logs = [], [folder / f"{name}-{rank}.txt" for rank in "01"]
    for rank, log in zip("01", logs, strict=True):
        environment = {**common, "RANK": rank, "LOCAL_RANK": rank}
        started.append(start_python(bundle_command(run, name, **options), log, log, env=environment))
    for process in started:
        process.join(300)
    told = "".join(log.read_text() for log in logs)
    assert [process.exitcode for process in started] == [0, 0], told[-3000:]
    return told


def bundle_command(run, name, **options):
    configs = [str(run / "configs" / f"{part}{name}.yaml") for part in ("", "multi_gpu_")]
    command = ["-m", "monai.bundle", "run", "--bundle_root", str(run), "--config_file", str(configs)]
    command += ["--logging_file", str(run / "configs" / "logging.conf")]
    return command + [text for key, value in options.items() for text in (f"--{key}", str(value))]


def log_of(run):
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def larger_study(study, tmp_path_factory):
    """The study with three volumes for validation, so that two processes have unequal shares."""
    from ragsam.data.datalist import load_datalist, write_datalist

    sections = dict(load_datalist(study).sections)
    sections["validation"], sections["test"] = sections["validation"] + sections["test"][:2], sections["test"]
    sections["test"] = sections["test"][2:]
    path = tmp_path_factory.mktemp("larger") / "datalist.json"
    write_datalist(path, "hippocampus", sections)
    return path


@pytest.fixture(scope="module")
def two(larger_study, tmp_path_factory):
    """A training of two processes with a batch of 2 each, and what they told."""
    run = make_run("sam_lora", larger_study, tmp_path_factory.mktemp("two") / "run", {**QUICK, "batch_size": 2})
    return SimpleNamespace(run=run, told=torchrun(run, "train"))


def test_two_processes_learn_as_one_with_twice_the_batch(larger_study, two, tmp_path):
    one = train_run("sam_lora", larger_study, tmp_path / "one", {**QUICK, "batch_size": 4})
    rows, wanted = log_of(two.run), log_of(one)
    assert len(rows) == len(wanted) == 6
    for name in ("loss", "loss_dice", "loss_cross_entropy", "learning_rate"):
        ours, theirs = ([float(row[name]) for row in log] for log in (rows, wanted))
        assert ours == pytest.approx(theirs, abs=1e-4), name
    assert float(wanted[0]["loss"]) - float(wanted[-1]["loss"]) > 0.1  # it learnt something
    weights, theirs = (load_weights(run / "models" / "model.safetensors")[0] for run in (two.run, one))
    assert max(float((weights[name] - theirs[name]).abs().max()) for name in theirs) < 1e-2


def test_one_process_tells_and_writes(two):
    lines = [line for line in two.told.splitlines() if "train: epoch" in line]
    assert "epoch 1 of 6" in lines[0]  # quick work is told of at its begin and its end
    assert "epoch 6 of 6" in lines[-1]
    assert len(set(lines)) == len(lines) <= 6
    assert files_below(two.run / "checkpoints")[-1] == "last.pt"
    assert len(files_below(two.run / "tensorboard")) == 1
    assert not [name for name in files_below(two.run) if ".tmp-" in name]


def test_two_processes_resume(two, tmp_path):
    told = two_ranks(two.run, "train", tmp_path, resume=True)
    assert "train: resumed after epoch 6 of 6" in told
    assert len(log_of(two.run)) == 6


def test_two_processes_evaluate_as_one(two, tmp_path):
    index_run(two.run)
    places = {name: {key: str(tmp_path / name / key) for key in ("output_dir", "evaluation_dir")} for name in "ab"}
    two_ranks(two.run, "evaluate", tmp_path, section="validation", **places["a"])
    run_config(two.run, "evaluate", section="validation", **places["b"])
    results = {name: read_json(tmp_path / name / "evaluation_dir" / "metrics.json") for name in "ab"}
    assert results["a"]["cases"] == results["b"]["cases"]
    assert len(results["a"]["cases"]) == 3
    assert results["a"]["summary"] == results["b"]["summary"]
    traces = {name: read_json(tmp_path / name / "output_dir" / "retrieval.json") for name in "ab"}
    assert traces["a"] == traces["b"]


@pytest.mark.parametrize("bundle", ["sam_adapter", "sam_frequency"])
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_the_same_in_every_bundle_and_go_into_a_run(bundle, name, two):
    text = (find_bundle("sam_lora") / "configs" / name).read_text()
    assert (find_bundle(bundle) / "configs" / name).read_text() == text
    assert (two.run / "configs" / name).read_text() == text


def as_process(monkeypatch, rank, of):
    monkeypatch.setattr(processes.idist, "get_rank", lambda: rank)
    monkeypatch.setattr(processes.idist, "get_world_size", lambda: of)


@pytest.mark.parametrize(
    ("count", "of", "shares"),
    [(5, 2, [[0, 2, 4], [1, 3]]), (4, 1, [[0, 1, 2, 3]]), (1, 3, [[0], [0], [0]]), (2, 3, [[0], [1], [0]])],
)
def test_shares_hold_every_item_and_none_is_empty(monkeypatch, count, of, shares):
    for rank, share in enumerate(shares):
        as_process(monkeypatch, rank, of)
        assert processes.own_share(range(count)) == share
        assert processes.own_share(range(count), whole=True) == list(range(count))
        assert processes.process_count() == of


def test_draws_of_all_processes_make_up_the_batches_of_one(monkeypatch):
    """Six draws, batches of 2 in each of three processes: the first three batches of one are 0-1-2 and 3-4-5."""
    parts = []
    for rank in range(3):
        as_process(monkeypatch, rank, 3)
        monkeypatch.setattr(
            processes.dist, "broadcast_object_list", lambda items, **_: items.__setitem__(0, [*range(6)])
        )
        draws = processes.OwnDraws(SequentialSampler(range(6)))
        assert len(draws) == 2
        parts.append(list(draws))
    assert parts == [[0, 3], [1, 4], [2, 5]]


def test_a_process_that_is_alone_draws_everything_and_gathers_nothing():
    assert list(processes.OwnDraws(SequentialSampler(range(4)))) == [0, 1, 2, 3]
    loss = processes.GatheredLoss(lambda logits, target: logits.sum())
    assert loss(torch.ones(2), None) == 2


def test_processes_have_seeds_of_their_own_but_the_first_has_that_of_one_alone():
    assert epoch_seed(1, 2, 0) == epoch_seed(1, 2)
    assert len({epoch_seed(1, 2, rank) for rank in range(8)}) == 8


def test_what_several_processes_cannot_do_is_told(monkeypatch):
    with pytest.raises(InputError, match="prompts: not trained in several processes; set it to null"):
        processes.distributed(Segmenter(1, image_size=32, prompts="trained"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="not started by torchrun"):
        processes.join_processes()
