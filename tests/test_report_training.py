"""What a training came to: the table and the curves of its log."""

import io

import numpy as np
import pytest
from PIL import Image

from ragsam.errors import InputError
from ragsam.report.training import best_row, read_log, training_table, write_curves

pytestmark = pytest.mark.usefixtures("full_pictures")
LOG = """epoch,step,loss,score,learning_rate,loss_dice,dice_liver,dice_spleen
2,20,1.25,0.5,0.001,0.75,0.5,
4,40,0.75,0.8125,0.0005,0.5,0.75,0.875
6,60,0.5,0.75,0.0,0.25,0.75,0.75
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def test_log_is_read_with_what_is_empty_as_none(log):
    rows = read_log(log)
    assert [row["epoch"] for row in rows] == [2, 4, 6]
    assert rows[0]["dice_spleen"] is None
    assert rows[2]["learning_rate"] == 0


def test_table_has_the_best_and_the_last_validation(log):
    assert training_table(read_log(log)) == [
        "                 best      last",
        "epoch               4         6",
        "loss           0.7500    0.5000",
        "mean Dice      0.8125    0.7500",
        "  liver        0.7500    0.7500",
        "  spleen       0.8750    0.7500",
    ]
    assert training_table(read_log(log)[:1])[-1] == "  spleen            -         -"


def test_of_equal_scores_the_last_is_the_best():
    rows = [{"epoch": 1.0, "score": 0.5}, {"epoch": 2.0, "score": 0.5}, {"epoch": 3.0, "score": 0.25}]
    assert best_row(rows)["epoch"] == 2


@pytest.mark.parametrize("rows", [1, 3])
def test_curves_are_a_picture_with_something_in_each_of_three_panels(log, tmp_path, rows):
    write_curves(read_log(log)[:rows], tmp_path / "curves.png")
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "curves.png").read_bytes())).convert("L"))
    assert [bool((third < 100).any()) for third in np.array_split(picture, 3, axis=1)] == [True] * 3


def test_curves_are_the_same_each_time(log, tmp_path):
    for name in ("one.png", "two.png"):
        write_curves(read_log(log), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("text", [None, "", "epoch,score\n"])
def test_a_log_that_is_none_is_told(tmp_path, text):
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"log\.csv: no .*; train the run"):
        read_log(path)
