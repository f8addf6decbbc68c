"""Several runs averaged, and the maps: on the image's own grid, whatever axis a run slices."""

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.api.segment import segment_with_run
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.inference import ensemble
from ragsam.inference.ensemble import Ensemble
from ragsam.networks.checkpoints import load_weights, save_weights

ORGANS = ("anterior", "posterior")


@pytest.fixture(scope="module")
def coronal(run, tmp_path_factory):
    """The run again, taken for one of coronal slices: what it says differs, and that is enough here."""
    folder = tmp_path_factory.mktemp("coronal") / "run"
    (folder / "configs").mkdir(parents=True)
    for name in ("inference.yaml", "metadata.json", "logging.conf", "card.yaml"):
        text = (run / "configs" / name).read_text()
        (folder / "configs" / name).write_text(text.replace("\nslice_axis: 2", "\nslice_axis: 1"))
    state, about = load_weights(run / "models" / "model.safetensors")
    about["preparation"]["slice_axis"] = 1
    save_weights(folder / "models" / "model.safetensors", state, about)
    return folder


def voxels(path):
    return np.asarray(nib.load(path).get_fdata(dtype=np.float32))


def chances_of(folder, case):
    """Return the probabilities of all classes [K + 1, X, Y, Z], of the organs' maps."""
    organs = np.stack([voxels(folder / "probabilities" / case / f"{organ}.nii.gz") for organ in ORGANS])
    return np.concatenate([1 - organs.sum(0, keepdims=True), organs])


def test_runs_of_two_axes_are_averaged_where_their_maps_lie(run, coronal, study, tmp_path, capsys):
    alone = {"axial": run, "coronal": coronal}
    for name, one in alone.items():
        segment_with_run(one, [study], tmp_path / name, retrieval=False, probabilities=True)
    arguments = ["segment", run, study, "--output", tmp_path / "both", "--ensemble", coronal, "--no-retrieval"]
    assert main([*map(str, arguments), "--uncertainty", "--probabilities"]) == 0
    for case in load_datalist(study).section("test"):
        found = [chances_of(tmp_path / name, case.case) for name in alone]
        mean = np.mean(found, 0)
        assert np.abs(found[0] - found[1]).max() > 0.3  # the two do not say the same
        np.testing.assert_allclose(chances_of(tmp_path / "both", case.case), mean, atol=0.01)
        labels, best = voxels(tmp_path / "both" / f"{case.case}.nii.gz"), np.sort(mean, axis=0)
        clear = best[-1] - best[-2] > 0.02
        np.testing.assert_array_equal(labels[clear], mean.argmax(0)[clear])
        entropy = -(mean * np.log(np.clip(mean, 1e-9, 1))).sum(0) / np.log(3)
        found = nib.load(tmp_path / "both" / "uncertainty" / f"{case.case}.nii.gz")
        np.testing.assert_allclose(found.get_fdata(), entropy, atol=0.05)
        np.testing.assert_allclose(found.affine, nib.load(case.image).affine, atol=1e-5)
        assert found.get_data_dtype() == np.uint8


def test_a_run_with_itself_is_itself(run, study, segmented, tmp_path):
    """Bank and retrieval included: each run looks up its own neighbours."""
    segment_with_run(run, [study], tmp_path, ensemble=[run])
    for case in load_datalist(study).section("test"):
        one, other = (voxels(folder / f"{case.case}.nii.gz") for folder in (segmented, tmp_path))
        assert (one != other).mean() < 1e-3  # the mean is kept in 16 bits


def test_the_mean_by_hand(monkeypatch):
    """Two slabs of axial slices, and a coronal run: [K + 1, H, W, D] is R, A, S there and R, S, A here."""
    monkeypatch.setattr(ensemble, "SLAB", 2)
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(3, 4, 5, 3, generator=draw), torch.randn(3, 4, 3, 5, generator=draw)

    class Coronal:
        def axcodes(self, case):
            return "RSA"

        def slabs(self, case):
            assert case == "x"
            for start in (0, 3):
                yield slice(start, min(start + 3, 5)), theirs[..., start : start + 3].permute(3, 0, 1, 2)

    handler = Ensemble([], [], card=load_card("hippocampus"), device="cpu")
    handler.members = [Coronal()]
    slabs = [(slice(0, 2), ours[..., :2].permute(3, 0, 1, 2)), (slice(2, 3), ours[..., 2:].permute(3, 0, 1, 2))]
    found = list(handler.average("x", iter(slabs), torch.zeros(1, 4, 5, 3)))
    assert [where for where, _ in found] == [slice(0, 2), slice(2, 3)]
    mean = torch.cat([logits for _, logits in found]).exp().permute(1, 2, 3, 0)
    expected = (ours.softmax(0) + theirs.softmax(0).permute(0, 1, 3, 2)) / 2
    torch.testing.assert_close(mean, expected, atol=1e-3, rtol=0)


def test_runs_of_one_axis_are_averaged_slab_by_slab():
    """Nothing of the next slab is asked for before the first is given: no volume of all classes stands."""
    draw, asked = torch.Generator().manual_seed(0), []
    ours, theirs = (torch.randn(3, 2, 4, 5, generator=draw) for _ in range(2))

    def slabs(name, logits):
        for number in range(3):
            asked.append((name, number))
            yield slice(number, number + 1), logits[number : number + 1]

    class Axial:
        def axcodes(self, case):
            return "RAS"

        def slabs(self, case):
            return slabs("theirs", theirs)

    handler = Ensemble([], [], card=load_card("hippocampus"), device="cpu")
    handler.members = [Axial()]
    found = handler.average("x", slabs("ours", ours), torch.zeros(1, 4, 5, 3))
    where, first = next(found)
    assert (where, asked) == (slice(0, 1), [("ours", 0), ("theirs", 0)])
    mean = torch.cat([first, *(logits for _, logits in found)]).exp()
    torch.testing.assert_close(mean, (ours.softmax(1) + theirs.softmax(1)) / 2)
    handler.members = [Axial()] * 4  # their volumes, 3 x 4 bytes, would take more than a mean, 2 x 3
    mean = torch.cat([logits for _, logits in handler.average("x", slabs("ours", ours), torch.zeros(1, 4, 5, 3))]).exp()
    torch.testing.assert_close(mean, (ours.softmax(1) + 4 * theirs.softmax(1)) / 5, atol=3e-3, rtol=0)


def test_runs_that_cannot_be_averaged_are_refused(run, coronal, study, tmp_path):
    with pytest.raises(InputError, match="nowhere: not a run"):
        segment_with_run(run, [study], tmp_path / "out", ensemble=[tmp_path / "nowhere"], retrieval=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "models").symlink_to(coronal / "models")
    (other / "configs").mkdir()
    for name in ("inference.yaml", "card.yaml"):
        text = (coronal / "configs" / name).read_text()
        (other / "configs" / name).write_text(text.replace("name: posterior", "name: tail"))
    with pytest.raises(InputError, match="made for labels anterior, posterior, the run has anterior, tail"):
        segment_with_run(run, [study], tmp_path / "out", ensemble=[other], retrieval=False)
    assert not list(tmp_path.glob("out/*.nii.gz"))


@pytest.mark.parametrize(
    ("options", "told"),
    [({"epochs": 3}, "--set epochs: no option of segmenting"), ({"test_mirror": 1}, "test_mirror: 1 is not true or")],
)
def test_knobs_of_other_things_are_refused(run, study, tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        segment_with_run(run, [study], tmp_path, options=options)


def test_knobs_hold_for_one_time(run, study, segmented, tmp_path):
    before = (run / "configs" / "inference.yaml").read_bytes()
    arguments = ["segment", str(run), str(study), "--output", str(tmp_path), "--set", "test_shift=2"]
    assert main(arguments) == 0
    assert (run / "configs" / "inference.yaml").read_bytes() == before
    changed = [
        (voxels(tmp_path / f"{case.case}.nii.gz") != voxels(segmented / f"{case.case}.nii.gz")).mean()
        for case in load_datalist(study).section("test")
    ]
    assert 0 < max(changed) < 0.05
