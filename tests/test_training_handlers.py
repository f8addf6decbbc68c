"""The handlers by themselves, on engines made for the purpose."""

import csv
import logging
import sys
import time
from typing import ClassVar

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from small_study import files_below

from ragsam.console.engine_progress import Progress
from ragsam.errors import InputError
from ragsam.inference.volume_retrieval import VolumeRetrieval
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.retrieval import Retriever
from ragsam.runs.weights import WeightsLoader
from ragsam.training.best_weights import BestWeights
from ragsam.training.csv_log import COLUMNS, History
from ragsam.training.organ_dice import OrganDice
from ragsam.training.validation import Validation


class Line(torch.nn.Module):
    """The least that checkpoint handlers need of a network: one weight."""

    base_sha256 = None
    about: ClassVar = {"base_sha256": None}

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def trainable_state(self):
        return self.state_dict()

    def load_trainable_state(self, state):
        self.load_state_dict(state)


def evaluator_with(score):
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(engine):
        engine.state.metrics["dice"] = score()

    return engine


def test_best_weights_keeps_improvements_and_later_equals(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ragsam")
    # At a tolerance of 0.002: 0.497 is worse than 0.5, 0.499 as good, 0.4975 still worse than 0.5, and nan is no score.
    network, scores = Line(), [0.5, 0.497, 0.499, 0.4975, float("nan"), 0.6, 0.4]
    engine = evaluator_with(lambda: scores[int(network.weight.item()) - 1])
    path = tmp_path / "models" / "model.safetensors"
    BestWeights(network, path, {"kind": "line"}, metric="dice", tolerance=0.002).attach(engine)
    kept = []
    for _ in scores:
        with torch.no_grad():
            network.weight += 1
        engine.run([0])
        state, about = load_weights(path)
        assert torch.equal(state["weight"], torch.load(path.with_suffix(".pt"), weights_only=True)["weight"])
        kept.append((state["weight"].item(), about["dice"]))
    assert kept == [(1, 0.5), (1, 0.5), (3, 0.499), (3, 0.499), (3, 0.499), (6, 0.6), (6, 0.6)]
    assert about == {"kind": "line", "base_sha256": None, "dice": 0.6}
    assert [line.split(" is ")[0] for line in caplog.messages] == ["dice 0.5000", "dice 0.4990", "dice 0.6000"]
    assert files_below(tmp_path) == ["models/model.pt", "models/model.safetensors"]


def test_best_weights_of_a_failed_write_are_the_older_ones(tmp_path, monkeypatch):
    network, path = Line(), tmp_path / "model.safetensors"
    best = BestWeights(network, path, {}, metric="dice")
    engine = evaluator_with(lambda: network.weight.item())
    best.attach(engine)
    engine.run([0])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with torch.no_grad():
        network.weight += 1
    with pytest.raises(InputError, match="cannot be written"):
        engine.run([0])
    assert load_weights(path)[0]["weight"].item() == 0
    assert files_below(tmp_path) == ["model.pt", "model.safetensors"]


def test_a_score_of_nothing_is_kept_no_more_than_once(tmp_path):
    """A first score of 0 is better than no weights at all."""
    engine = evaluator_with(lambda: 0.0)
    BestWeights(Line(), tmp_path / "model.safetensors", {}, metric="dice").attach(engine)
    engine.run([0])
    assert load_weights(tmp_path / "model.safetensors")[1]["dice"] == 0.0


def test_weights_loader_loads_at_the_start_and_refuses_another_base(tmp_path):
    network, path = Line(), tmp_path / "model.safetensors"
    save_weights(path, {"weight": torch.full((1,), 7.0)}, {"base_sha256": None})
    engine = Engine(lambda engine, batch: network.weight.item())
    WeightsLoader(network, path).attach(engine)
    engine.run([0])
    assert engine.state.output == 7
    network.base_sha256 = "a" * 64
    with pytest.raises(InputError, match=r"model\.safetensors: made on different base weights; set `base`"):
        engine.run([0])
    network.base_sha256 = None
    save_weights(path, {"weight": torch.ones(1)}, {"base_sha256": "b" * 64})
    with pytest.raises(InputError, match="different base weights"):
        WeightsLoader(network, path).load()
    assert network.weight.item() == 7


def test_weights_loader_names_what_is_wrong_with_the_file(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        WeightsLoader(Line(), tmp_path / "none.safetensors").load()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match=r"cut\.safetensors: not a readable weights file"):
        WeightsLoader(Line(), tmp_path / "cut.safetensors").load()


class Given(Metric):
    """A metric that is what a function says."""

    def __init__(self, score):
        self.score = score
        super().__init__(lambda output: (0, 0))

    def reset(self):
        """Nothing is gathered."""

    def update(self, output):
        """Nothing is gathered."""

    def compute(self):
        return self.score()


def validator_with(score):
    """Return MONAI's evaluator of one empty batch, with a given score."""
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1)}],
        network=Line(),
        iteration_update=lambda engine, batch: {},
        key_val_metric={"dice": Given(score)},
    )


BATCH = {"image": torch.zeros(3, 1)}


def trainer_of(losses):
    def step(engine, batch):
        return {"loss": torch.tensor(losses[engine.state.iteration - 1])}

    return Engine(step)


def test_history_has_a_row_a_validation_with_the_mean_loss_since_the_last(tmp_path):
    losses, scores = [4.0, 2.0, 1.0, 0.5, 3.0, 5.0], iter([0.25, 0.75])
    trainer, validator = trainer_of(losses), validator_with(lambda: next(scores))
    path = tmp_path / "log.csv"
    History(path, validator).attach(trainer)
    Validation(validator, interval=2).attach(trainer)
    trainer.run([BATCH, BATCH], max_epochs=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert COLUMNS[:5] == ("epoch", "step", "train_seconds", "loss", "score")
    assert [(r["epoch"], r["step"], float(r["loss"]), float(r["score"])) for r in rows] == [
        ("2", "4", (4 + 2 + 1 + 0.5) / 4, 0.25),
        ("3", "6", 4.0, 0.75),
    ]


def test_history_does_not_count_the_time_of_validation(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ragsam.training.csv_log.time.monotonic", lambda: now[0])

    def step(engine, batch):
        now[0] += 1.5
        return {"loss": torch.tensor(1.0)}

    def slow():
        now[0] += 50
        return 0.5

    trainer, validator = Engine(step), validator_with(slow)
    history = History(tmp_path / "log.csv", validator)
    history.attach(trainer)
    Validation(validator, interval=1).attach(trainer)
    trainer.run([BATCH, BATCH], max_epochs=2)
    assert [row["train_seconds"] for row in history.rows] == [3.0, 6.0]
    assert [row["slices_per_second"] for row in history.rows] == [2.0, 2.0]  # 2 batches of 3 slices in 3 s


def test_history_has_the_parts_of_the_loss_each_organ_and_the_learning_rate(tmp_path):
    def step(engine, batch):
        loss.parts = {"dice": torch.tensor(float(engine.state.iteration))}
        return {"loss": torch.tensor(1.0)}

    def score():
        dice.by_organ = [None, 0.25]
        return 0.25

    loss, dice = torch.nn.Module(), OrganDice(2, lambda output: output)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.125)
    trainer, validator = Engine(step), validator_with(score)
    about = {"optimizer": optimizer, "loss": loss, "dice": dice, "organs": ["liver", "spleen"]}
    History(tmp_path / "log.csv", validator, **about).attach(trainer)
    Validation(validator, interval=1).attach(trainer)
    trainer.run([BATCH, BATCH], max_epochs=2)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss_dice"] for row in rows] == ["1.5", "3.5"]
    assert [row["dice_liver"] for row in rows] == ["", ""]
    assert [row["dice_spleen"] for row in rows] == ["0.25", "0.25"]
    assert [row["learning_rate"] for row in rows] == ["0.125", "0.125"]
    assert float(rows[0]["memory_gb"]) > 0


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_validation_comes_at_every_nth_epoch_and_once_at_the_last(interval, epochs):
    trainer, validator, seen = trainer_of([0.0] * 5), validator_with(lambda: 0.0), []
    validator.add_event_handler(Events.COMPLETED, lambda engine: seen.append(engine.state.epoch))
    Validation(validator, interval=interval).attach(trainer)
    trainer.run([0], max_epochs=5)
    assert seen == epochs


def test_progress_off_a_terminal_is_a_line_an_epoch(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="ragsam")
    now = [0.0]
    monkeypatch.setattr("ragsam.console.engine_progress.time.monotonic", lambda: now[0])
    trainer = trainer_of([4.0, 2.0, 1.0, 0.0])

    @trainer.on(Events.ITERATION_COMPLETED)
    def pass_time(engine):
        now[0] += 4

    Progress("train", loss=True).attach(trainer)
    trainer.run([0, 0], max_epochs=2)
    assert caplog.messages == [
        "train: epoch 1 of 2, loss 3.0000, 8 s passed, about 8 s left",
        "train: epoch 2 of 2, loss 0.5000, 16 s passed, about 0 s left",
    ]


def test_progress_off_a_terminal_is_a_line_a_volume(caplog, capsys):
    caplog.set_level(logging.INFO, logger="ragsam")
    engine = Engine(lambda engine, batch: None)
    Progress("segment").attach(engine)
    engine.run([0, 0, 0])
    assert [line.split(",")[0] for line in caplog.messages] == [f"segment: volume {n} of 3" for n in (1, 3)]
    assert "it/s" not in capsys.readouterr().err  # no bar


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    now = [0.0]
    monkeypatch.setattr("ragsam.console.engine_progress.time.monotonic", lambda: now[0])
    trainer = trainer_of([4.0, 2.0, 1.0, 0.5])

    @trainer.on(Events.ITERATION_STARTED)
    def pass_time(engine):
        now[0] += 20
        time.sleep(0.11)  # a bar is drawn ten times a second

    Progress("train", loss=True).attach(trainer)
    trainer.run([0, 0], max_epochs=2)
    shown = capsys.readouterr().err
    assert "train" in shown
    assert "loss=" in shown
    assert "left=60 s" in shown  # three steps of 20 s after the first, to the end of the last epoch
    assert "left=0.0 s" in shown


def volume(*values):
    """Return a label volume [1, 2, 2, 1] of four voxels."""
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 2, 2, 1)


def organ_dice(predictions, references, num_classes=2):
    metric = OrganDice(num_classes, lambda output: output)
    for pair in zip(predictions, references, strict=True):
        metric.update(([pair[0]], [pair[1]]))
    return metric.compute()


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        ([(1, 1, 0, 2)], [(1, 1, 0, 2)], 1.0),
        ([(1, 0, 0, 2)], [(1, 1, 0, 2)], (2 / 3 + 1) / 2),  # organ 1: 2 * 1 / (1 + 2)
        ([(1, 1, 0, 0)], [(1, 1, 0, 2)], 0.5),  # organ 2 is missed: 0, never dropped
        ([(1, 1, 2, 2)], [(1, 1, 0, 0)], 0.5),  # organ 2 is a false positive: 0
        ([(1, 1, 0, 0)], [(1, 1, 0, 0)], 1.0),  # organ 2 is in neither: it does not count
        ([(0, 0, 0, 0)], [(0, 0, 0, 0)], 0.0),  # nothing at all: no score, and no nan
        # Organ 1: mean of 1 and 0; organ 2: in the second volume alone, 1.
        ([(1, 0, 0, 0), (2, 0, 0, 0)], [(1, 0, 0, 0), (2, 1, 0, 0)], (0.5 + 1) / 2),
    ],
    ids=["same", "partly", "missed", "false positive", "in neither", "empty", "two volumes"],
)
def test_organ_dice_by_hand(predictions, references, expected):
    pairs = [[volume(*values) for values in side] for side in (predictions, references)]
    assert organ_dice(*pairs) == pytest.approx(expected)


def test_organ_dice_forgets_on_reset():
    metric = OrganDice(1, lambda output: output)
    metric.update(([volume(1, 1, 1, 1)], [volume(1, 0, 0, 0)]))
    metric.reset()
    metric.update(([volume(1, 0, 0, 0)], [volume(1, 0, 0, 0)]))
    assert metric.compute() == 1.0


def test_without_a_bank_no_trace_is_written(tmp_path):
    network = Segmenter(1, image_size=16, detail=False)
    engine = Engine(lambda engine, batch: None)
    VolumeRetrieval(
        network, Retriever(descriptor="thumbnail", neighbours=8, carry=False), trace_path=tmp_path / "retrieval.json"
    ).attach(engine)
    engine.run([{"patient": ["p"], "case": ["x"]}])
    assert files_below(tmp_path) == []
