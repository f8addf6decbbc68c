"""Label volumes for scoring and pictures: the datalist's label map leads from a reference's values to the card's."""

import nibabel as nib
import numpy as np
import pytest

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import pairs_from_cases
from ragsam.evaluation.read_labels import read_labels
from ragsam.evaluation.score_cases import evaluate_cases
from ragsam.report.views import view_labels

MAP = {7: 1, 9: 2, 5: 0}


def save(path, values, dtype=np.uint8):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.array(values, dtype).reshape(2, 2, 2), np.eye(4)), path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_become_the_cards(tmp_path, dtype):
    path = save(tmp_path / "a.nii.gz", [0, 7, 7, 9, 5, 0, 9, 0], dtype)
    expected = [0, 1, 1, 2, 0, 0, 2, 0]
    assert read_labels(path, "c", label_map=MAP).labels.ravel().tolist() == expected
    assert view_labels(path, "c", label_map=MAP).array.ravel().tolist() == expected
    assert read_labels(path, "c").labels.ravel().tolist() == [0, 7, 7, 9, 5, 0, 9, 0]


def test_a_value_the_map_lacks_is_refused_even_if_the_card_has_it(tmp_path):
    path = save(tmp_path / "a.nii.gz", [0, 7, 1, 2, 0, 0, 0, 0])
    with pytest.raises(InputError, match=r"c: label 1, 2 is not in the datalist's label_map; "):
        read_labels(path, "c", label_map=MAP)


def test_only_the_reference_is_mapped(tmp_path):
    """The prediction has the card's values: all right at every voxel."""
    reference = save(tmp_path / "label" / "c.nii.gz", [0, 7, 7, 9, 5, 0, 9, 0])
    save(tmp_path / "masks" / "c.nii.gz", [0, 1, 1, 2, 0, 0, 2, 0])
    pairs = pairs_from_cases([Case("c", "p", reference, reference, label_map=MAP)], tmp_path / "masks")
    found = evaluate_cases(pairs, load_card("hippocampus"))
    assert found["faults"] == []
    assert [organ["dice"] for organ in found["cases"][0]["organs"].values()] == [1.0, 1.0]
