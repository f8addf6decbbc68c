"""What TensorBoard is given."""

import io

import numpy as np
import pytest
from PIL import Image
from small_study import TRAINING, files_below
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ragsam.api.train import train_run
from ragsam.training.tensorboard_log import volume_picture

pytestmark = pytest.mark.usefixtures("full_pictures")
QUICK = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 2, "validate_every": 1, "image_size": 32}


def read(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    return board


def test_board_has_steps_validations_and_pictures_and_no_names(study, tmp_path):
    run = train_run("sam_lora", study, tmp_path / "run", QUICK)
    board = read(run / "tensorboard")
    assert [event.step for event in board.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    for tag in ("training/score", "training/learning_rate", "loss/dice", "loss/cross_entropy", "dice/anterior"):
        assert [event.step for event in board.Scalars(tag)] == [2, 4, 6]
    pictures = board.Images("validation")
    assert [picture.step for picture in pictures] == [2, 4, 6]
    assert np.asarray(Image.open(io.BytesIO(pictures[0].encoded_image_string))).shape == (320, 640, 3)
    pictures = board.Images("neighbours")
    assert [picture.step for picture in pictures] == [2, 4, 6]
    picture = np.asarray(Image.open(io.BytesIO(pictures[0].encoded_image_string)))
    assert picture.shape == (320, 4 * 320, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # images, not labels on black alone
    content = b"".join((run / "tensorboard" / name).read_bytes() for name in files_below(run / "tensorboard"))
    for name in (*TRAINING, *TRAINING.values(), "case-va0", "patient-emil"):
        assert name.encode() not in content


def test_no_board_where_none_is_wanted(study, tmp_path):
    run = train_run("sam_lora", study, tmp_path / "run", {**QUICK, "epochs": 1, "board": None})
    assert not (run / "tensorboard").exists()


def test_a_resumed_training_writes_no_step_twice(study, tmp_path, monkeypatch):
    """Stopped in the third epoch's validation: its steps were written already."""
    from ragsam.training.csv_log import History

    write = History._write

    def stop(self, engine):
        if self._trainer.state.epoch == 3:
            raise KeyboardInterrupt
        write(self, engine)

    monkeypatch.setattr(History, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        train_run("sam_lora", study, tmp_path / "run", QUICK)
    monkeypatch.undo()
    run = train_run("sam_lora", study, tmp_path / "run", QUICK, resume=True)
    board = read(run / "tensorboard")
    assert [event.step for event in board.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Scalars("training/score")] == [2, 4, 6]


def test_picture_is_of_the_slice_with_most_labels_reference_left_prediction_right():
    image = np.zeros((4, 6, 3), np.float32)
    reference, prediction = np.zeros((2, 4, 6, 3))
    reference[:2, :, 1] = 1  # most of it is in slice 1
    reference[0, 0, 0] = prediction[0, 0, 0] = 1
    picture = volume_picture(image, reference, prediction, spacing_mm=(3.0, 2.0), colours={1: (255, 0, 0)})
    assert picture.shape == (320, 640, 3)  # 12 mm by 12 mm each
    left, right = np.hsplit(picture, 2)
    assert (left[..., 0] > 50).mean() == pytest.approx(0.5, abs=0.01)
    assert not right.any()
