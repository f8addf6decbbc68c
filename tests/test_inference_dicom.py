"""DICOM series in, label volumes and DICOM segmentations out."""

import builtins
import gzip
import json
import shutil
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import yaml
from small_dicom import DICOM_NAME, make_slice, write_series
from small_study import SPACING_MM, affine_of, anatomy, files_below, log_lines, save_volume, with_numbers

from ragsam.api.segment import segment_with_run
from ragsam.cli import main
from ragsam.data.cards.load import Code, load_card, parse_card
from ragsam.errors import InputError
from ragsam.inference.dicom_seg import write_dicom_seg
from ragsam.io.dicom_series import slice_files
from ragsam.io.read_volume import open_volume

REAL = Path(__file__).parents[2] / "shared" / "data" / "body_ct"
CARD = load_card("hippocampus")
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def write_anatomy(folder, seed, **values):
    """Write the anatomy of a seed as DICOM stores it, left and back first, lying as `affine_of()` has it."""
    image = anatomy(seed)[0]
    corner = affine_of() @ (31, 31, 0, 1)
    origin = (-corner[0], -corner[1], corner[2])
    return write_series(folder, image[::-1, ::-1], origin=origin, spacing_mm=SPACING_MM, **values)


def upright(path):
    volume = nib.as_closest_canonical(nib.load(path))
    return np.asarray(volume.dataobj), volume.affine


@pytest.fixture
def refused(capfd):
    """Return a function that runs a command that must be refused, and gives the line that says why."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        (line,) = log_lines(capfd.readouterr().err)
        assert code == 2
        assert line.startswith("ragsam: ")
        return line.removeprefix("ragsam: ")

    return call


# Segmenting


def test_a_series_gets_the_labels_of_its_nifti_twin(run, tmp_path, capfd):
    """In the world: the series' own array runs from left to right and from back to front."""
    save_volume(tmp_path / "twin.nii.gz", anatomy(91)[0], affine_of())
    write_anatomy(tmp_path / "scan ö 日本" / "deep", 91)
    inputs = [str(tmp_path / "twin.nii.gz"), str(tmp_path / "scan ö 日本")]
    assert main(["segment", str(run), *inputs, "--output", str(tmp_path / "out")]) == 0
    assert files_below(tmp_path / "out") == with_numbers(
        ["provenance.json", "retrieval.json", "scan ö 日本.nii.gz", "twin.nii.gz"]
    )
    (expected, affine), (found, world) = (upright(tmp_path / "out" / f"{n}.nii.gz") for n in ("twin", "scan ö 日本"))
    assert expected.any()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(world, affine, atol=1e-5)
    made = nib.load(tmp_path / "out" / "scan ö 日本.nii.gz")
    np.testing.assert_allclose(made.affine, open_volume(tmp_path / "scan ö 日本", "c1").affine, atol=1e-5)
    assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == (1, 1)
    assert made.get_data_dtype() == np.uint8


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd"])
def test_other_formats_get_the_labels_of_their_nifti_twin(run, tmp_path, suffix):
    twin = save_volume(tmp_path / "twin.nii.gz", anatomy(92)[0], affine_of())
    sitk.WriteImage(sitk.ReadImage(str(twin)), str(tmp_path / f"other.{suffix}"))
    segment_with_run(run, [twin, tmp_path / f"other.{suffix}"], tmp_path / "out")
    twin, other = (nib.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("twin", "other"))
    assert np.asarray(twin.dataobj).any()
    np.testing.assert_array_equal(np.asarray(other.dataobj), np.asarray(twin.dataobj))
    np.testing.assert_allclose(other.affine, twin.affine, atol=1e-5)


def test_of_several_series_one_must_be_named(run, tmp_path, refused):
    write_anatomy(tmp_path / "scan" / "a", 93, SeriesInstanceUID="1.2.3.4")
    write_anatomy(tmp_path / "scan" / "b", 94, SeriesInstanceUID="1.2.3.5")
    segment = ("segment", run, tmp_path / "scan", "--output", tmp_path / "out")
    line = refused(*segment)
    assert line.startswith("scan: 2 DICOM series in the folder: 1.2.3.4 (CT, 6 slices); 1.2.3.5 (CT, 6 slices); ")
    assert refused(*segment, "--series", "1.2.3.6").startswith(
        "scan: no series 1.2.3.6 in the folder; it holds 1.2.3.4"
    )
    both = refused(*segment, "--series", "1.2.3.4", "--series", "1.2.3.5")
    assert both == "scan: two of the series asked for are in this folder; segment them one by one"
    assert not (tmp_path / "out").exists()
    assert main([*map(str, segment), "--series", "1.2.3.5"]) == 0
    save_volume(tmp_path / "twin.nii.gz", anatomy(94)[0], affine_of())
    segment_with_run(run, [tmp_path / "twin.nii.gz"], tmp_path / "out")
    (expected, _), (found, _) = (upright(tmp_path / "out" / f"{name}.nii.gz") for name in ("twin", "scan"))
    np.testing.assert_array_equal(found, expected)


def test_a_faulty_series_stops_no_other_input(run, tmp_path, refused):
    write_anatomy(tmp_path / "good", 95)
    write_anatomy(tmp_path / "gap", 96)[2].unlink()
    (tmp_path / "empty").mkdir()
    inputs = [tmp_path / name for name in ("gap", "good", "empty")]
    line = refused("segment", run, *inputs, "--output", tmp_path / "out")
    assert line.startswith("gap: 1 slices are missing")
    assert line.endswith("(1 more at fault, 1 segmented)")
    assert files_below(tmp_path / "out") == with_numbers(["good.nii.gz", "provenance.json", "retrieval.json"])


def test_a_datalist_may_hold_dicom(run, tmp_path):
    """A folder, or one series of a folder, with patients of the datalist's own."""
    write_anatomy(tmp_path / "raw" / "p1", 97)
    write_anatomy(tmp_path / "raw" / "p2" / "a", 98, SeriesInstanceUID="1.2.3.4")
    write_anatomy(tmp_path / "raw" / "p2" / "b", 99, SeriesInstanceUID="1.2.3.5")
    images = {"one": "raw/p1", "two": "raw/p2/1.2.3.4"}
    cases = [{"case": name, "patient": name, "image": image} for name, image in images.items()]
    (tmp_path / "d.json").write_text(json.dumps({"card": "hippocampus", "test": cases}))
    segment_with_run(run, [tmp_path / "d.json"], tmp_path / "out", dicom_seg=True)
    names = ["one.nii.gz", "one.seg.dcm", "provenance.json", "retrieval.json", "two.nii.gz", "two.seg.dcm"]
    assert files_below(tmp_path / "out") == with_numbers(names)


def test_a_patient_is_named_nowhere_but_in_the_segmentation(run, tmp_path, capfd, caplog):
    write_anatomy(tmp_path / "scan", 91)
    (tmp_path / "scan" / "note.txt").write_text(DICOM_NAME)
    arguments = ["segment", str(run), str(tmp_path / "scan"), "--output", str(tmp_path / "out"), "--dicom-seg"]
    assert main(arguments) == 0
    told = capfd.readouterr()
    assert "segment: scan: 1 files of the folder are no DICOM images; left out" in caplog.text
    texts = [told.out, told.err, caplog.text, (tmp_path / "out" / "retrieval.json").read_text()]
    texts.append(gzip.decompress((tmp_path / "out" / "scan.nii.gz").read_bytes()).decode("latin-1"))
    for text in texts:
        assert not any(word in text for word in (*DICOM_NAME.split("^"), "JD-0815", "19700101", "4711", "House"))
    assert pydicom.dcmread(tmp_path / "out" / "scan.seg.dcm").PatientName == DICOM_NAME


# DICOM segmentations


def read_back(path, files):
    """Return the labels [columns, rows, slices] of a segmentation, frame by frame of its source."""
    segmentation = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    frames = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    return frames.transpose(2, 1, 0), segmentation


def draw_labels(shape, values, seed=3):
    labels = np.random.default_rng(seed).choice(values, shape).astype(np.uint8)
    labels[:, :, 1] = 0  # an empty slice
    return labels


@pytest.fixture
def series(tmp_path):
    volume = np.zeros((18, 16, 5), np.int16)
    return write_series(tmp_path / "in", volume, origin=(4, -5, 6), orientation=OBLIQUE, spacing_mm=(0.5, 0.75, 2))


def test_series_to_labels_to_segmentation_and_back_is_bit_exact(run, tmp_path):
    files = write_anatomy(tmp_path / "scan", 91)
    segment_with_run(run, [tmp_path / "scan"], tmp_path / "out", dicom_seg=True)
    assert files_below(tmp_path / "out") == with_numbers(
        ["provenance.json", "retrieval.json", "scan.nii.gz", "scan.seg.dcm"]
    )
    labels = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(read_back(tmp_path / "out" / "scan.seg.dcm", files)[0], labels)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 2), (0,)], ids=["all", "one", "none"])
def test_labels_come_back_where_they_were(tmp_path, series, values):
    labels = draw_labels((18, 16, 5), values)
    write_dicom_seg(tmp_path / "x.seg.dcm", labels, series, CARD, "c1")
    found, segmentation = read_back(tmp_path / "x.seg.dcm", series)
    np.testing.assert_array_equal(found, labels)
    assert segmentation.FrameOfReferenceUID == "1.2.2"
    if not labels.any():
        return
    # By position in the world alone, as another program finds it: highdicom's axes are slice, row, column.
    volume = segmentation.get_volume(combine_segments=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    ours = open_volume(tmp_path / "in", "c1").affine
    back = nib.affines.apply_affine(np.linalg.inv(ours) @ affine, np.argwhere(volume.array))
    np.testing.assert_allclose(back, back.round(), atol=1e-3)
    places = tuple(back.round().astype(int).T)
    np.testing.assert_array_equal(labels[places], volume.array[volume.array > 0])
    assert len(back) == (labels > 0).sum()


def test_codes_and_colours_come_from_the_card(tmp_path, series):
    content = yaml.safe_load(Path(__file__).parents[1].joinpath("data/cards/hippocampus.yaml").read_text())
    side = {"scheme": "SCT", "value": "7771000", "meaning": "Left"}
    content["organs"][0] |= {"code": {"scheme": "SCT", "value": "64033007", "meaning": "Kidney", "modifier": side}}
    content["organs"][1].pop("code", None)
    card = parse_card(content)
    assert card.organs[0].code == Code("SCT", "64033007", "Kidney", Code("SCT", "7771000", "Left"))
    write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1, 2)), series, card, "c1")
    first, second = pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence

    def code(items):
        return tuple((item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning) for item in items)

    kind = first.SegmentedPropertyTypeCodeSequence
    assert code(kind) == (("SCT", "64033007", "Kidney"),)
    assert code(kind[0].SegmentedPropertyTypeModifierCodeSequence) == (("SCT", "7771000", "Left"),)
    assert code(second.SegmentedPropertyTypeCodeSequence) == (("99RAGSAM", "posterior", "posterior"),)
    assert [first.SegmentLabel, second.SegmentLabel] == ["anterior", "posterior"]
    assert [first.SegmentNumber, second.SegmentNumber] == [1, 2]
    assert {segment.SegmentAlgorithmType for segment in (first, second)} == {"AUTOMATIC"}
    colours = [highdicom.color.CIELabColor.from_dicom_value(s.RecommendedDisplayCIELabValue) for s in (first, second)]
    for organ, colour in zip(card.organs, colours, strict=True):
        np.testing.assert_allclose(colour.to_rgb(clip=True), organ.colour, atol=2)


def test_a_segmentation_belongs_to_the_source_s_record(tmp_path, series):
    write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1)), series, CARD, "c1")
    source, made = pydicom.dcmread(series[0]), pydicom.dcmread(tmp_path / "x.dcm")
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert made[name].value == source[name].value
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert made.Modality == "SEG"
    referenced = {item.ReferencedSOPInstanceUID for item in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(path).SOPInstanceUID for path in series}
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"


def test_anonymous_series_get_a_segmentation(tmp_path):
    names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    missing = dict.fromkeys((*names, "AccessionNumber", "ReferringPhysicianName"))
    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), **missing)
    labels = draw_labels((18, 16, 5), (0, 1, 2))
    write_dicom_seg(tmp_path / "x.dcm", labels, files, CARD, "c1")
    np.testing.assert_array_equal(read_back(tmp_path / "x.dcm", files)[0], labels)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientID == ""


@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_series_that_cannot_be_referred_to_is_one_line(run, tmp_path, name, refused):
    write_anatomy(tmp_path / "scan", 91, **{name: None})
    write_anatomy(tmp_path / "good", 92)
    inputs = (tmp_path / "scan", tmp_path / "good")
    line = refused("segment", run, *inputs, "--output", tmp_path / "out", "--dicom-seg")
    assert line.startswith(f"scan: the series has no {name}, which a DICOM segmentation must refer to; ")
    segmented = ["good.nii.gz", "good.seg.dcm", "scan.nii.gz"]
    assert files_below(tmp_path / "out") == with_numbers([*segmented, "provenance.json", "retrieval.json"])


def test_labels_of_another_grid_are_never_written(tmp_path, series):
    with pytest.raises(ValueError, match="labels have 4 slices, the series 5"):
        write_dicom_seg(tmp_path / "x.dcm", np.zeros((18, 16, 4), np.uint8), series, CARD, "c1")
    assert not (tmp_path / "x.dcm").exists()


def test_dicom_options_need_dicom(run, tmp_path, refused):
    write_anatomy(tmp_path / "scan", 91)
    path = save_volume(tmp_path / "a.nii.gz", anatomy(1)[0], affine_of())
    line = refused("segment", run, tmp_path / "scan", path, "--output", tmp_path / "out", "--dicom-seg")
    assert line == "a: --dicom-seg needs a DICOM folder; leave it out for other files"
    line = refused("segment", run, path, "--output", tmp_path / "out", "--series", "1.2.3")
    assert line == "--series: no input is a DICOM folder; leave it out"
    assert not (tmp_path / "out").exists()


def test_without_highdicom_the_extra_is_named(run, tmp_path, refused, monkeypatch):
    write_anatomy(tmp_path / "scan", 91)
    real = builtins.__import__

    def without(name, *args, **options):
        if name.split(".")[0] == "highdicom":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    line = refused("segment", run, tmp_path / "scan", "--output", tmp_path / "out", "--dicom-seg")
    assert line == "--dicom-seg: highdicom is not installed; run `pip install 'ragsam[dicom]'`"


def test_a_folder_may_hold_its_own_segmentation(run, tmp_path):
    """A segmentation filed with its series is no second series."""
    files = write_anatomy(tmp_path / "scan", 91)
    segment_with_run(run, [tmp_path / "scan"], tmp_path / "out", dicom_seg=True)
    shutil.copy(tmp_path / "out" / "scan.seg.dcm", tmp_path / "scan")
    assert slice_files(tmp_path / "scan", case="c1") == files


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/body_ct")
def test_a_real_series_there_and_back(tmp_path):
    """The label volume is turned onto the series' own grid, written as a segmentation and read back."""
    image, label = open_volume(REAL / "dicom_ct_series", "c1"), nib.load(REAL / "example_seg_dicom.nii.gz")
    change = nib.orientations.ornt_transform(nib.io_orientation(label.affine), nib.io_orientation(image.affine))
    labels = nib.apply_orientation(np.asarray(label.dataobj), change)
    labels = np.where(np.isin(labels, (1, 5)), (labels == 5) + 1, 0).astype(np.uint8)  # spleen 1, liver 2
    files = slice_files(REAL / "dicom_ct_series", case="c1")
    write_dicom_seg(tmp_path / "x.dcm", labels, files, CARD, "c1")
    found, _ = read_back(tmp_path / "x.dcm", files)
    assert [int((found == organ).sum()) for organ in (1, 2)] == [130634, 366708]
    np.testing.assert_array_equal(found, labels)


def test_a_slice_alone(tmp_path):
    """One slice, one voxel: the smallest segmentation there is."""
    data = make_slice(np.zeros((16, 18), np.int16), (1, 2, 3))
    (tmp_path / "in").mkdir()
    data.save_as(tmp_path / "in" / "a", enforce_file_format=True)
    labels = np.zeros((18, 16, 1), np.uint8)
    labels[17, 2, 0] = 2
    write_dicom_seg(tmp_path / "x.dcm", labels, [tmp_path / "in" / "a"], CARD, "c1")
    np.testing.assert_array_equal(read_back(tmp_path / "x.dcm", [tmp_path / "in" / "a"])[0], labels)


# Series that highdicom would refuse, or write wrongly


def card_of(*names):
    """Return the test's card with other names for its organs, without codes."""
    content = yaml.safe_load(Path(__file__).parents[1].joinpath("data/cards/hippocampus.yaml").read_text())
    for organ, name in zip(content["organs"], names, strict=True):
        organ["name"] = name
        organ.pop("code", None)
    return parse_card(content)


def texts_of(path):
    """Return the patient and the segments' labels, code values and meanings of a segmentation."""
    data = pydicom.dcmread(path)
    codes = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in data.SegmentSequence]
    values = [code.get("CodeValue") or code.LongCodeValue for code in codes]
    labels = [segment.SegmentLabel for segment in data.SegmentSequence]
    return str(data.PatientName), labels, values, [code.CodeMeaning for code in codes]


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", None, ""])
def test_names_beyond_the_series_character_set_are_kept(tmp_path, charset):
    organs = ["肝臓", "Milz größer"]
    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), SpecificCharacterSet="ISO_IR 100")
    for path in files:
        data = pydicom.dcmread(path)
        if charset is None:
            del data.SpecificCharacterSet
        else:
            data.SpecificCharacterSet = charset
        data.PatientName = "Müller^Jörg" if charset else "Doe^Jane"
        data.save_as(path)
    write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1, 2)), files, card_of(*organs), "c1")
    assert pydicom.dcmread(tmp_path / "x.dcm").SpecificCharacterSet == "ISO_IR 192"
    name = "Müller^Jörg" if charset else "Doe^Jane"
    assert texts_of(tmp_path / "x.dcm") == (name, organs, organs, organs)


def test_a_series_keeps_its_character_set_where_that_will_do(tmp_path):
    values = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), **values)
    write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1)), files, CARD, "c1")
    assert pydicom.dcmread(tmp_path / "x.dcm").SpecificCharacterSet == "ISO_IR 100"
    assert texts_of(tmp_path / "x.dcm")[0] == "Müller^Jörg"


@pytest.mark.parametrize("charset", [["", "ISO 2022 IR 87"], "ISO 2022 IR 100", "latin1"])
def test_character_sets_with_code_extensions_become_utf8(tmp_path, charset):
    name = "Yamada^Tarou=山田^太郎" if isinstance(charset, list) else "Doe^Jane"
    values = {"SpecificCharacterSet": charset, "PatientName": name}
    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), **values)
    labels = draw_labels((18, 16, 5), (0, 1, 2))
    write_dicom_seg(tmp_path / "x.dcm", labels, files, CARD, "c1")
    assert texts_of(tmp_path / "x.dcm")[:2] == (name, ["anterior", "posterior"])
    np.testing.assert_array_equal(read_back(tmp_path / "x.dcm", files)[0], labels)


def test_a_backslash_does_not_part_a_name(tmp_path, series):
    write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1)), series, card_of("lobe 1\\2", "b"), "c1")
    assert texts_of(tmp_path / "x.dcm")[1] == ["lobe 1/2", "b"]


def test_slices_that_differ_by_rounding_get_a_segmentation(tmp_path):
    def edit(index, data):
        data.ImageOrientationPatient = [value + 1e-6 * (index % 2) for value in (1, 0, 0, 0, 1, 0)]
        data.PixelSpacing = [1 + 1e-6 * (index % 2), 1]

    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), edit=edit)
    labels = draw_labels((18, 16, 5), (0, 1, 2))
    write_dicom_seg(tmp_path / "x.dcm", labels, files, CARD, "c1")
    np.testing.assert_array_equal(read_back(tmp_path / "x.dcm", files)[0], labels)


def malformed_thickness(_, data):
    data["SliceThickness"]._value = "2,5"


def no_thickness(_, data):
    del data.SliceThickness


def malformed_diameter(_, data):
    data.ReconstructionDiameter = 1
    data["ReconstructionDiameter"]._value = "3,5"


def false_spacing(_, data):
    data.SpacingBetweenSlices = 7


@pytest.mark.parametrize("edit", [malformed_thickness, no_thickness, malformed_diameter, false_spacing])
def test_a_header_s_unused_values_stop_no_segmentation(tmp_path, edit):
    files = write_series(tmp_path / "in", np.zeros((18, 16, 5), np.int16), spacing_mm=(1, 1, 2.5), edit=edit)
    labels = draw_labels((18, 16, 5), (1, 2))
    write_dicom_seg(tmp_path / "x.dcm", labels, files, CARD, "c1", every_slice=True)
    found, segmentation = read_back(tmp_path / "x.dcm", files)
    np.testing.assert_array_equal(found, labels)
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == 2.5
    assert float(measures.SliceThickness) == (3 if edit in (malformed_diameter, false_spacing) else 2.5)


def test_why_none_can_be_made_is_told_without_a_patient_s_data(tmp_path, series, monkeypatch):
    for said, told in (("Labels are too odd.", "(Labels are too odd)"), ("no room for Doe^Jane", "(ValueError)")):

        def fail(*_, said=said, **__):
            raise ValueError(said)

        monkeypatch.setattr("highdicom.seg.Segmentation", fail)
        with pytest.raises(InputError) as error:
            write_dicom_seg(tmp_path / "x.dcm", draw_labels((18, 16, 5), (0, 1)), series, CARD, "c1")
        assert f"c1: no DICOM segmentation can be made of this series {told}; " in str(error.value)
