"""`ragsam segment` reads every input once, and goes on where one cannot be read."""

import gc
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_study import affine_of, anatomy, save_volume

import ragsam
from ragsam.data.checks.check_case import read_volume_checked
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError


def test_every_input_is_read_once(run, tmp_path, unpacked):
    image, _ = anatomy(5, (48, 48, 40))
    paths = [save_volume(tmp_path / f"{name}.nii.gz", image, affine_of()) for name in ("one", "two")]
    ragsam.segment(run, paths, tmp_path / "out")
    for path in paths:  # beside the voxels headers are read, a block of gzip each time
        assert image.nbytes <= unpacked[str(path)] < 1.5 * image.nbytes
    before = dict(unpacked)
    ragsam.load(run).segment(paths[0])
    assert unpacked[str(paths[0])] - before[str(paths[0])] < 1.5 * image.nbytes


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_faulty_input_stops_no_other_wherever_it_stands(run, study, tmp_path, place):
    cases = load_datalist(study).section("test")
    inputs = [case.image for case in cases[:2]]
    (tmp_path / "cut.nii.gz").write_bytes(cases[2].image.read_bytes()[:2000])
    inputs.insert(place, tmp_path / "cut.nii.gz")
    with pytest.raises(InputError, match=r"cut: the file is cut short .* \(2 segmented\)"):
        ragsam.segment(run, inputs, tmp_path / "out")
    for case in cases[:2]:
        assert (tmp_path / "out" / f"{case.case}.nii.gz").is_file()
    assert not (tmp_path / "out" / "cut.nii.gz").exists()


def odd_images(folder, image):
    """Save an image in four ways that no label volume can follow, and one under a name in Latin-1."""
    voxels = np.asarray(image.dataobj, np.int16)
    unknown_unit = nib.Nifti1Image(voxels, image.affine)
    unknown_unit.header["xyzt_units"] = 5
    nib.save(unknown_unit, folder / "unit.nii.gz")
    nib.save(nib.Nifti2Image(np.zeros((40_000, 1, 1), np.int16), image.affine), folder / "long.nii")
    nib.save(nib.MGHImage(voxels, image.affine), folder / "x.mgz")
    nib.save(nib.AnalyzeImage(voxels, image.affine), folder / "analyze.img")
    nib.save(nib.Nifti1Image(voxels, image.affine), folder / "a.nii.gz")
    os.rename(folder / "a.nii.gz", folder / "caf\udce9.nii.gz")


def test_odd_images_are_told_and_the_others_segmented(run, study, tmp_path, caplog):
    sound, other = (case.image for case in load_datalist(study).section("test")[:2])
    caplog.set_level("INFO", "ragsam")
    folder = tmp_path / "images"
    folder.mkdir()
    odd_images(folder, nib.load(sound))
    shutil.copy(sound, folder / "sound.nii.gz")
    listed = [{"case": name, "patient": name, "image": f"images/{name}"} for name in ("x.mgz", "analyze.hdr")]
    listed.append({"case": "listed", "patient": "listed", "image": str(other)})
    datalist = tmp_path / "d.json"
    datalist.write_text(json.dumps({"card": load_datalist(study).card, "test": listed}))
    with pytest.raises(InputError, match=r"\(4 more at fault, 2 segmented\)"):
        ragsam.segment(run, [folder, datalist], tmp_path / "out", retrieval=False)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["listed.nii.gz", "sound.nii.gz"]
    assert "images: 3 files of the folder are not volumes; skipped" in caplog.messages  # .mgz, .img and .hdr
    for image in ("unit.nii.gz", "long.nii", "caf\udce9.nii.gz"):
        with pytest.raises(InputError, match=r"unit 5, unknown to NIfTI|a side above 32767|is not UTF-8"):
            read_volume_checked(folder / image, "c1")


def test_nothing_is_written_where_no_input_can_be_read(run, tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cut: "):
        ragsam.segment(run, [tmp_path / "cut.nii.gz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.json", b"{\xff", "metadata.json: "),
        ("metadata.json", b"[1]", "metadata.json: .*object"),
        ("inference.yaml", b"image_size: 32\n", "no LabelVolumeWriter among the handlers of its inference.yaml"),
    ],
)
def test_a_run_with_a_damaged_config_is_refused_in_words(run, study, tmp_path, name, text, words):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "configs" / name).write_bytes(text)
    with pytest.raises(InputError, match=words):
        ragsam.segment(tmp_path / "run", [study], tmp_path / "out", retrieval=False)
    assert not (tmp_path / "out").exists()


def test_a_config_that_monai_cannot_parse_is_refused_in_words(run, study, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    with open(tmp_path / "run" / "configs" / "inference.yaml", "a") as config:
        config.write("\nhandlers#1e400: 3\n")
    with pytest.raises(InputError, match=r"the run's config: invalid literal .*'1e400' \(ValueError\); take"):
        ragsam.segment(tmp_path / "run", [study], tmp_path / "out", retrieval=False)


@pytest.mark.parametrize(
    ("name", "in_python"),
    [
        *((name, False) for name in ("evaluator", "dataloader", "dataset", "network", "inferer")),
        *((name, True) for name in ("dataset", "network", "inferer")),
    ],
)
def test_a_config_with_a_plain_value_for_a_part_is_refused_in_words(run, study, tmp_path, name, in_python):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "configs" / "inference.yaml"
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, name: True}, sort_keys=False))
    image = load_datalist(study).section("test")[0].image
    jobs = {
        False: lambda: ragsam.segment(tmp_path / "run", [image], tmp_path / "out", retrieval=False),
        True: lambda: ragsam.load(tmp_path / "run").segment(image, retrieval=False),
    }
    with pytest.raises(InputError, match="the run's config: "):
        jobs[in_python]()


def test_segmenting_again_and_again_leaves_no_file_open_and_no_thread(run, study, tmp_path):
    """Banks are memory-mapped, and label volumes are written in a thread."""
    gc.collect()
    gc.disable()
    try:
        left = []
        for number in range(3):
            ragsam.segment(run, [study], tmp_path / str(number), ensemble=[run] * (number == 2))
            left.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
    finally:
        gc.enable()
    assert left[1:] == left[:1] * 2
