"""SAMed's test of a volume to the voxel: a plain reading of its facts gives equal label maps for every orientation.

The facts: the array is transposed to z, y, x; intensities are clipped to -125 to 275 HU and scaled to 0-1; each slice
is zoomed to 224 squared by cubic splines, then to the network's size by cubic splines, repeated three times; the class
is the argmax of the softmax; the labels are zoomed back by the nearest. All by `scipy.ndimage.zoom`.
"""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from published_checkpoints import samed_file, samed_reading, segment_anything_sam
from scipy.ndimage import gaussian_filter, zoom

from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.inference.samed_slices import samed_labels
from ragsam.inference.volume_inferer import VolumeInferer

SIZE, FIRST = 64, 28
ORIENTATIONS = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]


def affine_of(codes):
    affine = np.zeros((4, 4))
    for axis, (world, way) in enumerate(nib.orientations.axcodes2ornt(codes).astype(int)):
        affine[world, axis] = 2 * way
    affine[3, 3] = 1
    return affine


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of a SAMed file of 8 classes, and the plain reading of its networks."""
    folder = tmp_path_factory.mktemp("samed")
    base = segment_anything_sam(SIZE)
    file = samed_file(base, classes=8, rank=4)
    torch.save(base.state_dict(), folder / "sam.pth")
    torch.save(file, folder / "samed.pth")
    command = ["import", "samed", folder / "samed.pth", "--base", folder / "sam.pth", "--image-size", SIZE]
    assert main([*map(str, command), "--card", "synapse8", "--run", str(folder / "run")]) == 0
    return folder / "run", lambda image: samed_reading(base, file, image)


def plain_reading(array, network):
    """Return the labels [i, j, k] of a file's array [i, j, k]."""
    volume = ((np.clip(array.transpose(2, 1, 0), -125, 275) + 125) / 400).astype(np.float32)
    prediction = np.zeros(volume.shape, np.uint8)
    for index, plane in enumerate(volume):
        rows, columns = plane.shape
        seen = zoom(plane, (FIRST / rows, FIRST / columns), order=3)
        seen = zoom(seen, (SIZE / FIRST, SIZE / FIRST), order=3)
        inputs = torch.from_numpy(seen).float()[None, None].repeat(1, 3, 1, 1)
        chosen = torch.softmax(network(inputs), dim=1).argmax(1)[0].numpy()
        prediction[index] = zoom(chosen, (rows / SIZE, columns / SIZE), order=0)
    return prediction.transpose(2, 1, 0)


def test_label_maps_equal_samed_s_for_every_orientation(run, tmp_path):
    path, network = run
    arrays = {}
    for seed, codes in enumerate(ORIENTATIONS):
        noise = np.random.default_rng(seed).normal(size=(21, 34, 2))
        arrays[codes] = (75 + 900 * gaussian_filter(noise, (2, 2, 0))).astype(np.int16)
        nib.save(nib.Nifti1Image(arrays[codes], affine_of(codes)), tmp_path / f"{codes}.nii")
    files = [str(tmp_path / f"{codes}.nii") for codes in ORIENTATIONS]
    options = ["--set", f"samed_size={FIRST}"]
    assert main(["segment", str(path), *files, "--output", str(tmp_path / "out"), *options]) == 0
    found = set()
    for codes, array in arrays.items():
        written = nib.load(tmp_path / "out" / f"{codes}.nii.gz")
        expected = plain_reading(array, network)
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected, err_msg=codes)
        np.testing.assert_allclose(written.affine, affine_of(codes), atol=1e-6)
        found |= set(np.unique(expected).tolist())
    assert len(found) > 3


def test_a_slice_by_hand():
    """4 pixels become 2 and then 4; what the network calls 1, the lower half, comes back as it lies."""
    seen = []

    def network(slices):
        seen.append(slices)
        organ = torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None].expand(4, 4)
        return torch.stack([organ * 0, organ])[None]

    plane = np.arange(16, dtype=np.float32).reshape(4, 4) / 15
    labels = samed_labels(plane, network, first_size=2, size=4)
    assert labels.tolist() == [[0] * 4] * 2 + [[1] * 4] * 2
    corners = seen[0][0, :, [0, 0, 3, 3], [0, 3, 0, 3]]
    torch.testing.assert_close(corners, torch.tensor([[0, 0.2, 0.8, 1.0]]).expand(3, 4))
    assert samed_labels(plane[:2], network, first_size=4, size=4).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"context_slices": 1}, "without context_slices"),
        ({"uncertainty": True}, "without uncertainty"),
        ({"mirror": True}, "without test_shift, test_mirror or test_scales"),
        ({"precision": "int8"}, "without precision int8"),
    ],
)
def test_what_samed_s_test_has_not_is_refused(options, told):
    with pytest.raises(InputError, match=f"samed_size: SAMed's test gives labels alone, {told}; switch one of"):
        VolumeInferer(32, samed_size=28, **{"context_slices": 0, **options})


def test_it_gives_no_logits_and_takes_no_neighbours(run, study, tmp_path):
    inferer = VolumeInferer(32, samed_size=28, context_slices=0)
    volume = torch.zeros(1, 1, 32, 32, 1)
    with pytest.raises(InputError, match="without retrieval"):
        inferer(volume, lambda slices: slices, supports=object())
    with pytest.raises(InputError, match="without probabilities"):
        inferer(volume, lambda slices: slices, probabilities=True)
    with pytest.raises(InputError, match="without ensembles, ranking or refinement"):
        next(inferer.slabs(volume[0], lambda slices: slices))
