"""Label volumes come back on the input's own grid, and lie where the anatomy lies, however it is stored."""

from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from ignite.engine import Engine, Events
from small_study import SPACING_MM, affine_of, anatomy, files_below, flipped, rotation, save_volume, with_numbers

from ragsam.api.images import read_image
from ragsam.api.index import index_run
from ragsam.api.result import Result
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.data.datalist import load_datalist
from ragsam.inference.volume_writer import LabelVolumeWriter, on_grid_of, write_label_volume, written_names
from ragsam.io.read_volume import open_volume
from ragsam.metrics.overlap import dice

FLIPS = [axes for count in (1, 2, 3) for axes in combinations((0, 1, 2), count)]


@pytest.fixture(scope="module")
def windowed(study, tmp_path_factory):
    """A run that resamples in the plane, by another factor in x than in y, and sees 40 x 26 pixels through windows."""
    options = {"spacing_mm": [0.8, 1.25], "image_size": 16, "epochs": 1, "steps_per_epoch": 24, "batch_size": 8}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("windowed") / "run", {**options, "seed": 3})
    index_run(run)
    return run


def labels_of(path):
    volume = nib.load(path)
    assert volume.get_data_dtype() == np.uint8
    return np.asarray(volume.dataobj), volume


def assert_same_grid(made, given):
    """The label carries the image's own header: both codes, both matrices, voxel sizes and unit, to the bit."""
    assert made.shape == given.shape[:3]
    np.testing.assert_allclose(made.affine, given.header.get_best_affine(), rtol=0)
    np.testing.assert_allclose(made.header["pixdim"][:4], given.header["pixdim"][:4], rtol=0)
    for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        np.testing.assert_allclose(made.header[name], given.header[name], err_msg=name, rtol=0)
    np.testing.assert_allclose(made.header.get_qform(), given.header.get_qform(), rtol=0)


def test_label_volumes_lie_on_the_input_grid_and_on_the_organs(segmented, study):
    cases = load_datalist(study).section("test")
    volumes = [f"{case.case}.nii.gz" for case in cases]
    assert files_below(segmented) == with_numbers([*volumes, "provenance.json", "retrieval.json"])
    for case in cases:
        labels, made = labels_of(segmented / f"{case.case}.nii.gz")
        assert_same_grid(made, nib.load(case.image))
        truth = np.asarray(nib.load(case.label).dataobj)
        for organ in (1, 2):
            assert dice(truth == organ, labels == organ) > 0.6, (case.case, organ)
            places = [made.affine[:3, :3] @ np.argwhere(mask == organ).mean(0) for mask in (labels, truth)]
            assert np.linalg.norm(places[0] - places[1]) < max(SPACING_MM), (case.case, organ)  # a flip is over 10 mm


def test_same_anatomy_stored_otherwise_gets_the_same_labels_in_the_world(run, tmp_path):
    image, affine = anatomy(77)[0], affine_of()
    stored = {"plain": (image, affine), **{f"flip{axes}": flipped(image, affine, axes) for axes in FLIPS}}
    order = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # index (z, x, y) to (x, y, z)
    turned = np.ascontiguousarray(image.transpose(2, 0, 1)), affine @ np.linalg.inv(order)
    stored["turned"] = turned
    stored["turned and flipped"] = flipped(*turned, (0, 1))
    paths = [save_volume(tmp_path / "in" / f"{name}.nii.gz", *volume) for name, volume in stored.items()]
    segment_with_run(run, paths, tmp_path / "out")
    plain = labels_of(tmp_path / "out" / "plain.nii.gz")[0]
    assert set(np.unique(plain)) == {0, 1, 2}
    for path in paths:
        labels, made = labels_of(tmp_path / "out" / path.name)
        assert_same_grid(made, nib.load(path))
        upright = nib.as_closest_canonical(nib.Nifti1Image(labels, made.affine))
        np.testing.assert_allclose(upright.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(upright.dataobj), plain, err_msg=path.name)


def test_turned_table_changes_no_label(run, tmp_path):
    """The voxels of an oblique scan are what they are: only where they lie differs, and that is kept."""
    image = anatomy(78)[0]
    straight = save_volume(tmp_path / "straight.nii.gz", image, affine_of())
    oblique = save_volume(tmp_path / "oblique.nii.gz", image, affine_of(rotation(25, -30)))
    segment_with_run(run, [straight, oblique], tmp_path / "out")
    labels, made = labels_of(tmp_path / "out" / "oblique.nii.gz")
    assert_same_grid(made, nib.load(oblique))
    np.testing.assert_array_equal(labels, labels_of(tmp_path / "out" / "straight.nii.gz")[0])


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4), (0, 0)], ids=["sform", "qform", "both", "neither"])
def test_grid_is_kept_by_whichever_form_the_input_has(run, tmp_path, codes):
    volume = nib.Nifti1Image(anatomy(79)[0], affine_of(rotation(0, 15) if any(codes) else None))
    volume.set_sform(volume.affine, code=codes[0])
    volume.set_qform(volume.affine, code=codes[1])
    nib.save(volume, tmp_path / "x.nii")
    segment_with_run(run, [tmp_path / "x.nii"], tmp_path / "out")
    given = nib.load(tmp_path / "x.nii")
    assert (int(given.header["sform_code"]), int(given.header["qform_code"])) == codes
    assert_same_grid(labels_of(tmp_path / "out" / "x.nii.gz")[1], given)


def placed_by_itk(path):
    image = sitk.ReadImage(str(path))
    return np.array([*image.GetOrigin(), *image.GetDirection(), *image.GetSpacing()])


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (2, 4)])
def test_nibabel_and_itk_place_label_and_image_alike(tmp_path, codes, unit):
    """Where the codes are 0, and where qform and sform lie 40 degrees apart, the two differ on the image itself."""
    per_mm = {0: 1.0, 1: 1e-3, 2: 1.0, 3: 1e3}[unit]
    scale = np.diag([per_mm, per_mm, per_mm, 1])
    image = nib.Nifti1Image(np.zeros((5, 6, 7, 1), np.int16), None)
    image.set_sform(scale @ affine_of(rotation(0, 15)), code=codes[0])
    image.set_qform(scale @ affine_of(rotation(0, -25)), code=codes[1])
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "x.nii")
    write_label_volume(tmp_path / "y.nii.gz", np.ones((5, 6, 7), np.uint8), tmp_path / "x.nii")
    made, given = nib.load(tmp_path / "y.nii.gz"), nib.load(tmp_path / "x.nii")
    assert_same_grid(made, given)
    plain = nib.Nifti1Image(
        np.zeros((5, 6, 7), np.int16), None, given.header
    )  # ITK reads the image as four-dimensional
    nib.save(plain, tmp_path / "z.nii")
    np.testing.assert_array_equal(placed_by_itk(tmp_path / "y.nii.gz"), placed_by_itk(tmp_path / "z.nii"))


def test_an_image_in_metres_gives_volumes_in_millilitres(tmp_path):
    """8 voxels of 2 by 2 by 5 mm are 0.16 ml."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag([2e-3, 2e-3, 5e-3, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "x.nii")
    for opened in (open_volume(tmp_path / "x.nii", "x"), read_image(image)[1]):
        np.testing.assert_allclose(opened.affine, np.diag([2, 2, 5, 1]), rtol=1e-6)
        labels = on_grid_of(opened, np.ones((2, 2, 2), np.uint8), "x")
        assert_same_grid(labels, image)
        assert Result("x", labels, {"a": 1}).volumes_ml["a"] == pytest.approx(0.16)


def test_sform_wins_where_the_qform_differs(run, tmp_path, caplog):
    volume = nib.Nifti1Image(anatomy(79)[0], None)
    volume.set_sform(affine_of(rotation(0, 15)), code=1)
    volume.set_qform(affine_of(rotation(0, -40)), code=1)
    nib.save(volume, tmp_path / "x.nii.gz")
    segment_with_run(run, [tmp_path / "x.nii.gz"], tmp_path / "out")
    assert caplog.messages.count("x: qform and sform differ; the sform is used") == 1
    made = labels_of(tmp_path / "out" / "x.nii.gz")[1]
    np.testing.assert_allclose(made.get_qform(), affine_of(rotation(0, -40)), atol=1e-5)
    np.testing.assert_allclose(made.get_sform(), affine_of(rotation(0, 15)), atol=1e-5)


def test_single_slice_is_segmented_and_its_spacing_kept(run, tmp_path):
    image, label = (array[:, :, 3:4] for array in anatomy(80))
    affine = affine_of() @ np.diag([1, 1, 7 / 3, 1])
    path = save_volume(tmp_path / "slice.nii.gz", image, affine)
    segment_with_run(run, [path], tmp_path / "out")
    labels, made = labels_of(tmp_path / "out" / "slice.nii.gz")
    assert labels.shape == (32, 32, 1)
    assert made.header.get_zooms() == (1.0, 1.0, 7.0)
    assert dice(label == 1, labels == 1) > 0.5


def test_voxels_scaled_by_the_header_are_read_scaled(run, tmp_path):
    image = anatomy(81)[0]
    plain = save_volume(tmp_path / "plain.nii.gz", image, affine_of())
    scaled = save_volume(tmp_path / "scaled.nii", (-2 * image).astype(np.int16), affine_of())
    content = bytearray(scaled.read_bytes())
    content[112:120] = np.array([-0.5, 0], "<f4").tobytes()  # scl_slope, scl_inter: unread, bright would be dark
    scaled.write_bytes(content)
    np.testing.assert_array_equal(np.asarray(nib.load(scaled).dataobj), image)
    segment_with_run(run, [plain, scaled], tmp_path / "out")
    one, other = (labels_of(tmp_path / "out" / f"{name}.nii.gz")[0] for name in ("plain", "scaled"))
    assert one.any()
    np.testing.assert_array_equal(one, other)


def test_slices_larger_than_the_network_are_seen_through_windows(windowed, study, tmp_path):
    segment_with_run(windowed, [study], tmp_path / "out")
    for case in load_datalist(study).section("test"):
        labels, made = labels_of(tmp_path / "out" / f"{case.case}.nii.gz")
        assert_same_grid(made, nib.load(case.image))
        truth = np.asarray(nib.load(case.label).dataobj)
        assert dice(truth == 1, labels == 1) > 0.5, case.case


def test_resampled_and_windowed_labels_follow_the_flip(windowed, tmp_path):
    image, affine = anatomy(82)[0], affine_of()
    paths = [save_volume(tmp_path / "plain.nii.gz", image, affine)]
    paths += [save_volume(tmp_path / f"flip{axes}.nii.gz", *flipped(image, affine, axes)) for axes in FLIPS]
    segment_with_run(windowed, paths, tmp_path / "out", retrieval=False)
    plain = labels_of(tmp_path / "out" / "plain.nii.gz")[0]
    assert plain.any()
    for path in paths:
        labels, made = labels_of(tmp_path / "out" / path.name)
        assert_same_grid(made, nib.load(path))
        upright = nib.as_closest_canonical(nib.Nifti1Image(labels, made.affine))
        # Resampling rounds its coordinates, so a voxel on the very border may go either way.
        assert (np.asarray(upright.dataobj) != plain).mean() < 2e-3, path.name


def test_labels_of_another_grid_are_never_written(study, tmp_path):
    case = load_datalist(study).section("test")[0]
    with pytest.raises(ValueError, match=r"labels are \(4, 4, 2\), the image is \(32, 32, 6\)"):
        write_label_volume(tmp_path / "x.nii.gz", np.zeros((4, 4, 2), np.uint8), case.image)
    assert files_below(tmp_path) == []


def test_all_is_written_when_it_completes_and_what_cannot_be_fails_the_evaluator(study, tmp_path):
    cases = {case.case: case for case in load_datalist(study).section("test")}
    names = list(cases)[:2]
    shape = nib.load(cases[names[0]].image).shape

    def evaluator(folder, shapes):
        engine = Engine(lambda *_: [{"pred": torch.full((1, *shapes.pop(0)), 2.0)}])
        LabelVolumeWriter(folder, {name: cases[name].image for name in names}).attach(engine)
        return engine

    present = []
    engine = evaluator(tmp_path / "whole", [shape, shape])
    engine.add_event_handler(Events.COMPLETED, lambda _: present.extend(files_below(tmp_path / "whole")))
    engine.run([[{"case": name}] for name in names])
    assert present == sorted(f"{name}.nii.gz" for name in names)
    assert (labels_of(tmp_path / "whole" / present[0])[0] == 2).all()
    with pytest.raises(ValueError, match=r"labels are \(4, 4, 2\)"):
        evaluator(tmp_path / "first", [(4, 4, 2), shape]).run([[{"case": name}] for name in names])
    with pytest.raises(ValueError, match=r"labels are \(4, 4, 2\)"):
        evaluator(tmp_path / "last", [shape, (4, 4, 2)]).run([[{"case": name}] for name in names])
    assert files_below(tmp_path / "last") == [f"{names[0]}.nii.gz"]


def test_maps_of_organs_whose_names_clean_alike_are_written_apart():
    assert written_names("c", ["lobe 1/2", "lobe 1.2"], probabilities=True) == [
        "c.nii.gz",
        "probabilities/c/lobe_1_2.nii.gz",
        "probabilities/c/lobe_1_2_2.nii.gz",
    ]
