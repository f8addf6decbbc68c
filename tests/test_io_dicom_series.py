"""DICOM series of real files become volumes, and every fault is one line without a patient's data."""

import pickle
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import UID, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation
from small_dicom import AXIAL, DICOM_NAME, make_slice, write_series
from small_study import files_below

from ragsam.data.checks.check_case import read_volume_checked
from ragsam.errors import InputError
from ragsam.io.dicom_series import is_dicom_folder, list_series, read_series, slice_files
from ragsam.io.read_volume import open_volume

REAL = Path(__file__).parents[2] / "shared" / "data" / "body_ct"
SPACING_MM = (0.5, 0.75, 2.0)
ORIGIN = (-7.0, 11.0, 23.0)
TURNED = Rotation.from_euler("xyz", (20, -10, 35), degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": AXIAL,
    "rows reversed": (1, 0, 0, 0, -1, 0),
    "columns reversed": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": tuple(TURNED[:2].ravel().round(6)),
    "oblique reversed": tuple((-TURNED[:2]).ravel().round(6)),
}


@pytest.fixture
def volume():
    return np.random.default_rng(5).integers(-1000, 2000, (18, 16, 4)).astype(np.int16)


def voxels(image):
    return np.asarray(image.dataobj)


def refused(call, *arguments):
    """Return the one line with which a call is refused; it names the case and nobody."""
    with pytest.raises(InputError) as told:
        call(*arguments)
    line = str(told.value)
    assert line.startswith("c1: ")
    assert "; " in line
    assert "\n" not in line
    for private in (*DICOM_NAME.split("^"), "JD-0815", "1970", "4711", "House", "Anna Beispiel"):
        assert private not in line
    return line


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "Anna Beispiel ö 日本"


# Geometry and voxels


def test_two_slices_by_hand(folder):
    """Three columns, 0.25 mm apart, two rows, 0.5 mm apart; the world of NIfTI has right and front where DICOM has
    left and back."""
    pixels = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.int16)  # [slice, row, column]
    folder.mkdir()
    for index, name in enumerate("ba"):
        place = (10, 20, 30 + 2 * index)
        make_slice(pixels[index], place, spacing_mm=(0.5, 0.25)).save_as(folder / name, enforce_file_format=True)
    image = read_series(folder, case="c1")
    assert image.affine.tolist() == [[-0.25, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]]
    assert image.shape == (3, 2, 2)
    assert voxels(image)[2, 0, 0] == 3
    assert voxels(image)[0, 1, 0] == 4
    assert voxels(image)[1, 1, 1] == 11
    assert [path.name for path in slice_files(folder)] == ["b", "a"]


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_voxels_and_affine_come_back_in_any_orientation(folder, volume, orientation):
    files = write_series(folder, volume, origin=ORIGIN, orientation=orientation, spacing_mm=SPACING_MM)
    image = open_volume(folder, "c1")
    row, column = np.reshape(orientation, (2, 3))
    expected = np.eye(4)
    expected[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * SPACING_MM
    expected[:3, 3] = ORIGIN
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ expected, atol=1e-5)
    np.testing.assert_array_equal(voxels(image), volume)
    assert slice_files(folder) == files
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), SPACING_MM, atol=1e-5)


def test_the_affine_agrees_with_itk(folder, volume):
    files = write_series(folder, volume, origin=ORIGIN, orientation=ORIENTATIONS["oblique"], spacing_mm=SPACING_MM)
    theirs = sitk.ReadImage([str(path) for path in files])
    image = open_volume(folder, "c1")
    for index in ((0, 0, 0), (17, 3, 2), (5, 15, 3)):
        x, y, z = theirs.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(nib.affines.apply_affine(image.affine, index), (-x, -y, z), atol=1e-4)
        assert voxels(image)[index] == theirs[index]


def test_a_sound_series_passes_the_checks_and_is_read_once_asked_for(folder, volume):
    write_series(folder, volume)
    image = read_volume_checked(folder, "c1")
    shutil.rmtree(folder)
    np.testing.assert_array_equal(voxels(image), volume)  # decoded by the check, and kept


def test_opening_decodes_nothing_and_can_be_sent_to_workers(folder, volume):
    write_series(folder, volume)
    image = pickle.loads(pickle.dumps(open_volume(folder, "c1")))
    assert image.shape == volume.shape
    np.testing.assert_array_equal(image.dataobj[:, 2, 1:3], volume[:, 2, 1:3])
    image = open_volume(folder, "c1")
    shutil.rmtree(folder)
    assert "cannot be decoded" in refused(voxels, image)


def test_a_single_slice_is_a_volume(folder, volume):
    write_series(folder, volume[:, :, :1], SliceThickness=4.0)
    image = read_volume_checked(folder, "c1")
    assert image.shape == (18, 16, 1)
    assert image.header.get_zooms() == (1.0, 1.0, 4.0)


# Values


def test_every_slice_has_its_own_rescaling(folder):
    """3 * 2 - 10 = -4 in the first slice, 3 * 5 + 7 = 22 in the second."""

    def rescale(index, data):
        data.RescaleSlope, data.RescaleIntercept = ((2, -10), (5, 7))[index]

    write_series(folder, np.full((16, 16, 2), 3, np.int16), edit=rescale)
    image = open_volume(folder, "c1")
    assert np.unique(voxels(image)[:, :, 0]).tolist() == [-4]
    assert np.unique(voxels(image)[:, :, 1]).tolist() == [22]
    assert voxels(image).dtype == image.get_data_dtype() == np.int32  # 5 * 32767 + 7 does not fit into int16


def test_a_broken_slope_gives_floats(folder):
    write_series(folder, np.full((16, 16, 2), 3, np.uint16), RescaleSlope="0.25", RescaleIntercept="-0.5")
    image = open_volume(folder, "c1")
    assert np.unique(voxels(image)).tolist() == [0.25]
    assert voxels(image).dtype == image.get_data_dtype() == np.float32


@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_signed_or_not(folder, signed):
    low = -2048 if signed else 0
    ramp = np.arange(low, low + 4096, 16).reshape(16, 16, 1)
    stored = (ramp & 0xFFF).astype(np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    write_series(folder, stored, RescaleSlope=1, RescaleIntercept=-1024, **bits)
    image = open_volume(folder, "c1")
    np.testing.assert_array_equal(voxels(image), ramp - 1024)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize(("modality", "expected"), [("CT", 100 - 1024), ("MR", 4095 - 100 - 1024)])
def test_monochrome1(folder, modality, expected):
    """Hounsfield units are what they are, however they are shown; elsewhere what is shown bright is high."""
    bits = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 1, "RescaleIntercept": -1024}
    pixels = np.full((16, 16, 1), 100, np.uint16)
    write_series(folder, pixels, PhotometricInterpretation="MONOCHROME1", Modality=modality, **bits)
    assert np.unique(voxels(open_volume(folder, "c1"))).tolist() == [expected]


# Compressed transfer syntaxes


def by_gdcm(compressor):
    """Return a function that packs a slice's pixels as GDCM does."""

    def pack(data, path):
        image = sitk.GetImageFromArray(data.pixel_array[None])
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(path))
        writer.Execute(image)
        packed = pydicom.dcmread(path)
        data.PixelData = packed.PixelData
        data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True

    return pack


PACKERS = {
    "RLE": (lambda data, path: data.compress(RLELossless, generate_instance_uid=False), "1.2.840.10008.1.2.5"),
    "JPEG-LS": (lambda data, path: data.compress(JPEGLSLossless, generate_instance_uid=False), JPEGLSLossless),
    "JPEG lossless": (by_gdcm("JPEG"), "1.2.840.10008.1.2.4.70"),
    "JPEG 2000": (by_gdcm("JPEG2000"), "1.2.840.10008.1.2.4.90"),
}


@pytest.mark.parametrize("how", PACKERS)
def test_compressed_series_are_read(folder, tmp_path, how):
    pack, syntax = PACKERS[how]
    smooth = np.add.outer(np.add.outer(np.arange(64), np.arange(48) * 3), np.arange(3) * 50).astype(np.uint16)
    files = write_series(
        folder, smooth, edit=lambda _, data: pack(data, tmp_path / "packed.dcm"), RescaleSlope=1, RescaleIntercept=-99
    )
    assert {pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in files} == {UID(syntax)}
    image = read_volume_checked(folder, "c1")
    np.testing.assert_array_equal(voxels(image), smooth.astype(int) - 99)


# Which series


def write_two(folder, volume):
    write_series(folder / "a", volume, SeriesInstanceUID="1.2.3.4")
    write_series(folder / "b", volume[:, :, :2] + 1, SeriesInstanceUID="1.2.3.5", Modality="MR")


def test_several_series_are_listed_and_never_guessed(folder, volume):
    write_two(folder, volume)
    found = [(one.uid, one.modality, one.slices) for one in list_series(folder)]
    assert found == [("1.2.3.4", "CT", 4), ("1.2.3.5", "MR", 2)]
    line = refused(open_volume, folder, "c1")
    assert "2 DICOM series in the folder: 1.2.3.4 (CT, 4 slices); 1.2.3.5 (MR, 2 slices)" in line
    assert "--series" in line


def test_a_series_is_named_by_its_uid(folder, volume):
    write_two(folder, volume)
    np.testing.assert_array_equal(voxels(read_series(folder, "1.2.3.4", "c1")), volume)
    np.testing.assert_array_equal(voxels(open_volume(folder / "1.2.3.5", "c1")), volume[:, :, :2] + 1)
    assert is_dicom_folder(folder)
    assert is_dicom_folder(folder / "1.2.3.5")
    assert "no series 1.2.3.6 in the folder; it holds 1.2.3.4 (CT" in refused(open_volume, folder / "1.2.3.6", "c1")


def test_other_files_are_skipped(folder, volume):
    write_series(folder, volume)
    kinds = {
        "DICOMDIR": "1.2.840.10008.1.3.10",
        "report": "1.2.840.10008.5.1.4.1.1.88.11",
        "contours": "1.2.840.10008.5.1.4.1.1.481.3",
        "mask": "1.2.840.10008.5.1.4.1.1.66.4",
    }
    for name, uid in kinds.items():
        other = make_slice(volume[:, :, 0], SOPClassUID=UID(uid), SeriesInstanceUID="1.2.9")
        other.file_meta.MediaStorageSOPClassUID = UID(uid)
        if name != "mask":
            del other.Rows, other.Columns, other.PixelData
        other.save_as(folder / name, enforce_file_format=True)
    (folder / "readme.txt").write_text("Anna Beispiel")
    np.testing.assert_array_equal(voxels(open_volume(folder, "c1")), volume)
    assert [one.uid for one in list_series(folder)] == ["1.2.3"]
    for path in folder.glob("IM*"):
        path.unlink()
    assert "no DICOM images in the folder (5 other files)" in refused(open_volume, folder, "c1")


def test_folders_without_dicom(folder):
    folder.mkdir()
    assert not is_dicom_folder(folder)
    assert "no DICOM images in the folder (0 other files)" in refused(open_volume, folder, "c1")
    assert "no such file" in refused(open_volume, folder / "scan.nii", "c1")


# Faults


def drop_second(folder, volume):
    write_series(folder, volume)[1].unlink()


def double_second(folder, volume):
    shutil.copy(write_series(folder, volume)[1], folder / "copy")


def push_last(folder, volume):
    write_series(folder, volume, edit=lambda i, data: i == 3 and setattr(data, "ImagePositionPatient", [0, 0, 3.6]))


def tilt(folder, volume):
    write_series(folder, volume, edit=lambda i, data: setattr(data, "ImagePositionPatient", [0, 0.2 * i, i]))


def turn_first(folder, volume):
    write_series(folder, volume, edit=lambda i, data: i or setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, 1]))


def several_frames(folder, volume):
    write_series(folder, volume[:, :, :1], NumberOfFrames=2, PixelData=volume[:, :, :2].tobytes())


def enhanced(folder, volume):
    def edit(_, data):
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")

    write_series(folder, volume[:, :, :1], edit=edit)


def colour(folder, volume):
    write_series(folder, volume[:, :, :1], SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)


def no_position(folder, volume):
    write_series(folder, volume, edit=lambda i, data: i < 2 and delattr(data, "ImagePositionPatient"))


def two_sizes(folder, volume):
    write_series(folder, volume)
    pixels = np.zeros((16, 20), np.int16)
    make_slice(pixels, (0, 0, 4)).save_as(folder / "x", enforce_file_format=True)


def huge(folder, volume):
    write_series(folder, volume[:, :, :1], Rows=65535, Columns=65535)


def slope_of_nought(folder, volume):
    write_series(folder, volume, RescaleSlope=0, RescaleIntercept=0)


def lookup_table(folder, volume):
    write_series(folder, volume, ModalityLUTSequence=[pydicom.Dataset()])


def cut_at(path, tag):
    content = path.read_bytes()
    path.write_bytes(content[: content.index(bytes([tag[0], 0, tag[1], 0])) + 2])


def cut_in_the_header(folder, volume):
    cut_at(write_series(folder, volume)[2], (0x20, 0x0E))  # Series Instance UID


def cut_before_the_size(folder, volume):
    cut_at(write_series(folder, volume)[2], (0x28, 0x10))  # Rows


FAULTS = {
    drop_second: "1 slices are missing (they are 1 mm apart, with a gap of 2 mm)",
    double_second: "1 of 5 slices are at the position of another slice",
    push_last: "slices are unevenly spaced (1 to 1.6 mm)",
    tilt: "gantry tilt of 11.3 degrees",
    turn_first: "slices of several orientations in one series (3 of 4 unlike the first)",
    several_frames: "multi-frame (enhanced) DICOM is not read",
    enhanced: "multi-frame (enhanced) DICOM is not read",
    colour: "pixels have several channels",
    no_position: "2 of 4 images lack rows, position, orientation or pixel spacing",
    two_sizes: "slices of several sizes in one series (18 x 16, 20 x 16)",
    huge: "1 of 1 slices: PixelData has 576 bytes, 65535 x 65535 of 16 bits need 8589672450",
    slope_of_nought: "rescaled by a table or a slope of 0",
    lookup_table: "rescaled by a table or a slope of 0",
    cut_in_the_header: "1 DICOM files are damaged or cut short",
    cut_before_the_size: "1 of 4 images lack rows",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_faulty_series_is_one_line(folder, volume, spoil, capfd):
    spoil(folder, volume)
    assert FAULTS[spoil] in refused(open_volume, folder, "c1")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.7, 0.97])
def test_a_slice_cut_short_is_one_line(folder, volume, share, capfd):
    path = write_series(folder, volume)[2]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "cut short" in refused(read_volume_checked, folder, "c1")
    assert capfd.readouterr() == ("", "")


def test_odd_values_of_a_patient_are_not_told(folder, volume, recwarn, caplog, capfd):
    """pydicom warns of values that break the standard by quoting them."""
    write_series(folder, volume)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"19700101" in content
        path.write_bytes(content.replace(b"19700101", b"Anna B. ").replace(b"1.2.3", b"1.2.a"))
    open_volume(folder, "c1")
    read_volume_checked(folder, "c1")
    assert list(recwarn) == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_anonymous_series_are_read(folder, volume):
    names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    write_series(folder, volume, **dict.fromkeys((*names, "AccessionNumber", "ReferringPhysicianName")))
    np.testing.assert_array_equal(voxels(open_volume(folder, "c1")), volume)


def test_a_read_only_folder_is_left_as_it_is(folder, volume):
    write_series(folder, volume)
    before = files_below(folder)
    folder.chmod(0o555)
    np.testing.assert_array_equal(voxels(read_volume_checked(folder, "c1")), volume)
    folder.chmod(0o755)
    assert files_below(folder) == before


# Real data


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/body_ct")
def test_a_real_series_lies_where_its_label_volume_lies(tmp_path):
    """JPEG 2000, 20 slices of 512 x 512. The label volume's rows run the other way: only the world is the same."""
    image = read_volume_checked(REAL / "dicom_ct_series", "c1")
    label = nib.load(REAL / "example_seg_dicom.nii.gz")
    assert image.shape == label.shape == (512, 512, 20)
    assert nib.aff2axcodes(image.affine) != nib.aff2axcodes(label.affine)
    upright, of_label = (
        nib.as_closest_canonical(nib.Nifti1Image(np.asarray(v.dataobj), v.affine)) for v in (image, label)
    )
    np.testing.assert_allclose(upright.affine, of_label.affine, atol=1e-5)
    hounsfield, labels = np.asarray(upright.dataobj), np.asarray(of_label.dataobj)
    assert hounsfield.dtype == np.int16
    for organ, low, high in ((1, 60, 110), (79, -20, 60), (86, -20, 60)):  # spleen, spinal cord, a muscle
        assert low < np.median(hounsfield[labels == organ]) < high
        assert not low < np.median(hounsfield[:, ::-1][labels == organ]) < high  # rows the other way round


def test_a_folder_of_far_more_files_than_a_case_has_is_refused_before_any_is_opened(tmp_path, monkeypatch):
    from ragsam.io import dicom_headers

    monkeypatch.setattr(dicom_headers, "_MOST_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("no DICOM")
    with pytest.raises(InputError, match="c1: over 3 files and folders in its folder; name the folder of its series"):
        list_series(tmp_path, "c1")
    (tmp_path / "3.txt").unlink()
    with pytest.raises(InputError, match="no DICOM images"):
        list_series(tmp_path, "c1")


def test_a_whole_disk_for_an_image_is_refused_in_time():
    started = time.monotonic()
    with pytest.raises(InputError, match="over 50000 files"):
        open_volume(Path("/"), "c1")
    assert time.monotonic() - started < 20
