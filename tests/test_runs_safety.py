"""A training that cannot go well stops, says why, and leaves what it had."""

import shutil

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from small_study import files_below, log_lines

from ragsam.api.train import train_run
from ragsam.api.try_training import try_training
from ragsam.cli import main
from ragsam.console.durations import duration
from ragsam.errors import InputError
from ragsam.networks.checkpoints import read_checkpoint
from ragsam.training.disk_space import free_bytes, require_space, training_bytes
from ragsam.training.early_stop import EarlyStop
from ragsam.training.loss_guard import LossGuard, batch_text
from ragsam.training.losses import PartialDiceCELoss

SHORT = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 3, "validate_every": 9, "image_size": 32}
BATCH = {"image": torch.zeros(2, 3, 4, 4), "case": ["img0002", "img0001"], "slice": torch.tensor([7, 3])}


def trainer_of(losses, batch=BATCH):
    """Return an engine that fires what MONAI's trainer fires, guarded, and the steps that it learnt from."""
    learnt = []

    def step(engine, _):
        engine.state.batch = batch
        engine.state.output = {"loss": torch.tensor(losses[engine.state.iteration - 1])}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        learnt.append(engine.state.iteration)
        return engine.state.output

    trainer = Engine(step)
    trainer.register_events(*IterationEvents)
    LossGuard().attach(trainer)
    return trainer, learnt


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_before_anything_is_learnt_from_it(loss):
    trainer, learnt = trainer_of([1.0, 2.0, loss, 1.0])
    with pytest.raises(InputError) as raised:
        trainer.run([0, 0], max_epochs=2)
    assert str(raised.value) == (
        f"training: the loss is {loss} in epoch 2, step 3, of img0001 (slice 3), img0002 (slice 7); lower --set "
        "learning_rate, or check these slices (what was kept after epoch 1 stays)"
    )
    assert learnt == [1, 2]


@pytest.mark.parametrize(
    ("first", "spike", "stops"),
    [(2.0, 19.9, False), (2.0, 20.1, True), (0.1, 9.9, False), (0.1, 10.1, True)],  # ten times 2, or ten times 1
)
def test_a_loss_far_above_the_first_ones_stops(first, spike, stops):
    trainer, learnt = trainer_of([first] * 20 + [spike])
    if stops:
        with pytest.raises(
            InputError, match=rf"the loss is {spike:.3g}, at first it was {first:.3g} in epoch 1, step 21"
        ):
            trainer.run([0] * 21)
    else:
        trainer.run([0] * 21)
    assert len(learnt) == 21 - stops


def test_the_first_losses_may_be_what_they_are():
    trainer, learnt = trainer_of([1.0, 500.0] + [1.0] * 18)
    trainer.run([0] * 20)
    assert len(learnt) == 20


def test_slices_of_a_batch_are_told_by_case_once_each_and_not_endlessly():
    many = {"case": [f"c{i:02}" for i in range(11)] + ["c00", "c00"], "slice": torch.tensor([*range(11), 5, 0])}
    text = batch_text(many)
    assert text.startswith("c00 (slices 0, 5), c01 (slice 1), ")
    assert text.endswith("c07 (slice 7), 3 more cases")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA"), "a batch of 2 slices of 4 pixels; lower --set batch_size, and raise"),
        (ValueError("something else"), "something else"),
    ],
)
def test_where_memory_runs_out_the_way_out_is_told_and_other_errors_pass(error, told):
    trainer, _ = trainer_of([1.0])

    @trainer.on(Events.ITERATION_STARTED)
    def fail(engine):
        engine.state.batch = BATCH
        raise error

    with pytest.raises(InputError if told.startswith("a batch") else ValueError, match=told):
        trainer.run([0])


def test_a_run_of_which_the_loss_broke_keeps_its_last_state_and_ends_with_2(study, tmp_path, monkeypatch, capsys):
    """The fifth step breaks in the third epoch; one line tells it, and the second was kept."""
    forward, calls = PartialDiceCELoss.forward, []

    def breaks(self, logits, target):
        calls.append(1)
        return forward(self, logits, target) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(PartialDiceCELoss, "forward", breaks)
    options = [f"--set={name}={value}" for name, value in SHORT.items()]
    run = tmp_path / "run"
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(run), *options]) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert line.startswith("ragsam: training: the loss is nan in epoch 3, step 5, of case-tr")
    assert "patient-" not in line
    state = read_checkpoint(run / "checkpoints" / "last.pt")
    assert state["trainer"]["iteration"] == 4
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
    monkeypatch.undo()
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(run), *options, "--resume"]) == 0
    named = [name for name in files_below(run) if b"case-tr" in (run / name).read_bytes()]
    assert named == []  # the terminal alone was told


def validator_of(scores):
    validator = Engine(lambda engine, batch: None)
    validator.state.key_metric_name = "dice"
    numbers = iter(scores)

    @validator.on(Events.EPOCH_COMPLETED)
    def measure(engine):
        engine.state.metrics["dice"] = next(numbers)

    return validator


@pytest.mark.parametrize(
    ("scores", "patience", "stopped_after"),
    [
        ([0.1, 0.2, 0.15, 0.2, 0.3], 2, 4),  # as good as the best is no better
        ([0.1, 0.2, 0.15, 0.25, 0.2], 2, 5),
        ([float("nan"), float("nan"), 0.1, 0.2, 0.3], 2, 2),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 9, 5),
    ],
)
def test_early_stopping_ends_after_so_many_validations_without_a_better_one(scores, patience, stopped_after):
    trainer, validator = Engine(lambda engine, batch: None), validator_of(scores)
    EarlyStop(validator, patience).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run([0]))
    trainer.run([0], max_epochs=5)
    assert trainer.state.epoch == stopped_after


def test_what_early_stopping_ended_does_not_begin_again_when_resumed(study, tmp_path):
    options = {**SHORT, "epochs": 8, "validate_every": 1, "learning_rate": 0.0, "patience": 2}  # no score ever changes
    run = train_run("sam_lora", study, tmp_path / "run", options)
    before = read_checkpoint(run / "checkpoints" / "last.pt")
    assert before["trainer"]["iteration"] == 3 * 2
    train_run("sam_lora", study, run, options, resume=True)
    assert read_checkpoint(run / "checkpoints" / "last.pt")["trainer"]["iteration"] == 3 * 2


def full_disk(monkeypatch, free):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=free))


def test_disk_space_is_looked_at_before_anything_is_trained(study, tmp_path, monkeypatch, capsys):
    full_disk(monkeypatch, 10_000_000)
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "run")]) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert "10 MB are free, but the training needs about" in line
    assert not (tmp_path / "run").exists()


def test_space_needed_is_of_what_trains_alone(tmp_path):
    network = torch.nn.Linear(10, 10, bias=False)
    assert training_bytes(network) == 2 * 5 * 100 * 4
    network.weight.requires_grad_(False)
    assert training_bytes(network) == 0
    assert free_bytes(tmp_path / "not" / "yet") > 0
    require_space(tmp_path, 1)


def test_check_estimates_and_leaves_nothing(study, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    options = ["--check", "--set=epochs=7", "--set=steps_per_epoch=5", "--set=batch_size=3", "--set=validate_every=3"]
    assert main(["train", "sam_lora", "--data", str(study), "--output", str(output), *options]) == 0
    said = capsys.readouterr().out
    assert "4 batches of 3 slices and the largest validation volume went through everything" in said
    assert "; 35 steps\n" in said
    assert "for 1 volumes; 3 of them\n" in said
    assert not output.exists()
    full_disk(monkeypatch, 200_000_000)
    monkeypatch.setattr("ragsam.api.try_training.free_bytes", lambda folder: 1000)
    with pytest.raises(InputError, match=r"0 MB are free, but the training needs about \d+"):
        try_training("sam_lora", study, output, {"batch_size": 2})


def test_check_finds_what_would_stop_the_training(study, tmp_path, capsys, edited_study):
    def empty(content):
        content["validation"] = []

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for data, output in ((study, tmp_path / "run"), (edited_study(empty), tmp_path / "new")):
        assert main(["train", "sam_lora", "--data", str(data), "--output", str(output), "--check"]) == 2
    lines = log_lines(capsys.readouterr().err)
    assert len(lines) == 2
    assert "is not empty" in lines[0]
    assert "validation" in lines[1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4.2 s"), (42, "42 s"), (130, "2 min"), (3600, "1 h 0 min"), (11099, "3 h 5 min")]
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text
