"""Files of prompts: what they may say, and how the rest is refused."""

import json

import pytest

from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.prompting.prompt_file import MaskFile, ObjectPrompts, read_prompts
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint

CARD = load_card("hippocampus")
ORGAN, OTHER = CARD.labels
POINT = {"i": 1, "j": 2, "k": 3}


def read(folder, content):
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_prompts(path, CARD)


def test_everything_that_can_be_said(tmp_path):
    asked = {
        "organ": ORGAN,
        "points": [POINT, {**POINT, "inside": False}],
        "box": {"i": [0, 1.5], "j": [2, 3], "k": [4, 4]},
        "propagate": True,
        "refine": True,
    }
    draft = {"object": "cyst", "mask": {"file": "draft.nii.gz", "value": 3}}
    assert read(tmp_path, {"case": [asked, draft]}) == {
        "case": (
            ObjectPrompts(
                ORGAN,
                True,
                (VoxelPoint(1, 2, 3), VoxelPoint(1, 2, 3, inside=False)),
                VoxelBox((0, 1.5), (2, 3), (4, 4)),
                propagate=True,
                refine=True,
            ),
            ObjectPrompts("cyst", False, mask=MaskFile(tmp_path / "draft.nii.gz", 3)),
        )
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "not valid JSON"),
        ([], "prompts are an object of cases"),
        ({}, "prompts are an object of cases"),
        ({"c": {}}, "prompts.json: c: a case has a list"),
        ({"c": []}, "a case has a list"),
        ({"c": [3]}, "c: object 1: not an object with"),
        (
            {"c": [{"organ": "livr", "points": [POINT]}]},
            f"livr is not an organ of the card hippocampus; it has {ORGAN}",
        ),
        ({"c": [{"object": ORGAN, "points": [POINT]}]}, 'is an organ of the card; write it as "organ"'),
        ({"c": [{"object": " ", "points": [POINT]}]}, "its name is not a text"),
        ({"c": [{"points": [POINT]}]}, "either organ or object"),
        ({"c": [{"organ": ORGAN, "object": "cyst", "points": [POINT]}]}, "either organ or object"),
        ({"c": [{"organ": ORGAN}]}, "no prompt; give points, a box or a mask"),
        ({"c": [{"organ": ORGAN, "points": []}]}, "no prompt"),
        ({"c": [{"organ": ORGAN, "points": POINT}]}, "points are a list"),
        ({"c": [{"organ": ORGAN, "points": [{"i": 1, "j": 2}]}]}, "object 1: point 1: k is missing"),
        ({"c": [{"organ": ORGAN, "points": [{**POINT, "x": 2}]}]}, "point 1: x is unknown"),
        ({"c": [{"organ": ORGAN, "points": [{**POINT, "i": "1"}]}]}, "point 1: i: '1' is not a number"),
        ({"c": [{"organ": ORGAN, "points": [{**POINT, "i": True}]}]}, "i: True is not a number"),
        ('{"c": [{"object": "o", "points": [{"i": NaN, "j": 1, "k": 1}]}]}', "NaN is not a JSON number"),
        ({"c": [{"organ": ORGAN, "points": [{**POINT, "inside": 1}]}]}, "inside: 1 is neither true nor false"),
        ({"c": [{"organ": ORGAN, "box": {"i": [1, 2], "j": [1, 2]}}]}, "box: k is missing"),
        ({"c": [{"organ": ORGAN, "box": {"i": [1, 2], "j": [1, 2], "k": 3}}]}, r"box: k is not \[first, last\]"),
        ({"c": [{"organ": ORGAN, "mask": "draft.nii.gz"}]}, "mask: not an object with file, value"),
        ({"c": [{"organ": ORGAN, "mask": {"file": "d.nii.gz", "value": 1.5}}]}, "value a whole number"),
        ({"c": [{"organ": ORGAN, "points": [POINT], "propogate": True}]}, "propogate is unknown; there are box"),
        ({"c": [{"organ": ORGAN, "points": [POINT], "refine": "yes"}]}, "refine: 'yes' is neither true nor false"),
        ({"c": [{"object": "cyst", "points": [POINT], "refine": True}]}, "refine starts from the automatic result"),
        ({"c": [{"organ": ORGAN, "mask": {"file": "d.nii"}, "refine": True}]}, "leave out refine or the mask"),
        ({"c": [{"organ": ORGAN, "points": [POINT]}] * 2}, "occurs twice; put its prompts together"),
    ],
)
def test_what_is_refused(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)
