"""Pixels of DICOM are what the header says, or the series is refused: no voxel is ever made up."""

import shutil
import struct
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from small_dicom import write_series
from test_io_dicom_series import by_gdcm, refused, voxels

from ragsam.data.checks.check_case import read_volume_checked
from ragsam.io.dicom_series import read_series, slice_files
from ragsam.io.read_volume import open_volume


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "scan"


@pytest.fixture
def volume():
    return np.random.default_rng(5).integers(-1000, 2000, (18, 16, 4)).astype(np.int16)


@pytest.fixture
def smooth():
    return np.add.outer(np.add.outer(np.arange(64), np.arange(48) * 3), np.arange(3) * 50).astype(np.uint16)


def write_bare(path, *, implicit):
    """Write a file's data set alone: no preamble, no file meta information."""
    data = pydicom.dcmread(path)
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    pydicom.filewriter.write_dataset(buffer, pydicom.Dataset(data))
    path.write_bytes(buffer.getvalue())


# Files


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("bare", [1, 4])
def test_files_without_preamble_are_read(folder, volume, implicit, bare):
    files = write_series(folder, volume)
    for path in files[:bare]:
        write_bare(path, implicit=implicit)
    image = read_volume_checked(folder, "c1")
    np.testing.assert_array_equal(voxels(image), volume)
    assert slice_files(folder) == files


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("spoil", [zeroed, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"html")])
def test_a_slice_that_is_dicom_no_longer_is_not_left_out(folder, volume, spoil):
    """The last slice leaves no gap, so that the others would make a volume."""
    spoil(write_series(folder, volume)[-1])
    (folder / "readme.txt").write_text("text")
    (folder / "._IM0001").write_text("what macOS leaves")
    assert "1 DICOM files are damaged or cut short" in refused(open_volume, folder, "c1")


def test_a_slice_without_class_and_series_is_not_left_out(folder, volume):
    """Its header is lost from the class on; what is left says neither what the file is nor where it belongs."""

    def edit(index, data):
        if index == 3:
            data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.1")
            for name in ("SOPClassUID", "SeriesInstanceUID", "Rows", "PixelData"):
                delattr(data, name)

    write_series(folder, volume, edit=edit)
    assert "1 DICOM files are damaged or cut short" in refused(open_volume, folder, "c1")


@pytest.mark.parametrize("name", ["1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.9.9.9", "1.3.4"])
def test_a_slice_of_another_class_is_not_left_out(folder, volume, name):
    """A report within the series is damage; an unknown class with rows is an image."""

    def edit(index, data):
        if index == 3:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID(name)

    write_series(folder, volume, edit=edit)
    if name.endswith("88.11"):
        assert "1 DICOM files are damaged" in refused(open_volume, folder, "c1")
    else:
        np.testing.assert_array_equal(voxels(open_volume(folder, "c1")), volume)


# Transfer syntaxes without compression


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("kind", ["i2", "u1"])
def test_uncompressed_syntaxes_are_read(folder, volume, syntax, kind):
    stored = (volume[:17, :15] & 0xFF).astype(kind)  # 255 pixels: of bytes an odd number, padded to even
    for path in write_series(folder, stored):
        data = pydicom.dcmread(path)
        plain = pydicom.Dataset(data)
        plain.file_meta = data.file_meta
        plain.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian and kind == "i2":
            plain.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
        plain["PixelData"].VR = "OW" if kind == "i2" else "OB"
        pydicom.dcmwrite(path, plain, enforce_file_format=True)
    np.testing.assert_array_equal(voxels(read_volume_checked(folder, "c1")), stored)


def test_unused_bits_may_hold_anything(folder):
    """BitsStored 12: of 0xF801 the low twelve bits are 0x801, unsigned 2049, signed 2049 - 4096 = -2047."""
    for signed, expected in ((0, 2049), (1, -2047)):
        bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": signed}
        write_series(folder, np.full((16, 16, 1), 0xF801, np.uint16), **bits)
        assert np.unique(voxels(open_volume(folder, "c1"))).tolist() == [expected]
        shutil.rmtree(folder)


# Pixels that are not what the header says


def shortened(data):
    data.PixelData = data.PixelData[:-2]


def lengthened(data):
    data.PixelData += bytes(2)


def high_bit(data):
    data.BitsStored, data.HighBit = 12, 15


def too_many_bits(data):
    data.BitsStored, data.HighBit = 17, 16


def odd_bits(data):
    data.BitsAllocated, data.BitsStored, data.HighBit = 12, 12, 11


def no_bits(data):
    data.BitsStored = 0


def no_sign(data):
    del data.PixelRepresentation


def float_pixels(data):
    data.FloatPixelData = bytes(18 * 16 * 4)
    del data.PixelData


def no_pixels(data):
    del data.PixelData


def no_samples(data):
    del data.SamplesPerPixel


def samples_of_nought(data):
    data.SamplesPerPixel = 0


def no_photometric(data):
    del data.PhotometricInterpretation


def palette(data):
    data.PhotometricInterpretation = "PALETTE COLOR"


def nan_intercept(data):
    data.RescaleSlope, data.RescaleIntercept = 1, "NaN"


def empty_intercept(data):
    data.RescaleSlope, data.RescaleIntercept = 1, ""


def infinite_slope(data):
    data.RescaleSlope, data.RescaleIntercept = "inf", 0


def half_rescaled(data):
    data.RescaleSlope = 1


def unknown_syntax(data):
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8"])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def native_in_fragments(data):
    unknown_syntax(data)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian


FAULTS = {
    shortened: "PixelData has 574 bytes, 18 x 16 of 16 bits need 576",
    lengthened: "PixelData has 578 bytes, 18 x 16 of 16 bits need 576",
    high_bit: "HighBit 15 contradicts BitsStored 12, by which it is 11",
    too_many_bits: "BitsAllocated 16 and BitsStored 17 make no pixel format",
    odd_bits: "BitsAllocated 12 and BitsStored 12 make no pixel format",
    no_bits: "BitsAllocated 16 and BitsStored 0 make no pixel format",
    no_sign: "PixelRepresentation is None",
    float_pixels: "floating-point numbers (FloatPixelData)",
    no_pixels: "no pixels in the file",
    no_samples: "several channels (colour), or none",
    samples_of_nought: "several channels (colour), or none",
    no_photometric: "PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2",
    palette: "PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2",
    nan_intercept: "RescaleSlope or RescaleIntercept is not a finite number",
    empty_intercept: "RescaleSlope or RescaleIntercept is not a finite number",
    infinite_slope: "RescaleSlope or RescaleIntercept is not a finite number",
    half_rescaled: "RescaleSlope or RescaleIntercept is missing beside the other",
    unknown_syntax: "a transfer syntax that ragsam does not read",
    native_in_fragments: "PixelData has 22 bytes, 18 x 16 of 16 bits need 576",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_one_contradicting_slice_refuses_the_series(folder, volume, spoil, capfd):
    write_series(folder, volume, edit=lambda index, data: index == 2 and spoil(data))
    line = refused(open_volume, folder, "c1")
    assert FAULTS[spoil] in line
    assert "Rescale" in line or "colour" in line or "1 of 4 slices" in line
    assert capfd.readouterr() == ("", "")


def test_a_file_cut_within_its_pixels_says_by_how_much(folder, volume):
    path = write_series(folder, volume)[1]
    path.write_bytes(path.read_bytes()[:-100])
    assert "1 of 4 slices: PixelData is cut short, 476 of 576 bytes" in refused(open_volume, folder, "c1")


# Compressed pixels

PACKERS = {
    "RLE": lambda data, path: data.compress(RLELossless, generate_instance_uid=False),
    "JPEG-LS": lambda data, path: data.compress(JPEGLSLossless, generate_instance_uid=False),
    "JPEG": by_gdcm("JPEG"),
    "JPEG 2000": by_gdcm("JPEG2000"),
}


def cut_codestream(data):
    """The frame lacks its second half; the fragments around it are whole."""
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 4 * 2]])


def wrong_size(data):
    data.Rows, data.Columns = 65535, 64


def cut_fragments(data):
    data.PixelData = data.PixelData[:-20]


@pytest.mark.parametrize("how", PACKERS)
@pytest.mark.parametrize("spoil", [cut_codestream, cut_fragments, wrong_size])
def test_damaged_compressed_pixels_are_refused(folder, tmp_path, smooth, how, spoil, capfd):
    def edit(index, data):
        PACKERS[how](data, tmp_path / "packed.dcm")
        spoil(data)
        data["PixelData"].is_undefined_length = True

    write_series(folder, smooth[:, :, :1], edit=edit)
    assert "; " in refused(read_volume_checked, folder, "c1")
    assert capfd.readouterr() == ("", "")


def test_a_codestream_of_another_size_is_never_decoded(folder, tmp_path, smooth):
    """A small JPEG 2000 header may promise gigabytes."""

    def edit(_, data):
        PACKERS["JPEG 2000"](data, tmp_path / "packed.dcm")
        data.PixelData = data.PixelData.replace(struct.pack(">LL", 64, 48), struct.pack(">LL", 1 << 20, 1 << 20))

    write_series(folder, smooth[:, :, :1], edit=edit)
    assert "do not fit its header" in refused(read_volume_checked, folder, "c1")


# Bombs


def deflate(path, tail=b""):
    """Write a file's data set deflated, with more behind it."""
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = 144 + struct.unpack("<L", content[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(content[:start] + packer.compress(zlib.decompress(content[start:], -15) + tail) + packer.flush())


def test_what_follows_deflated_pixels_is_never_inflated(folder, volume, monkeypatch):
    inflated = []
    monkeypatch.setattr("ragsam.io.dicom_file._inflated", _counting(inflated))
    trailer = struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 1 << 26) + bytes(1 << 26)
    deflate(write_series(folder, volume[:, :, :1])[0], trailer)
    np.testing.assert_array_equal(voxels(read_series(folder, case="c1")), volume[:, :, :1])
    assert max(inflated) <= 16 << 20


def _counting(sizes):
    from ragsam.io.dicom_file import _inflated

    def counted(*arguments):
        value = _inflated(*arguments)
        sizes.append(len(value))
        return value

    return counted


def test_a_deflated_series_that_promises_too_much_is_refused(folder, monkeypatch):
    """4000 x 4000 pixels are 30 MiB, deflated to 30 KiB."""
    monkeypatch.setattr("ragsam.io.dicom_pixels._SMALL_BYTES", 1 << 20)
    write_series(folder, np.zeros((16, 16, 1), np.int16))
    path = next(folder.iterdir())
    data = pydicom.dcmread(path)
    data.Rows = data.Columns = 4000
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.PixelData = bytes(32_000_000)
    data.save_as(path)
    line = refused(open_volume, folder, "c1")
    assert "the headers promise 30 MiB of pixels" in line


def test_a_deflated_header_without_end_is_refused(folder, volume):
    path = write_series(folder, volume[:, :, :1])[0]
    data = pydicom.dcmread(path)
    data.add_new(0x00091001, "OB", bytes(32 << 20))
    data.save_as(path)
    deflate(path)
    assert "1 DICOM files are damaged" in refused(open_volume, folder, "c1")


def with_damaged_length(path, length, follows=b""):
    """Put a private element before the slice thickness; its length is not that of what follows."""
    content = path.read_bytes()
    at = content.index(struct.pack("<HH2s", 0x18, 0x50, b"DS"))
    path.write_bytes(content[:at] + struct.pack("<HH2sHL", 0x11, 0x10, b"UN", 0, length) + follows + content[at:])


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0xFFFFFFFE, 1 << 31])
def test_lengths_beyond_the_file_are_damage(folder, volume, length):
    with_damaged_length(write_series(folder, volume)[1], length)
    assert "1 DICOM files are damaged or cut short" in refused(open_volume, folder, "c1")


@pytest.mark.parametrize("syntax", ["plain", "deflated"])
def test_a_header_of_more_elements_than_any_has_is_damage(folder, volume, monkeypatch, syntax):
    """After a damaged length zeros look like elements without a value, 8 bytes each: 4000 of them here."""
    path = write_series(folder, volume)[1]
    with_damaged_length(path, 0, bytes(32_000))
    if syntax == "deflated":
        deflate_as_it_is(path)
    np.testing.assert_array_equal(voxels(open_volume(folder, "c1")), volume)
    monkeypatch.setattr("ragsam.io.dicom_file._MOST_READS", 2000)
    assert "1 DICOM files are damaged or cut short" in refused(open_volume, folder, "c1")


def test_after_many_damaged_files_no_more_are_read(folder, volume, monkeypatch):
    monkeypatch.setattr("ragsam.io.dicom_headers._MOST_DAMAGED", 3)
    for path in write_series(folder, volume):
        with_damaged_length(path, 1 << 31)
    assert "3 or more DICOM files are damaged or cut short" in refused(open_volume, folder, "c1")


def deflate_as_it_is(path):
    """Deflate a file's data set, whatever it holds, and say so."""
    content = path.read_bytes()
    start = 144 + struct.unpack("<L", content[140:144])[0]
    buffer = pydicom.filebase.DicomBytesIO()
    meta = pydicom.dcmread(path, stop_before_pixels=True, force=True).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.filewriter.write_file_meta_info(buffer, meta)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(content[:132] + buffer.getvalue() + packer.compress(content[start:]) + packer.flush())


def test_a_side_that_nifti_cannot_have_is_refused(folder):
    write_series(folder, np.zeros((40_000, 1, 1), np.uint8))
    assert "a side above 32767" in refused(open_volume, folder, "c1")


# What decides, and what does not


def test_a_malformed_thickness_is_told_where_positions_decide(folder, volume, caplog):
    def edit(_, data):
        data.SliceThickness = 2.5
        data["SliceThickness"]._value = "2,5"

    write_series(folder, volume, edit=edit)
    image = read_volume_checked(folder, "c1")
    assert caplog.messages == ["c1: SliceThickness is not a number; the series is read without it"]
    assert image.affine[2, 2] == 1
    np.testing.assert_array_equal(voxels(image), volume)


def test_a_malformed_thickness_of_a_lone_slice_is_a_fault(folder, volume):
    write_series(folder, volume[:, :, :1], edit=lambda _, data: setattr(data["SliceThickness"], "_value", "2,5"))
    assert "a single slice of unknown thickness" in refused(open_volume, folder, "c1")


def test_values_that_nothing_uses_may_be_malformed(folder, volume, caplog, recwarn):
    """The number of frames is told, for it says how pixels are stored; the rest is never looked at."""
    odd = {"RescaleType": b"H\xe9" * 40, "WindowCenter": b"wide", "PatientAge": b"nine years", "StudyDate": b"today"}
    odd |= {"InstanceNumber": b"first", "AcquisitionTime": b"noon", "KVP": b"high", "NumberOfFrames": b"one"}

    def edit(_, data):
        for name, value in odd.items():
            tag = pydicom.tag.Tag(name)
            vr = pydicom.datadict.dictionary_VR(tag)
            raw = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)
            data._dict[tag] = raw

    write_series(folder, volume, edit=edit)
    recwarn.clear()
    caplog.clear()
    np.testing.assert_array_equal(voxels(read_volume_checked(folder, "c1")), volume)
    assert caplog.messages == ["c1: NumberOfFrames is not a number; the series is read without it"]
    assert list(recwarn) == []


def test_slices_are_rescaled_in_blocks_of_rows(folder, volume, monkeypatch):
    """18 columns, 16 rows: blocks of 5 rows, the last of one."""
    monkeypatch.setattr("ragsam.io.dicom_series._BLOCK_PIXELS", 5 * 18)
    write_series(folder, volume, RescaleSlope=2, RescaleIntercept=-1024)
    np.testing.assert_array_equal(voxels(open_volume(folder, "c1")), volume.astype(int) * 2 - 1024)
