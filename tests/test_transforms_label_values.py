"""Label files with values of their own, turned into the card's before anything else is done."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from test_slices import CARD, case_of, make, write_case

from ragsam.data.volumes import VolumeDataset
from ragsam.transforms import preprocessing
from ragsam.transforms.label_values import MapLabelsd


def test_values_by_hand():
    """3 becomes 1, 1 becomes 2 and 9 background; what is stored a hair off is meant whole."""
    label = MetaTensor(torch.tensor([[[0.0, 1.0, 2.9999, 9.0]]]))
    item = MapLabelsd()({"label": label, "label_map": {3: 1, 1: 2, 9: 0}, "case": "a"})
    assert item["label"].tolist() == [[[0, 2, 1, 0]]]
    assert set(item) == {"label", "case"}
    assert torch.equal(item["label"].affine, label.affine)


@pytest.mark.parametrize("item", [{"label_map": None}, {}])
def test_without_a_map_nothing_changes(item):
    label = torch.tensor([[[0.0, 7.0]]])
    assert MapLabelsd()({**item, "label": label})["label"] is label
    assert MapLabelsd()({**item, "image": label}) == {"image": label}


def test_slices_and_volumes_hold_the_cards_values(tmp_path):
    """The same volume with its label stored as 11 and 4, for organs 1 and 2."""
    write_case(tmp_path, "a", (12, 12, 4), "LPS", (1, 2))
    plain = case_of(tmp_path, "a", "1")
    label = nib.load(plain.label)
    other = np.array([0, 11, 4], np.uint8)[np.asarray(label.dataobj)]
    nib.save(nib.Nifti1Image(other, label.affine), tmp_path / "other.nii.gz")
    mapped = replace(plain, label=tmp_path / "other.nii.gz", label_map={11: 1, 4: 2})
    for index in range(4):
        assert torch.equal(make([plain])[index]["label"], make([mapped])[index]["label"])
    volumes = [VolumeDataset([case], preprocessing(), card=CARD, labels=True)[0] for case in (plain, mapped)]
    assert torch.equal(volumes[0]["label"].as_tensor(), volumes[1]["label"].as_tensor().to(volumes[0]["label"].dtype))
    assert "label_map" not in volumes[1]
