"""The phantom: deterministic, complete, and the same anatomy however it is stored."""

import time

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.data.cards.load import load_card
from ragsam.data.checks.check_case import require_sound
from ragsam.data.datalist import load_datalist
from ragsam.data.phantom.shapes import Cut, Ellipsoid, Grown, Tube, Union, Waves, rotation
from ragsam.data.phantom.write import STORAGES, make_phantom, write_phantoms
from ragsam.errors import InputError

LABELS = load_card("phantom").labels


def centre(label, affine, organ):
    """Middle of an organ in world mm."""
    return affine[:3, :3] @ np.argwhere(label == LABELS[organ]).mean(axis=0) + affine[:3, 3]


@pytest.fixture(scope="module")
def patients():
    return [make_phantom(seed, storage=STORAGES[seed % 3]) for seed in range(9)]


def test_the_same_seed_gives_the_same_bytes():
    first, again, other = make_phantom(5), make_phantom(5), make_phantom(6)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert first[0].tobytes() != other[0].tobytes()


def test_every_organ_is_there_and_the_grid_is_as_promised(patients):
    for image, label, affine in patients:
        assert (image.dtype, label.dtype, affine.shape) == (np.int16, np.uint8, (4, 4))
        assert image.shape == label.shape
        assert max(image.shape[:2]) <= 80
        assert np.bincount(label.ravel(), minlength=14)[1:].min() >= 24
        assert label.max() == 13
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        assert np.all((spacing > (3.79, 3.79, 4.99)) & (spacing < (4.21, 4.21, 7.01)))


def test_anatomy_in_world_coordinates(patients):
    for _, label, affine in patients:
        where = {organ: centre(label, affine, organ) for organ in LABELS}
        right, forward, up = 0, 1, 2
        assert where["liver"][right] > where["spleen"][right] + 50
        assert where["right_kidney"][right] > where["left_kidney"][right] + 50
        assert where["right_adrenal_gland"][right] > where["left_adrenal_gland"][right] + 20
        assert where["inferior_vena_cava"][right] > where["aorta"][right] + 10
        assert where["gallbladder"][right] > where["stomach"][right] + 30
        assert where["stomach"][forward] > where["aorta"][forward] + 20
        assert where["esophagus"][up] > where["pancreas"][up] + 30
        assert where["right_adrenal_gland"][up] > where["right_kidney"][up] + 20
        assert where["left_adrenal_gland"][up] > where["left_kidney"][up] + 20


def test_hounsfield_values_are_those_of_ct(patients):
    for image, label, _ in patients:
        middle = {organ: np.median(image[label == value]) for organ, value in LABELS.items()}
        assert image.min() >= -1024
        assert np.mean(image < -900) > 0.1  # air around the patient
        assert 60 < middle["liver"] < 130
        assert middle["aorta"] > 140
        assert middle["gallbladder"] < middle["liver"] - 25
        assert middle["portal_and_splenic_vein"] > middle["pancreas"] + 20


def test_a_flipped_volume_is_the_canonical_one_stored_otherwise():
    image, label, affine = make_phantom(3)
    flipped, flipped_label, flipped_affine = make_phantom(3, storage="flipped")
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    assert nibabel.aff2axcodes(flipped_affine) != ("R", "A", "S")
    back = nibabel.as_closest_canonical(nibabel.Nifti1Image(flipped, flipped_affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), image)
    np.testing.assert_allclose(back.affine, affine, atol=1e-4)
    for organ in LABELS:
        np.testing.assert_allclose(
            centre(flipped_label, flipped_affine, organ), centre(label, affine, organ), atol=1e-3
        )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_oblique_volume_is_the_same_patient_on_a_turned_grid(seed):
    _, label, affine = make_phantom(seed)
    _, turned, turned_affine = make_phantom(seed, storage="oblique")
    axes = turned_affine[:3, :3] / np.linalg.norm(turned_affine[:3, :3], axis=0)
    angle = np.degrees(np.arccos((np.trace(axes) - 1) / 2))
    assert 8 <= angle <= 12
    for organ in ("liver", "left_kidney", "right_kidney", "spleen", "pancreas", "gallbladder"):
        np.testing.assert_allclose(centre(turned, turned_affine, organ), centre(label, affine, organ), atol=4)


def test_patients_differ_in_place_and_size(patients):
    volumes = [np.sum(label == LABELS["liver"]) * abs(np.linalg.det(affine[:3, :3])) for _, label, affine in patients]
    assert max(volumes) > 1.2 * min(volumes)
    middles = [np.argwhere(label > 0).mean(axis=0) / label.shape for _, label, _ in patients]
    assert np.ptp(middles, axis=0)[:2].min() > 0.08


@pytest.mark.parametrize(("seed", "storage"), [(-1, "canonical"), (0, "upside down")])
def test_wrong_requests(seed, storage):
    with pytest.raises(InputError, match="phantom: "):
        make_phantom(seed, storage=storage)


def test_written_phantoms_are_sound_and_the_same_each_time(tmp_path):
    path = write_phantoms(tmp_path / "a b ü", training=4, validation=1, test=3, seed=2)
    datalist = load_datalist(path)
    assert datalist.card == "phantom"
    assert {name: len(part) for name, part in datalist.sections.items()} == {"training": 4, "validation": 1, "test": 3}
    assert datalist.section("training")[0].patient == "phantom-000"
    for cases in datalist.sections.values():
        require_sound(cases, load_card("phantom"))
    codes = [
        nibabel.aff2axcodes(nibabel.load(case.image).affine) for part in datalist.sections.values() for case in part
    ]
    assert sum(code != ("R", "A", "S") for code in codes) == 2
    again = write_phantoms(tmp_path / "again", training=4, validation=1, test=3, seed=2)
    for file in sorted(path.parent.rglob("*.*")):
        assert file.read_bytes() == (again.parent / file.relative_to(path.parent)).read_bytes()
    assert not list(path.parent.rglob(".tmp*"))


@pytest.mark.parametrize("counts", [{"training": -1}, {"training": 0, "validation": 0, "test": 0}, {"test": 1000}])
def test_wrong_numbers_of_patients(tmp_path, counts):
    with pytest.raises(InputError, match="ask for 1 to 1000"):
        write_phantoms(tmp_path, **counts)


def test_a_volume_is_made_fast():
    make_phantom(0)
    start = time.process_time()
    make_phantom(1)
    assert time.process_time() - start < 1.0  # about 0.2 on one idle core


def columns(*points):
    return np.array(points, np.float32).T


def test_distances_worked_out_by_hand():
    ball = Ellipsoid((0, 0, 0), (10, 10, 10), np.eye(3))
    np.testing.assert_allclose(ball.distance(columns((13, 0, 0), (0, 4, 0), (0, 0, 10))), [3, -6, 0], atol=1e-3)
    tube = Tube.along([(0, 0, 0), (0, 0, 20)], (2, 4))
    # Beside the middle the radius is 3; beyond the end it is a ball of radius 4.
    np.testing.assert_allclose(tube.distance(columns((5, 0, 10), (0, 0, 27))), [2, 3], atol=1e-3)
    half = Cut(ball, (0, 0, 0), (2, 0, 0))  # what lies at x > 0 is gone
    np.testing.assert_allclose(half.distance(columns((4, 0, 0), (-9, 0, 0))), [4, -1], atol=1e-3)
    np.testing.assert_allclose(Grown(ball, 2).distance(columns((13, 0, 0))), [1], atol=1e-3)
    pair = Union([ball, Ellipsoid((40, 0, 0), (10, 10, 10), np.eye(3))], 8)
    np.testing.assert_allclose(pair.distance(columns((13, 0, 0), (27, 0, 0))), [3, 3], atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_no_point_of_a_shape_lies_outside_its_box(seed):
    rng = np.random.default_rng(seed)
    turn = rotation(*rng.uniform(-180, 180, 3))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    blob = Ellipsoid(rng.uniform(-20, 20, 3), rng.uniform(3, 20, 3), turn)
    tube = Tube.along(rng.uniform(-30, 30, (4, 3)), rng.uniform(2, 8, 4))
    waves = Waves.draw(rng, amplitude=1.0, wavelength_mm=40)
    points = rng.uniform(-90, 90, (3, 20000)).astype(np.float32)
    for shape in (blob, tube, Union([blob, tube]), Grown(tube, 3, waves)):
        low, high = shape.box()
        inside = points[:, shape.distance(points) < -1.0]
        assert np.all((inside >= low[:, None] - 1) & (inside <= high[:, None] + 1))
