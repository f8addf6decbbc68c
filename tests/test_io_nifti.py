"""NIfTI files by their content: names in capitals, damage, units, odd headers; what others read of them."""

import gzip
import shutil
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from ragsam.data.checks.check_case import read_volume_checked
from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.errors import InputError
from ragsam.inference.inputs import cases_of_inputs
from ragsam.io.read_volume import open_volume
from ragsam.io.volume_names import volume_name

AFFINE = np.array([[-0.5, 0, 0, 12.0], [0, 0.75, 0, -30.0], [0, 0, 2.0, 7.5], [0, 0, 0, 1]])
NAMES = ("a.nii", "a.nii.gz", "a.NII", "a.nii.GZ", "a.NII.GZ", "a.Nii.Gz")


@pytest.fixture
def array():
    return np.random.default_rng(1).integers(-30000, 30000, (9, 8, 7)).astype(np.int16)  # hardly packs


@pytest.fixture
def content(array):
    return nib.Nifti1Image(array, AFFINE).to_bytes()


def patched(content, **fields):
    """Return a NIfTI-1 file's bytes with header fields set."""
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


def write(path, content, *, packed=None):
    packed = path.name.lower().endswith(".gz") if packed is None else packed
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def refused(path):
    with pytest.raises(InputError, match=r"^c1: [^\n]+; [^\n]+$") as told:
        np.asarray(read_volume_checked(path, "c1").dataobj)
    return str(told.value)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_content_decides_whether_a_file_is_packed(tmp_path, name, packed, array, content):
    path = write(tmp_path / name, content, packed=packed)
    for read in (read_volume_checked, load_volume_checked, open_volume):
        image = read(path, "c1")
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)
        np.testing.assert_array_equal(np.asarray(image.dataobj[2:5, 3]), array[2:5, 3])
        np.testing.assert_allclose(image.affine, AFFINE)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_of_the_voxels_is_found_whatever_the_file_is_called(tmp_path, name, content):
    whole = gzip.compress(content)
    for at in range(60, len(whole) - 8, 50):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        path = tmp_path / name
        path.write_bytes(damaged)
        assert "copy it again" in refused(path) or "export the volume again" in refused(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0005, 0.02, 0.5, 0.999])
def test_files_cut_short_are_one_line_whatever_they_are_called(tmp_path, name, share, content):
    for packed in (True, False):
        path = write(tmp_path / name, content, packed=packed)
        path.write_bytes(path.read_bytes()[: 1 + int(path.stat().st_size * share)])
        assert refused(path)


def test_an_intercept_that_is_nan_is_named(tmp_path, content):
    path = write(tmp_path / "a.nii.gz", patched(content, scl_slope=1, scl_inter=np.nan))
    assert "its header adds nan to the voxels (scl_inter)" in refused(path)
    # Without a slope there is no scaling, for nibabel and for ITK.
    path = write(tmp_path / "b.nii.gz", patched(content, scl_slope=0, scl_inter=np.nan))
    np.testing.assert_array_equal(
        np.asarray(read_volume_checked(path, "c1").dataobj), np.asarray(nib.load(path).dataobj)
    )


@pytest.mark.parametrize("more", [(1,), (1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_axes_of_one_voxel_behind_the_third_are_left_out(tmp_path, array, more, kind):
    nib.save(kind(array.reshape(*array.shape, *more), AFFINE), tmp_path / "a.nii.gz")
    for read in (read_volume_checked, load_volume_checked):
        image = read(tmp_path / "a.nii.gz", "c1")
        assert image.shape == image.header.get_data_shape() == array.shape
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd"])
def test_axes_of_one_voxel_are_left_out_of_itk_formats_too(tmp_path, array, suffix):
    image = sitk.JoinSeries([sitk.GetImageFromArray(array.T)])
    image.SetSpacing((0.5, 0.75, 2.0, 3.0))
    image.SetOrigin((1, 2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
    found = read_volume_checked(tmp_path / f"a.{suffix}", "c1")
    assert found.shape == array.shape
    np.testing.assert_array_equal(np.asarray(found.dataobj), array)
    expected = [[-0.5, 0, 0, -1], [0, -0.75, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(found.affine, expected)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3), (2, 1.0), (0, 1.0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_lengths_come_out_in_millimetres(tmp_path, array, unit, factor, kind):
    """Voxels of 0.5 by 0.75 by 2 mm, written in metres, micrometres or millimetres; time units stand beside them."""
    affine = AFFINE.copy()
    affine[:3] *= factor
    for form in ("sform", "qform"):
        image = kind(array, affine)
        image.set_sform(affine, int(form == "sform"))
        image.set_qform(affine, int(form == "qform"))
        image.header["xyzt_units"] = unit + 8
        nib.save(image, tmp_path / "a.nii")
        for read in (read_volume_checked, load_volume_checked):
            found = read(tmp_path / "a.nii", "c1")
            np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(found.header.get_best_affine(), AFFINE, rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(found.header.get_zooms(), (0.5, 0.75, 2.0), rtol=1e-6)


@pytest.mark.parametrize("unit", [4, 5, 6, 7])
def test_units_that_nifti_has_not_are_refused(tmp_path, content, unit):
    path = write(tmp_path / "a.nii.gz", patched(content, xyzt_units=unit))
    assert f"lengths in unit {unit}, unknown to NIfTI; save it in millimetres" in refused(path)


def test_units_of_time_that_nifti_has_not_do_not_matter(tmp_path, array, content):
    image = read_volume_checked(write(tmp_path / "a.nii.gz", patched(content, xyzt_units=2 + 56)), "c1")
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)


def test_what_others_make_of_a_header_is_what_is_read(tmp_path, content):
    """qfac 0, negative and missing voxel sizes: mended as nibabel and ITK mend them, without a word on stderr."""
    for fields in ({"pixdim": [0, 0.5, 0.75, 2, 1, 1, 1, 1]}, {"pixdim": [1, 0, 0, 0, 1, 1, 1, 1]}):
        path = write(tmp_path / "a.nii", patched(content, **fields))
        np.testing.assert_allclose(open_volume(path, "c1").affine, nib.load(path).affine)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"datatype": 1536 + 7}, "its header is damaged"),
        ({"vox_offset": 10}, "its header is damaged"),
        ({"vox_offset": 2e9}, "the voxels start at byte 2000000000"),
        ({"vox_offset": np.nan}, "its header makes no sense"),
        ({"magic": b"ni1"}, "its voxels in another file"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3.0}, "its header makes no sense"),
        ({"srow_x": [np.inf, 0, 0, 0]}, "NaN or infinity"),
    ],
)
def test_headers_that_make_no_sense_are_one_line(tmp_path, content, fields, told, capfd):
    assert told in refused(write(tmp_path / "a.nii.gz", patched(content, **fields)))
    assert capfd.readouterr() == ("", "")


def test_other_formats_are_refused_when_they_are_read(tmp_path, array):
    nib.save(nib.MGHImage(array.astype(np.float32), AFFINE), tmp_path / "a.mgz")
    assert "cannot be read as a volume; convert it to NIfTI" in refused(tmp_path / "a.mgz")
    nib.save(nib.AnalyzeImage(array, AFFINE), tmp_path / "b.hdr")
    assert "an Analyze image does not tell left from right" in refused(tmp_path / "b.hdr")
    nib.save(nib.Nifti1Pair(array, AFFINE), tmp_path / "c.hdr")
    np.testing.assert_array_equal(np.asarray(read_volume_checked(tmp_path / "c.hdr", "c1").dataobj), array)
    voxels = (tmp_path / "c.img").read_bytes()
    (tmp_path / "c.img").write_bytes(voxels[:-5])
    assert "voxels cannot be read" in refused(tmp_path / "c.hdr")


def test_names_without_suffix():
    for name in NAMES:
        assert volume_name(Path("f") / name) == "a"
    assert volume_name(Path("a.b.NRRD")) == "a.b"
    assert volume_name(Path("a.nii.gz.txt")) is None
    composed, apart = (unicodedata.normalize(form, "é1") for form in ("NFC", "NFD"))
    assert volume_name(Path(f"{apart}.nii.gz")) == volume_name(Path(f"{composed}.nii")) == composed
    with pytest.raises(InputError, match=r"^M\?ller: the file's name is not UTF-8; rename it"):
        volume_name(Path("M\udcfcller.nii.gz"))


def test_a_folder_of_volumes_is_its_volumes(tmp_path, content):
    (tmp_path / "in").mkdir()
    for name in ("b.NII.GZ", "a.nii", ".hidden.nii", "notes.txt"):
        write(tmp_path / "in" / name, content)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    for folder in ("in", "linked"):
        cases = cases_of_inputs([tmp_path / folder])
        assert [(case.case, case.patient, case.image.name) for case in cases] == [
            ("a", "a", "a.nii"),
            ("b", "b", "b.NII.GZ"),
        ]
    shutil.copy(tmp_path / "in" / "a.nii", tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InputError, match="a: two volumes of that name in in; remove one"):
        cases_of_inputs([tmp_path / "in"])
