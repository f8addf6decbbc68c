"""Volumes of every format, and the truth of a NIfTI's header."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ragsam.data.checks.check_case import read_volume_checked
from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.errors import InputError
from ragsam.io.read_volume import LoadVolumed, VolumeReader, open_volume
from ragsam.transforms import preprocessing

SHAPE = (7, 6, 5)
AFFINE = np.array([[-0.5, 0, 0, 12.0], [0, 0.75, 0, -30.0], [0, 0, 2.0, 7.5], [0, 0, 0, 1]])
FORMATS = ("mha", "mhd", "nrrd")


@pytest.fixture
def array():
    return np.random.default_rng(1).integers(-900, 900, SHAPE).astype(np.int16)


@pytest.fixture
def nifti(tmp_path, array):
    return save(tmp_path / "a.nii.gz", array)


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def converted(path, suffix, *, packed=True):
    """Let SimpleITK write a NIfTI file in another format, in a folder with spaces and foreign letters."""
    target = path.parent / "Anna Beispiel ö 日本" / f"b.{suffix}"
    target.parent.mkdir(exist_ok=True)
    image = sitk.ReadImage(str(path))
    for key in image.GetMetaDataKeys():  # the writers warn of what they leave out
        image.EraseMetaData(key)
    sitk.WriteImage(image, str(target), packed)
    return target


def refused(path, capfd):
    with pytest.raises(InputError, match=r"^c1: [^\n]+; [^\n]+$") as told:
        np.asarray(read_volume_checked(path, "c1").dataobj)
    assert capfd.readouterr() == ("", "")  # ITK would tell stderr the file's name
    assert "Anna" not in str(told.value)
    return str(told.value)


# MetaImage and NRRD


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_what_itk_writes_is_read_as_the_nifti_is(tmp_path_factory, seed, oblique, packed):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("any")
    turn = Rotation.random(random_state=seed).as_matrix() if oblique else np.eye(3)[rng.permutation(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.choice([-1, 1], 3) * rng.uniform(0.4, 4, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    kind = rng.choice([np.uint8, np.int16, np.float32])
    path = save(folder / "a.nii", rng.uniform(0, 200, rng.integers(1, 9, 3)).astype(kind), affine)
    expected = nib.load(path)
    for suffix in FORMATS:
        image = open_volume(converted(path, suffix, packed=packed), "c1")
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5, rtol=1e-5)
        assert image.get_data_dtype() == np.asarray(image.dataobj).dtype == kind


def test_an_nrrd_in_ras_by_hand(tmp_path):
    """Two by one by one voxel, 3 mm apart from left to right, the first 10 mm to the right."""
    header = "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 1 1\nencoding: raw\n"
    header += "space directions: (3,0,0) (0,1,0) (0,0,1)\nspace origin: (10,-4,2)\nkinds: domain domain domain\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes([5, 6]))
    image = open_volume(tmp_path / "a.nrrd", "c1")
    np.testing.assert_allclose(image.affine, [[3, 0, 0, 10], [0, 1, 0, -4], [0, 0, 1, 2], [0, 0, 0, 1]], atol=1e-12)
    assert np.asarray(image.dataobj).ravel().tolist() == [5, 6]


@pytest.mark.parametrize("suffix", FORMATS)
def test_chains_read_every_format_alike(nifti, suffix):
    chain = preprocessing(keys=("image",), window=(-900, 900))
    expected = chain({"image": str(nifti)})["image"]
    found = chain({"image": str(converted(nifti, suffix))})["image"]
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    np.testing.assert_allclose(found.affine.numpy(), expected.affine.numpy(), atol=1e-5)


@pytest.mark.parametrize("suffix", FORMATS)
def test_four_dimensions_and_colour_are_refused(tmp_path, suffix, capfd):
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False), str(path))
    assert "shape (5, 4, 3, 2) is not three-dimensional" in refused(path, capfd)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 3), np.uint8)[None], isVector=True), str(path))
    assert "several channels" in refused(path, capfd)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
@pytest.mark.parametrize(("share", "told"), [(0.1, "ITK cannot read the file as a volume"), (0.9, "cut short")])
def test_files_cut_short_are_refused(nifti, suffix, packed, share, told, capfd):
    path = converted(nifti, suffix, packed=packed)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert told in refused(path, capfd)


@pytest.mark.parametrize("suffix", FORMATS)
def test_foreign_and_missing_files_are_refused(nifti, suffix, capfd):
    path = converted(nifti, suffix)
    path.write_bytes(b"Anna Beispiel" * 99)
    assert "ITK cannot read the file as a volume" in refused(path, capfd)
    path.write_bytes(b"")
    assert "is empty" in refused(path, capfd)
    path.unlink()
    assert "no such file" in refused(path, capfd)


def test_voxels_missing_beside_a_header_are_refused(nifti, capfd):
    path = converted(nifti, "mhd", packed=False)
    path.with_suffix(".raw").unlink()
    assert "; copy" in refused(path, capfd)


@pytest.mark.parametrize(
    ("suffix", "side", "told"), [("mhd", 32000, "above 2**31"), ("mha", 1200, "more than the file holds")]
)
def test_a_header_that_promises_too_much_is_refused(nifti, suffix, side, told, capfd):
    path = converted(nifti, suffix, packed=False)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 7 6 5", b"DimSize = %d %d %d" % (side, side, side)))
    assert told in refused(path, capfd)


UNITS = {
    ("mha", b"CompressedData = "): (b"DistanceUnits = %b\nCompressedData = ", b"%b"),
    ("nrrd", b"encoding: "): (b"space units: %b %b %b\nencoding: ", b'"%b"'),
}


@pytest.mark.parametrize("unit", [b"mm", b"um", b"cm"])
@pytest.mark.parametrize(("suffix", "line"), UNITS)
def test_units_other_than_millimetres_are_refused(nifti, suffix, line, unit, capfd):
    """ITK takes every length for millimetres."""
    path = converted(nifti, suffix, packed=False)
    text, quoted = UNITS[suffix, line]
    path.write_bytes(path.read_bytes().replace(line, text.replace(b"%b", quoted % unit), 1))
    if unit == b"mm":
        np.testing.assert_allclose(open_volume(path, "c1").affine, nib.load(nifti).affine, atol=1e-5)
    else:
        assert "lengths in a unit other than mm" in refused(path, capfd)


def test_nan_in_an_nrrd_is_counted(tmp_path, capfd):
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    assert "1 voxels are NaN" in refused(tmp_path / "a.nrrd", capfd)


# A NIfTI's own truth


def conflicting(path, array):
    """Write an image whose qform and sform differ, and whose voxel sizes are the qform's."""
    image = nib.Nifti1Image(array, None)
    image.set_qform(np.diag([3.0, 3.0, 3.0, 1.0]), code=1)
    image.set_sform(AFFINE, code=1)
    nib.save(image, path)
    return path


def test_sform_goes_before_qform_with_a_warning_wherever_it_is_read(tmp_path, array, caplog):
    """MONAI's own reader would take the qform: the header's voxel sizes, 3 mm, fit that one."""
    path = conflicting(tmp_path / "a.nii", array)
    np.testing.assert_allclose(read_volume_checked(path, "c1").affine, AFFINE)
    assert caplog.messages == ["c1: qform and sform differ; the sform is used"]
    reader = VolumeReader()
    found, meta = reader.get_data(reader.read(str(path)))
    np.testing.assert_allclose(meta["affine"], AFFINE)
    np.testing.assert_array_equal(found, array)
    item = preprocessing(keys=("image",))({"image": str(path)})
    np.testing.assert_allclose(item["image"].affine.numpy(), nib.as_closest_canonical(nib.load(path)).affine, atol=1e-5)


def test_a_sound_header_warns_of_nothing(nifti, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume_checked(nifti, "c1")
    assert caplog.messages == []


def test_scaled_voxels_are_read_scaled(tmp_path, array):
    path = save(tmp_path / "a.nii", array)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, -10], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    reader = VolumeReader()
    found, _ = reader.get_data(reader.read(str(path)))
    np.testing.assert_array_equal(found, array * 0.5 - 10)


def test_a_file_that_is_refused_is_tried_by_no_other_reader(tmp_path):
    """MONAI would go on to its readers of pictures and DICOM, and hide what was wrong."""
    (tmp_path / "a.nii").write_bytes(b"no volume" * 99)
    with pytest.raises(RuntimeError) as told:
        preprocessing(keys=("image",))({"image": str(tmp_path / "a.nii")})
    assert "cannot be read as a volume" in str(told.value.__cause__)


def test_making_a_chain_warns_of_nothing(caplog):
    """MONAI makes its DICOM readers too, and one of them tells that NVIDIA's decoder is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocessing(keys=("image",))
    assert caplog.records == []


# Voxels kept by the check


def saved_as(kind, path, array):
    """Save a volume as a kind of file that its voxels are decoded from in a way of their own."""
    if kind == "nrrd":
        return converted(save(path, array), kind)
    image = nib.Nifti1Image(array.astype({"float64": np.float64, "bytes": np.uint8}.get(kind, np.int16)), AFFINE)
    if kind == "big-endian":
        image = nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">"))
    if kind == "scaled":
        image.header.set_slope_inter(0.3, -7)
    if kind == "unpacked":
        path = path.with_suffix("")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", ["int16", "bytes", "float64", "scaled", "big-endian", "unpacked", "nrrd"])
def test_voxels_that_the_check_keeps_load_as_their_file_does(tmp_path, array, kind):
    path = saved_as(kind, tmp_path / "a.nii.gz", array)
    load = LoadVolumed(["image"], image_only=True)
    loaded = {str(path): load_volume_checked(path, "c1")}
    expected = load({"image": str(path)})["image"]
    path.unlink()
    item = load({"image": str(path), "loaded": loaded})
    assert set(item) == {"image"}
    assert loaded == {}  # let go
    found = item["image"]
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert repr(found.meta) == repr(expected.meta)
