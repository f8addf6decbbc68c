"""A card begun from label volumes: the values in them, and modality and window by their images."""

import numpy as np
import pytest
import yaml
from small_study import affine_of, save_volume

from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.preparation.new_card import new_card
from ragsam.data.preparation.prepare import prepare
from ragsam.errors import InputError


def study(folder, *, outside=-1000, values=(1, 4, 7)):
    """Two cases: the second lacks the last label; a label's voxels are 10 times its value."""
    for number in range(2):
        label = np.zeros((8, 8, 8), np.uint8)
        for slab, value in enumerate(values[: len(values) - number]):
            label[slab] = value
        image = np.where(label > 0, 10.0 * label, outside).astype(np.float32)
        save_volume(folder / "labels" / f"c{number}.nii.gz", label, affine_of())
        save_volume(folder / "images" / f"c{number}.nii.gz", image, affine_of())
    return folder


def test_a_new_card_has_the_values_found_and_a_window_by_the_labelled_voxels(tmp_path, capsys):
    source, card = study(tmp_path / "raw"), tmp_path / "my.yaml"
    command = ["cards", "new", "--from", str(source / "labels"), "--images", str(source / "images")]
    assert main([*command, "--output", str(card)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"card: {card}, labels 1, 4, 7"
    assert lines[1].startswith(f"next: name the organs in {card}, then ragsam prepare {card}")
    found = load_card(card)
    assert (found.name, found.modality, found.window) == ("my", "CT", (10.0, 70.0))
    assert found.labels == {"label_1": 1, "label_4": 2, "label_7": 3}
    assert found.label_map == {1: 1, 4: 2, 7: 3}
    assert "label_7  # 64 voxels in 1 of 2 volumes" in card.read_text()
    assert main(["cards", str(card)]) == 0
    with pytest.raises(InputError, match=r"no patient key; give a table .* case_is_patient: true"):
        prepare(str(card), source, tmp_path / "list.json")
    card.write_text(card.read_text().replace("# patient_rule", "patient_rule"))
    assert load_card(card).patient_rule.case_is_patient
    assert prepare(str(card), source, tmp_path / "list.json").is_file()


@pytest.mark.parametrize(
    ("outside", "images", "modality", "wanted"),
    [
        (0, True, None, ("MR", None)),
        (0, True, "CT", ("CT", (10.0, 70.0))),
        (0, False, "CT", ("CT", (-160.0, 240.0))),
        (-1000, False, "MR", ("MR", None)),
    ],
)
def test_modality_and_window_are_asked_for_or_found(tmp_path, outside, images, modality, wanted):
    source = study(tmp_path, outside=outside)
    images = source / "images" if images else None
    assert new_card(source / "labels", tmp_path / "a.yaml", images=images, modality=modality) == [1, 4, 7]
    card = load_card(tmp_path / "a.yaml")
    assert (card.modality, card.window) == wanted


def test_a_name_that_yaml_would_read_otherwise_stays_a_text(tmp_path):
    source = study(tmp_path, values=(1, 2))
    for name in ("1", "no", "a: b #c"):
        new_card(source / "labels" / "c0.nii.gz", tmp_path / f"{name}.yaml", modality="CT")
        assert load_card(tmp_path / f"{name}.yaml").name == name
    assert "raw" not in yaml.safe_load((tmp_path / "no.yaml").read_text())["organs"][1]


def test_what_no_card_can_be_made_of_is_told(tmp_path):
    source = study(tmp_path / "raw")
    half = np.full((4, 4, 4), 0.5, np.float32)
    save_volume(tmp_path / "half" / "a.nii.gz", half, affine_of())
    save_volume(tmp_path / "negative" / "a.nii.gz", np.full((4, 4, 4), -3, np.int16), affine_of())
    save_volume(tmp_path / "none" / "a.nii.gz", np.zeros((4, 4, 4), np.uint8), affine_of())
    many = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    save_volume(tmp_path / "many" / "a.nii.gz", many, affine_of())
    (tmp_path / "empty").mkdir()
    for labels, match in (
        ("half", "a: a voxel is 0.5, not a whole number"),
        ("negative", "a: a voxel is -3, not a whole number from 0 on"),
        ("none", "none of 1 volumes has a label above 0"),
        ("many", "511 values in the volumes, above the 255 of a card"),
        ("empty", "empty: no volumes in it"),
        ("nowhere", "no folder nowhere"),
    ):
        with pytest.raises(InputError, match=match):
            new_card(tmp_path / labels, tmp_path / "x.yaml", modality="CT")
    for options, match in (
        ({}, "--modality: CT or MR"),
        ({"modality": "PET"}, "--modality PET: take CT or MR"),
    ):
        with pytest.raises(InputError, match=match):
            new_card(source / "labels", tmp_path / "x.yaml", **options)
    with pytest.raises(InputError, match=r"--output x\.txt: a card is a \.yaml file"):
        new_card(source / "labels", tmp_path / "x.txt", modality="CT")
    assert not (tmp_path / "x.yaml").exists()
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(InputError, match=r"mine\.yaml"):
        new_card(source / "labels", tmp_path / "mine.yaml", modality="CT")
    assert (tmp_path / "mine.yaml").read_text() == "name: mine\n"
