"""Whole volumes for inference and evaluation: what an item holds, and when faults are told."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.volumes import VolumeDataset
from ragsam.errors import InputError
from ragsam.transforms import preprocessing


@pytest.fixture
def cases(tmp_path):
    """Two cases of the hippocampus card, the second stored from left to right."""
    made = []
    for index, flip in enumerate((1.0, -1.0)):
        label = np.zeros((6, 5, 4), np.uint8)
        label[1, 2, 3], label[4, 2, 1] = 1, 2
        image = np.arange(120, dtype=np.int16).reshape(label.shape)
        affine = np.diag([flip, 1.0, 2.0, 1.0])
        paths = [tmp_path / f"{index}_{kind}.nii.gz" for kind in ("image", "label")]
        for path, array in zip(paths, (image, label), strict=True):
            nib.save(nib.Nifti1Image(array, affine), path)
        made.append(Case(f"case{index}", f"patient{index}", *paths))
    return made


def test_an_item_is_what_the_chain_makes_of_the_files_with_case_and_patient(cases):
    dataset = VolumeDataset(cases, preprocessing(), card=load_card("hippocampus"), labels=True)
    assert len(dataset) == 2
    for index, item in enumerate(dataset):
        expected = preprocessing()({"image": str(cases[index].image), "label": str(cases[index].label)})
        assert set(item) == {"image", "label", "case", "patient", "annotated"}
        assert (item["case"], item["patient"]) == (f"case{index}", f"patient{index}")
        for key in ("image", "label"):
            np.testing.assert_array_equal(item[key].numpy(), expected[key].numpy())
            assert item[key].shape == (1, 6, 5, 4)
    assert dataset[1]["label"][0, 4, 2, 3] == 1  # 5 - 1 along the flipped axis


def test_without_labels_a_case_needs_none(cases):
    unlabelled = [Case(case.case, case.patient, case.image) for case in cases]
    item = VolumeDataset(unlabelled, preprocessing(keys=("image",)))[0]
    assert set(item) == {"image", "case", "patient"}


def test_the_images_are_known_by_case(cases):
    dataset = VolumeDataset(cases, preprocessing(keys=("image",)))
    assert dataset.images == {"case0": cases[0].image, "case1": cases[1].image}


def test_with_a_card_every_fault_is_told_at_once(cases, tmp_path):
    lost = Case("lost", "p", tmp_path / "no.nii.gz", cases[0].label)
    with pytest.raises(InputError, match="lost: no such file"):
        VolumeDataset([*cases, lost], preprocessing(), card=load_card("hippocampus"), labels=True)


def test_a_validation_without_a_case_is_refused():
    with pytest.raises(InputError, match="validation: no case"):
        VolumeDataset([], preprocessing(), card=load_card("hippocampus"), labels=True)


@pytest.mark.parametrize("part", ["image", "label"])
def test_without_a_card_a_damaged_file_is_told_on_access(cases, part):
    path = getattr(cases[1], part)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400]))
    dataset = VolumeDataset(cases, preprocessing(), labels=True)
    dataset[0]
    with pytest.raises(InputError, match="case1: the file is cut short"):
        dataset[1]
