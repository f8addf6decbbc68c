"""A training that is stopped at any moment goes on to the same weights, to the bit."""

import csv
import random
import time

import pytest
import torch
from forked import start_python
from ignite.engine import Engine, Events
from small_study import files_below, workflow_of

from ragsam.api.train import train_run
from ragsam.cli import main
from ragsam.console.engine_progress import Progress
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights, read_checkpoint
from ragsam.runs.templates import make_run
from ragsam.training.checkpoints import Checkpoints
from ragsam.training.epoch_seeds import epoch_seed
from ragsam.training.schedules import SCHEDULES, make_schedule, replay

#: The bank follows the encoder, is built at epoch 1 and anew at 6: epochs 2 to 5 search one that is out of date.
QUICK = {
    "epochs": 7,
    "steps_per_epoch": 2,
    "batch_size": 4,
    "validate_every": 2,
    "descriptor": "embedding",
}
QUICK |= {
    "fusion": "label_prior+vote_product",
    "image_size": 32,
    "elastic": 0.5,
    "mirror": True,
    "low_resolution": 0.5,
}


class StopError(Exception):
    """Stands for a kill: nothing is tidied up after it that a kill would leave."""


def weights_of(run):
    return load_weights(run / "models" / "model.safetensors")[0]


def kept_state(run):
    return read_checkpoint(run / "checkpoints" / "last.pt")


def same(one, other):
    """Whether two states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def timeless(row):
    """Return a row of the log without what another run of the same takes otherwise."""
    return {name: value for name, value in row.items() if "second" not in name and "memory" not in name}


def assert_same_end(run, reference):
    """Check weights, optimizer, schedule, best score and log; times alone may differ."""
    assert same(weights_of(run), weights_of(reference))
    ended, wanted = kept_state(run), kept_state(reference)
    for state in (ended, wanted):
        state["trainer"] = dict(state["trainer"])
        history = state["trainer"]["history"]
        history["seconds"] = history["since"]["seconds"] = None
        history["rows"] = [timeless(row) for row in history["rows"]]
    assert same(ended, wanted)
    logs = []
    for folder in (run, reference):
        with (folder / "log.csv").open(newline="") as file:
            logs.append([timeless(row) for row in csv.DictReader(file)])
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def reference(study, tmp_path_factory):
    """A training that nothing stopped."""
    return train_run("sam_lora", study, tmp_path_factory.mktemp("reference") / "run", QUICK)


def stop_in_training(workflow, monkeypatch):
    def stop(engine):
        raise StopError

    workflow.trainer.add_event_handler(Events.ITERATION_STARTED(once=9), stop)  # epoch 5


def stop_in_validation(workflow, monkeypatch):
    def stop(engine):
        if workflow.trainer.state.epoch == 4:
            raise StopError

    workflow.evaluator.add_event_handler(Events.ITERATION_COMPLETED, stop)


def stop_while_the_state_is_written(workflow, monkeypatch):
    (handler,) = (item for item in workflow.train_handlers if isinstance(item, Checkpoints))

    def stop(state, path):
        path.write_bytes(b"half")
        if handler.parts["trainer"].state.epoch == 3:
            raise StopError
        torch_save(state, path)

    torch_save = torch.save
    monkeypatch.setattr("torch.save", stop)


def stop_after_the_last_epoch(workflow, monkeypatch):
    def stop(engine):
        raise StopError

    workflow.trainer.add_event_handler(Events.COMPLETED, stop)


STOPS = [stop_in_training, stop_in_validation, stop_while_the_state_is_written, stop_after_the_last_epoch]


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_training_ends_in_the_same_weights(study, reference, tmp_path, monkeypatch, stop):
    run = make_run("sam_lora", study, tmp_path / "run", QUICK)
    workflow = workflow_of(run)
    stop(workflow, monkeypatch)
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    assert "StopError" in repr(raised.getrepr(chain=True)) or isinstance(raised.value.__cause__, StopError)
    monkeypatch.undo()
    train_run("sam_lora", study, run, QUICK, resume=True)
    assert_same_end(run, reference)


def test_a_killed_process_ends_in_the_same_weights(study, reference, tmp_path):
    """Killed at a random moment; the seed of the moments is not set, so that no run of the tests is the same."""
    run = tmp_path / "run"
    options = [f"--set={name}={value}" for name, value in QUICK.items()]
    command = ["-m", "ragsam.cli", "train", "sam_lora", "--data", study, "--output", run, *options, "--resume"]
    log, lines = tmp_path / "log.txt", random.randint(1, 8)  # lines tell the bank, epochs and scores
    process = start_python(command, tmp_path / "out.txt", log)
    while process.is_alive() and log.read_text().count("\n") < lines:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    process.join()
    train_run("sam_lora", study, run, QUICK, resume=True)
    assert_same_end(run, reference)
    assert not [name for name in files_below(run) if ".tmp-" in name]


def test_what_is_kept_is_the_last_state_and_the_best_weights_and_no_more(reference):
    assert [name for name in files_below(reference) if name.startswith("models/")] == [
        "models/model.pt",
        "models/model.safetensors",
    ]
    kept = [name for name in files_below(reference / "checkpoints") if not name.startswith("bank/")]
    assert kept == ["last.pt"]
    state = kept_state(reference)
    assert state["trainer"]["iteration"] == 14
    assert [row["epoch"] for row in state["trainer"]["history"]["rows"]] == [2, 4, 6, 7]


def test_resuming_what_is_done_changes_nothing(study, reference, tmp_path):
    before = {name: (reference / name).read_bytes() for name in files_below(reference)}
    train_run("sam_lora", study, reference, QUICK, resume=True)
    assert {name: (reference / name).read_bytes() for name in files_below(reference)} == before


def test_resume_begins_where_there_is_nothing_yet(study, tmp_path, capsys):
    """Killed before the first epoch was done, half of the run's own files may be there."""
    run = tmp_path / "run"
    (run / "configs").mkdir(parents=True)
    (run / "configs" / ".tmp-abcd1234.yaml").write_text("half")
    arguments = ["--set=epochs=1", "--set=steps_per_epoch=1", "--set=batch_size=2", "--resume"]
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(run), *arguments]) == 0
    assert kept_state(run)["trainer"]["iteration"] == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "other"), *arguments]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_another_training_is_not_resumed(study, reference, edited_study):
    other = edited_study(lambda content: None)
    with pytest.raises(InputError, match=r"--set epochs: 5, but run was started with 7; resume it with its own"):
        train_run("sam_lora", study, reference, {**QUICK, "epochs": 5}, resume=True)
    with pytest.raises(InputError, match=r"--set lora.rank: 2, but run was started with 4"):
        train_run("sam_lora", study, reference, {**QUICK, "network_def.lora.rank": 2}, resume=True)
    with pytest.raises(InputError, match="--data: "):
        train_run("sam_lora", other, reference, QUICK, resume=True)
    with pytest.raises(InputError, match="or resume its training with --resume"):
        train_run("sam_lora", study, reference, QUICK)


LONGER = {"steps_per_epoch": 2, "batch_size": 2, "validate_every": 1, "retrieval": False, "image_size": 32}


def test_a_training_that_is_done_goes_on_for_more_epochs_as_if_it_had_had_them(study, tmp_path, caplog):
    """With a constant rate, to the bit: 1 epoch and 1 more, against 2."""
    caplog.set_level("INFO", logger="ragsam")
    options = {**LONGER, "schedule": "constant"}
    wanted = train_run("sam_lora", study, tmp_path / "wanted", {**options, "epochs": 2})
    run = train_run("sam_lora", study, tmp_path / "run", {**options, "epochs": 1})
    train_run("sam_lora", study, run, {**options, "epochs": 2}, resume=True)
    assert "train: 2 epochs instead of 1; the learning rate continues as in a training of 2" in caplog.messages
    assert_same_end(run, wanted)
    train_run("sam_lora", study, run, {**options}, resume=True)  # without naming them they are the run's own
    with pytest.raises(InputError, match="--set epochs: 1, but run was started with 2"):
        train_run("sam_lora", study, run, {**options, "epochs": 1}, resume=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_replayed_schedule_stands_where_the_longer_training_has_it(name):
    """12 of 40 steps, whose optimizer has rates of a schedule of 12; it goes on as one of 40 from there."""
    rates = []
    for steps in (0, 12):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        schedule = make_schedule(optimizer, name=name, learning_rate=0.1, steps=40)
        replay(schedule, steps)
        told = []
        for _ in range(40 - steps):
            optimizer.step()
            schedule.step()
            told.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
        rates.append(told)
    assert rates[0][12:] == rates[1]


def test_a_damaged_state_is_told(study, tmp_path):
    options = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    run = train_run("sam_lora", study, tmp_path / "run", options)
    path = run / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.pt: not a readable"):
        train_run("sam_lora", study, run, options, resume=True)
    assert (run / "models" / "model.safetensors").exists()


def test_seeds_of_epochs_are_apart_and_known():
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert epoch_seed(3, 5) == epoch_seed(3, 5)
    assert 0 <= epoch_seed(-1, 0) < 2**32


def test_time_left_counts_from_the_epoch_that_was_resumed(caplog, monkeypatch):
    from ignite.engine import Engine

    caplog.set_level("INFO", logger="ragsam")
    now = [0.0]
    monkeypatch.setattr("ragsam.console.engine_progress.time.monotonic", lambda: now[0])

    def step(engine, batch):
        now[0] += 9
        return {"loss": torch.tensor(1.0)}

    trainer = Engine(step)
    Progress("train", loss=True).attach(trainer)
    trainer.add_event_handler(
        Events.STARTED, lambda engine: engine.load_state_dict({"epoch_length": 1, "epoch": 6, "max_epochs": 10})
    )
    trainer.run([0], max_epochs=10)
    assert caplog.messages[0] == "train: epoch 7 of 10, loss 1.0000, 9 s passed, about 27 s left"


class Scaler:
    """Stands for a gradient scaler, which a trainer of MONAI makes when it runs."""

    scale = 1.0

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state["scale"]


def run_with_scaler(folder, scaler, *, resume=False):
    """Run an epoch of two, or, resumed, the rest."""
    network = Segmenter(1, image_size=16, detail=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    engine, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    Checkpoints(folder, network, optimizer, schedule, validator, resume=resume).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.terminate())
    engine.scaler = scaler
    engine.run([0], max_epochs=2)


def test_the_gradient_scaler_goes_on_where_it_was(tmp_path):
    first, second = Scaler(), Scaler()
    first.scale = 8.0
    run_with_scaler(tmp_path, first)
    run_with_scaler(tmp_path, second, resume=True)
    assert second.scale == 8.0
