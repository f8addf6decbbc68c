"""Labels from which nothing can be learned, or by which nothing can be measured: a fault before any training."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from ragsam.data.cards.load import load_card
from ragsam.data.checks.survey import survey
from ragsam.data.datalist import Case, Datalist
from ragsam.data.slices import SliceDataset
from ragsam.data.volumes import VolumeDataset
from ragsam.errors import InputError
from ragsam.transforms import preprocessing

CARD = load_card("hippocampus")  # anterior 1, posterior 2
EMPTY = "no case has a labelled voxel of any organ; are the label numbers the card's (label_map), and the label files"
LACKING = "training: no case has a labelled voxel of posterior; label them in a training case, or take a card without"


@pytest.fixture
def case(tmp_path):
    """Return a function that makes a case whose label holds some values, a voxel each."""

    def make(name, *values, annotated=None):
        image = np.random.default_rng(sum(map(ord, name))).integers(0, 99, (8, 8, 4)).astype(np.int16)
        label = np.zeros((8, 8, 4), np.uint8)
        for place, value in enumerate(values):
            label[place, 3, 1] = value
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}-{kind}.nii.gz")
        paths = [tmp_path / f"{name}-{kind}.nii.gz" for kind in ("image", "label")]
        return Case(name, name, *paths, annotated=annotated)

    return make


def faults(tmp_path, training, validation=()):
    """Return what `check` finds, and what stops a training."""
    sections = {"training": tuple(training), "validation": tuple(validation)}
    found = survey(Datalist("hippocampus", tmp_path / "d.json", sections), CARD)["faults"]
    stopped = []
    try:
        SliceDataset(training, CARD, preprocessing(), image_size=16).sampler(8)
    except InputError as error:
        stopped.append(str(error))
    try:
        if validation:
            VolumeDataset(validation, preprocessing(), card=CARD, labels=True)
    except InputError as error:
        stopped.append(str(error))
    assert found == stopped
    return found


def test_sections_that_lack_nothing_are_sound(case, tmp_path):
    both, one, other, none = case("both", 1, 2), case("one", 1), case("other", 2), case("none")
    assert faults(tmp_path, [both, none], [one]) == []
    assert faults(tmp_path, [one, other], [both, none]) == []


def test_no_labelled_voxel_in_a_section_is_a_fault(case, tmp_path):
    (told,) = faults(tmp_path, [case("a"), case("b")], [case("c", 1)])
    assert told.startswith(f"training: {EMPTY}")
    (told,) = faults(tmp_path, [case("d", 1, 2)], [case("e"), case("f")])
    assert told.startswith(f"validation: {EMPTY}")


def test_an_organ_that_no_training_case_has_is_a_fault_and_one_that_no_validation_case_has_is_none(case, tmp_path):
    (told,) = faults(tmp_path, [case("a", 1), case("b")], [case("c", 1, 2)])
    assert told.startswith(LACKING)
    assert faults(tmp_path, [case("d", 1, 2)], [case("e", 2)]) == []


def test_partial_labels_count_where_they_are_annotated(case, tmp_path):
    """An organ that one case annotates is enough; voxels that `annotated` leaves out are none."""
    one, other = case("one", 1, annotated=("anterior",)), case("other", 2, annotated=("posterior",))
    assert faults(tmp_path, [one, other]) == []
    (told,) = faults(tmp_path, [one, case("more", 1, 2, annotated=("anterior",))])
    assert told.startswith(LACKING)
    (told,) = faults(tmp_path, [other], [case("c", 1, annotated=("posterior",))])[1:]
    assert told.startswith(f"validation: {EMPTY}")


def test_label_maps_lead_to_the_organs(case, tmp_path):
    mapped = replace(case("mapped", 7, 9), label_map={7: 1, 9: 2})
    assert faults(tmp_path, [mapped]) == []
    (told,) = faults(tmp_path, [replace(mapped, label_map={7: 1, 9: 0})])
    assert told.startswith(LACKING)


def test_what_cannot_be_read_is_the_only_fault(case, tmp_path):
    broken = case("broken")
    broken.label.write_bytes(b"")
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"training": (broken, case("a"))}), CARD)["faults"]
    assert found == ["broken (label): the file is empty; export or copy it again"]


def test_a_server_may_train_on_the_labels_that_it_has(case):
    some = case("some", 1)
    item = {"image": str(some.image), "label": str(some.label)}
    assert len(SliceDataset([item], CARD, preprocessing(), image_size=16).sampler(8)) == 8
    none = case("none")
    item = {"image": str(none.image), "label": str(none.label)}
    with pytest.raises(InputError, match="no case has a labelled voxel of any organ"):
        SliceDataset([item], CARD, preprocessing(), image_size=16).sampler(8)
