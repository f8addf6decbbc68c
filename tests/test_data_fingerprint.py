"""The fingerprint of a data set: the same for the same volumes, and for no others."""

import nibabel as nib
import numpy as np
import pytest
from small_study import affine_of, save_volume

from ragsam.data.data_fingerprint import data_fingerprint
from ragsam.data.datalist import Case
from ragsam.errors import InputError


@pytest.fixture
def cases(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number, patient in enumerate(("anna", "anna", "bert")):
        image, label = rng.integers(0, 99, (5, 4, 3), np.int16), rng.integers(0, 3, (5, 4, 3), np.uint8)
        paths = [save_volume(tmp_path / f"{number}-{part}.nii.gz", array, affine_of())
                 for part, array in (("image", image), ("label", label))]  # fmt: skip
        made.append(Case(f"case{number}", patient, *paths))
    return made


def test_order_names_and_compression_do_not_matter(cases, tmp_path):
    found = data_fingerprint(cases)
    assert (found["volumes"], found["patients"]) == (3, 2)
    first = cases[0]
    plain = tmp_path / "renamed.nii"
    nib.save(nib.load(first.image), plain)
    again = [cases[2], Case("other", "anna", plain, first.label), cases[1]]
    assert data_fingerprint(again) == found


def test_one_voxel_of_an_image_or_label_matters(cases, tmp_path):
    found = data_fingerprint(cases)["sha256"]
    for part in ("image", "label"):
        volume = nib.load(getattr(cases[1], part))
        array = np.array(volume.dataobj)
        array[1, 2, 1] += 1
        changed = save_volume(tmp_path / f"changed-{part}.nii.gz", array, volume.affine)
        files = {"image": cases[1].image, "label": cases[1].label, part: changed}
        assert data_fingerprint([cases[0], Case("case1", "anna", **files), cases[2]])["sha256"] != found
    assert data_fingerprint(cases[:2])["sha256"] != found
    without = Case("case1", "anna", cases[1].image)
    assert data_fingerprint([cases[0], without, cases[2]])["sha256"] != found


def test_no_case_has_a_fingerprint_too_and_a_lost_file_is_told(cases, tmp_path):
    assert data_fingerprint([])["volumes"] == 0
    with pytest.raises(InputError, match="case9"):
        data_fingerprint([*cases, Case("case9", "cleo", tmp_path / "lost.nii.gz")])
