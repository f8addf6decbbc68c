"""Volumes with faults: rows 1-13 of the faults, on real NIfTI files."""

import gzip
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.data.cards.load import load_card
from ragsam.data.checks.check_case import examine_case, read_volume_checked, require_sound
from ragsam.data.checks.survey import survey
from ragsam.data.datalist import Case, Datalist
from ragsam.errors import InputError

CARD = load_card("hippocampus")  # labels 1 and 2
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def check_case(case, card):
    return list(examine_case(case, card).faults)


def save(path, array, affine=AFFINE, **header):
    image = nibabel.Nifti1Image(array, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.fixture
def volume():
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@pytest.fixture
def case(tmp_path, volume):
    label = np.zeros(volume.shape, np.uint8)
    label[1, 1, 1], label[2, 2, 2] = 1, 2
    image = save(tmp_path / "MÜLLER_image.nii.gz", volume)
    return Case("c1", "p1", image, save(tmp_path / "MÜLLER_label.nii.gz", label))


def only_fault(case):
    faults = check_case(case, CARD)
    assert len(faults) == 1, faults
    assert faults[0].startswith("c1")
    assert "; " in faults[0]
    assert "\n" not in faults[0]
    assert "MÜLLER" not in faults[0]  # file names may hold a patient's name
    return faults[0]


def test_a_sound_case_has_no_fault(case):
    assert check_case(case, CARD) == []
    require_sound([case], CARD)


def test_a_case_without_label_has_no_fault(case):
    assert check_case(Case("c1", "p1", case.image), CARD) == []


def test_a_single_slice_is_sound(case, volume):
    save(case.image, volume[:, :, :1])
    save(case.label, np.zeros((4, 5, 1), np.uint8))
    assert check_case(case, CARD) == []


def test_nan_and_inf_are_counted(case, volume):
    bad = volume.astype(np.float32)
    bad[0, 0, 0], bad[1, 1, 1], bad[2, 2, 2] = np.nan, np.inf, -np.inf
    save(case.image, bad)
    assert "3 voxels are NaN or infinite" in only_fault(case)


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5, 6, 1, 2), (4, 5)])
def test_not_three_dimensional(case, shape):
    save(case.image, np.zeros(shape, np.int16))
    assert "not three-dimensional" in only_fault(case)


def test_colour_voxels(case):
    save(case.image, np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert "several channels" in only_fault(case)


def test_no_slices(case):
    save(case.image, np.zeros((4, 5, 0), np.int16))
    assert "no slices" in only_fault(case)


def test_missing_empty_and_foreign_files(case):
    case.image.write_bytes(b"")
    assert "is empty" in only_fault(case)
    case.image.write_bytes(b"not a volume at all" * 40)
    assert "not packed by gzip" in only_fault(case)
    case.image.write_bytes(gzip.compress(b"not a volume at all" * 40))
    assert "cannot be read as a volume" in only_fault(case)
    case.image.unlink()
    assert "no such file" in only_fault(case)
    case.image.mkdir()
    assert "no DICOM images in the folder" in only_fault(case)


def test_image_and_label_faults_are_both_told(case):
    case.image.unlink()
    case.label.unlink()
    first, second = check_case(case, CARD)
    assert first.startswith("c1: ")
    assert second.startswith("c1 (label): ")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_truncated_gzip(case, share):
    rng = np.random.default_rng(0)
    save(case.image, rng.integers(0, 1000, size=(4, 5, 6), dtype=np.int16))
    whole = case.image.read_bytes()
    case.image.write_bytes(whole[: int(len(whole) * share)])
    assert "copy it again" in only_fault(case)


def test_gzip_that_lost_only_its_checksum(case):
    case.image.write_bytes(case.image.read_bytes()[:-4])
    assert "cut short" in only_fault(case)


def test_a_well_packed_file_with_voxels_missing(case):
    case.image.write_bytes(gzip.compress(gzip.decompress(case.image.read_bytes())[:-10]))
    assert "voxels are missing" in only_fault(case)


def test_truncated_plain_nifti(tmp_path, volume):
    path = save(tmp_path / "a.nii", volume)
    read_volume_checked(path, "c1")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="c1: the file is cut short"):
        read_volume_checked(path, "c1")


def test_a_pack_that_unpacks_to_far_more_than_its_header_says(case):
    case.image.write_bytes(gzip.compress(gzip.decompress(case.image.read_bytes()) + bytes(1 << 25)))
    assert "more than its header says" in only_fault(case)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_that_matters_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "a.nii.gz"
    save(path, np.random.default_rng(1).integers(0, 9, size=(4, 5, 6), dtype=np.int16))
    content = bytearray(path.read_bytes())
    whole = gzip.decompress(content)
    # The first 10 bytes are gzip's header, whose time and system fields no checksum covers.
    at = data.draw(st.integers(10, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    try:  # a flip among the unused codes of the packing changes nothing
        harmless = gzip.decompress(content) == whole
    except (EOFError, OSError, zlib.error):
        harmless = False
    if harmless:
        read_volume_checked(path, "c1")
    else:
        with pytest.raises(InputError, match="c1: "):
            read_volume_checked(path, "c1")


def test_the_flipped_bit_that_nibabel_reads_silently_is_found(case):
    rng = np.random.default_rng(2)
    save(case.image, rng.integers(0, 30000, size=(40, 40, 40), dtype=np.int16))  # hardly packs: stored as it is
    content = bytearray(case.image.read_bytes())
    content[len(content) // 2] ^= 1
    case.image.write_bytes(bytes(content))
    assert "copy it again" in only_fault(Case("c1", "p1", case.image))


def test_a_header_that_promises_the_impossible_costs_no_memory(case):
    raw = bytearray(gzip.decompress(case.image.read_bytes()))
    raw[40:56] = np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], "<i2").tobytes()
    case.image.write_bytes(gzip.compress(bytes(raw)))
    tracemalloc.start()
    fault = only_fault(case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "above 2**31" in fault
    assert peak < 50e6


def test_a_large_promise_under_the_limit_costs_no_memory_either(case):
    raw = bytearray(gzip.decompress(case.image.read_bytes()))
    raw[40:56] = np.array([3, 1000, 1000, 1000, 1, 1, 1, 1], "<i2").tobytes()
    case.image.write_bytes(gzip.compress(bytes(raw)))
    tracemalloc.start()
    fault = only_fault(case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "voxels are missing" in fault
    assert peak < 50e6


def test_labels_stored_as_float_are_accepted_near_whole_numbers(case):
    label = np.zeros((4, 5, 6), np.float32)
    label[0, 0, 0], label[1, 1, 1] = 0.9995, 2.0009
    save(case.label, label)
    assert check_case(case, CARD) == []
    label[0, 0, 0] = 1.002
    save(case.label, label)
    assert "1 label voxels are not whole numbers (such as 1)" in only_fault(case)


def test_a_scale_slope_is_applied(case, tmp_path):
    label = np.zeros((4, 5, 6), np.uint8)
    label[0, 0, 0] = 4  # 4 * 0.5 = 2
    image = nibabel.Nifti1Image(label, AFFINE)
    image.header.set_slope_inter(0.5, 0)
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([0.5, 0], "<f4").tobytes()
    plain = tmp_path / "scaled.nii"
    plain.write_bytes(bytes(raw))
    assert check_case(Case("c1", "p1", case.image, plain), CARD) == []
    raw[112:120] = np.array([0.3, 0], "<f4").tobytes()
    plain.write_bytes(bytes(raw))
    assert "not whole numbers" in only_fault(Case("c1", "p1", case.image, plain))


def test_unknown_label_values_are_listed(case):
    label = np.zeros((4, 5, 6), np.int16)
    label[0, 0, :3] = 14, -1, 2
    save(case.label, label)
    assert "label -1, 14 is not on card hippocampus (0-2)" in only_fault(case)


def test_shape_mismatch(case):
    save(case.label, np.zeros((4, 5, 5), np.uint8))
    told = "c1: the label is not on the image's grid, its shape is (4, 5, 5), not (4, 5, 6); export it on the image's"
    assert told in only_fault(case)


@pytest.mark.parametrize(("share", "sound"), [(0.001, True), (0.019, True), (0.021, False), (5.0, False)])
def test_affine_mismatch(case, share, sound):
    affine = AFFINE.copy()
    affine[0, 3] += share * np.linalg.norm(AFFINE[:3, :3], axis=0).min()  # of a voxel
    save(case.label, np.zeros((4, 5, 6), np.uint8), affine)
    if sound:
        assert check_case(case, CARD) == []
    else:
        assert "the label is not on the image's grid, it is up to" in only_fault(case)


def test_label_stored_with_its_axes_in_another_order_is_sound_and_said_once(case):
    save(case.label, np.zeros((4, 5, 6), np.uint8))
    label = nibabel.load(case.label)
    nibabel.save(label.as_reoriented([[2, -1], [0, 1], [1, -1]]), case.label)
    assert nibabel.load(case.label).shape == (5, 6, 4)
    check = examine_case(case, CARD)
    assert check.faults == ()
    assert check.warnings == ("c1: the label's axes are ordered differently from the image's; it is reoriented",)


def broken_affine(**entries):
    affine = AFFINE.copy()
    for key, value in entries.items():
        affine[int(key[1]), int(key[2])] = value
    return affine


def save_sform(path, array, affine):
    """nibabel refuses to write some affines: put the rows into the header's bytes."""
    raw = bytearray(nibabel.Nifti1Image(array, AFFINE).to_bytes())
    raw[252:256] = np.array([0, 2], "<i2").tobytes()
    raw[280:328] = affine[:3].astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (broken_affine(a00=0), "singular"),
        (broken_affine(a00=0, a10=2), "singular"),  # first two columns parallel
        (broken_affine(a02=0.5), "sheared"),
        (broken_affine(a03=np.nan), "NaN"),
    ],
)
def test_bad_affines(case, volume, affine, message):
    save_sform(case.image, volume, affine)
    assert message in only_fault(case)


@pytest.mark.parametrize("signs", [(-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_flipped_and_turned_affines_are_sound(case, volume, signs):
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(signs) @ np.diag([0.7, 0.7, 5])
    save(case.image, volume, affine)
    save(case.label, np.zeros(volume.shape, np.uint8), affine)
    assert check_case(case, CARD) == []


def test_a_qform_unlike_the_sform_is_warned_of_and_the_sform_used(tmp_path, volume, caplog):
    image = nibabel.Nifti1Image(volume, AFFINE)
    image.set_sform(AFFINE, code=2)
    moved = AFFINE.copy()
    moved[0, 3] = 10
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    opened = read_volume_checked(tmp_path / "a.nii.gz", "c1")
    assert caplog.messages == ["c1: qform and sform differ; the sform is used"]
    assert np.allclose(opened.affine, AFFINE)


def test_equal_forms_give_no_warning(case):
    assert examine_case(case, CARD).warnings == ()


def test_a_header_without_orientation_is_warned_of(case, volume):
    """nibabel takes the first axis to run to the patient's left, as Analyze had it."""
    raw = bytearray(gzip.decompress(case.image.read_bytes()))
    raw[252:256] = bytes(4)  # qform_code, sform_code
    case.image.write_bytes(gzip.compress(raw))
    told = "c1: the header does not say how the axes lie (qform and sform codes are 0); taken for LAS"
    assert examine_case(Case("c1", "p1", case.image), CARD).warnings == (told,)


@pytest.mark.parametrize("spacing", [(7e-4, 7e-4, 5e-3), (1, 1, 0.009), (700, 700, 5000), (1, 1, 102)])
def test_voxels_that_no_body_has_are_refused(case, volume, spacing):
    save(case.image, volume, np.diag([*spacing, 1.0]))
    assert "mm are no body's; save the volume in millimetres, or say its unit" in only_fault(
        Case("c1", "p1", case.image)
    )


@pytest.mark.parametrize("spacing", [(0.01, 0.01, 0.01), (100, 0.5, 0.5)])
def test_small_and_thick_voxels_are_sound(case, volume, spacing):
    save(case.image, volume, np.diag([*spacing, 1.0]))
    assert check_case(Case("c1", "p1", case.image), CARD) == []


def test_annotated_must_be_on_the_card(case):
    unknown = Case("c1", "p1", case.image, case.label, ("anterior", "liver"))
    assert "annotated names liver, not on card hippocampus" in only_fault(unknown)


def test_a_survey_goes_on_after_a_fault_and_wants_labels_for_training(case, tmp_path):
    gone = Case("c2", "p2", tmp_path / "none.nii.gz")
    datalist = Datalist("hippocampus", tmp_path / "list.json", {"training": (gone,), "test": (case,)})
    faults = survey(datalist, CARD)["faults"]
    assert [fault.split(";")[0] for fault in faults] == ["c2: no label, but it is in training", "c2: no such file"]


def test_require_sound_tells_the_first_fault_and_how_many_more(case, tmp_path):
    gone = [Case(f"c{i}", f"p{i}", tmp_path / "none.nii.gz") for i in (2, 3)]
    with pytest.raises(InputError, match=r"^c2: no such file.*\(1 more"):
        require_sound([case, *gone], CARD)


def test_a_patient_name_in_the_header_is_not_told(case):
    save(case.image, np.full((4, 5, 6), np.nan, np.float32), descrip=b"MUELLER^ANNA", db_name=b"ID4711")
    fault = only_fault(case)
    assert "MUELLER" not in fault
    assert "4711" not in fault
