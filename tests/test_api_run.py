"""The public Python API: a run loaded once, with the results of the command line to the voxel."""

import gc
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import write_study

import ragsam
from ragsam.api.pack import pack_run
from ragsam.api.segment_prompts import segment_prompted
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights
from ragsam.runs.network_config import network_options
from ragsam.runs.templates import make_run


@pytest.fixture(scope="module")
def loaded(run):
    return ragsam.load(run)


@pytest.fixture(scope="module")
def case(study):
    return load_datalist(study).section("test")[1]  # stored flipped


def voxels(image):
    return np.asarray(image.dataobj)


def test_a_path_gives_what_the_command_writes(loaded, segmented, case):
    result = loaded.segment(case.image, patient=case.patient)
    written = nib.load(segmented / f"{case.case}.nii.gz")
    assert result.labels.get_data_dtype() == np.uint8
    assert np.array_equal(voxels(result.labels), voxels(written))
    assert np.array_equal(result.labels.affine, written.affine)
    assert voxels(result.labels).any()
    trace = read_json(segmented / "retrieval.json")["cases"][case.case]
    assert {str(number): list(told) for number, told in result.neighbours.items()} == trace["slices"]
    assert result.novelty.as_json() == trace["novelty"]


def test_images_in_memory_give_the_same(loaded, segmented, case):
    import SimpleITK as sitk  # noqa: N813

    image = nib.load(case.image)
    wanted = voxels(nib.load(segmented / f"{case.case}.nii.gz"))
    given = {
        "nibabel": image,
        "SimpleITK": sitk.ReadImage(str(case.image)),
        "numpy": (np.asarray(image.dataobj), image.affine),
    }
    for how, one in given.items():
        result = loaded.segment(one, patient=case.patient)
        assert np.array_equal(voxels(result.labels), wanted), how
        assert np.allclose(result.labels.affine, image.affine, atol=1e-4), how
    assert np.array_equal(voxels(image), voxels(nib.load(case.image)))  # what is given stays as it is


def test_probabilities_and_volumes(run, loaded, case, tmp_path):
    ragsam.segment(run, [case.image], tmp_path, probabilities=True)
    result = loaded.segment(case.image)
    for organ, value in loaded.card.labels.items():
        written = nib.load(tmp_path / "probabilities" / case.case / f"{organ}.nii.gz")
        found = result.probabilities(organ)
        assert found.shape == written.shape
        assert np.abs(found.get_fdata() - written.get_fdata()).max() < 1e-6
        voxel_ml = abs(np.linalg.det(written.affine[:3, :3])) / 1000
        assert result.volumes_ml[organ] == pytest.approx((voxels(result.labels) == value).sum() * voxel_ml)
    with pytest.raises(InputError, match="liver: no organ of this run; it has anterior, posterior"):
        result.probabilities("liver")
    with pytest.raises(InputError, match="no probabilities"):
        loaded.segment(case.image, probabilities=False).probabilities("anterior")


def test_retrieval_may_be_off(run, loaded, case, tmp_path):
    ragsam.segment(run, [case.image], tmp_path, retrieval=False)
    result = loaded.segment(case.image, retrieval=False)
    assert np.array_equal(voxels(result.labels), voxels(nib.load(tmp_path / f"{case.case}.nii.gz")))
    assert result.neighbours == {}
    assert result.novelty is None


def test_a_second_volume_loads_nothing_again(run, case):
    loaded = ragsam.load(run)
    first = loaded.segment(case.image)
    network = loaded._loaded.network
    opened: list[str] = []
    listening = [True]

    def listen(event, args):
        if listening[0] and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(listen)  # it cannot be taken away, so it is told to stop
    again = loaded.segment(case.image)
    listening[0] = False
    assert loaded._loaded.network is network
    assert np.array_equal(voxels(first.labels), voxels(again.labels))
    assert str(case.image) in opened
    assert not [name for name in opened if name.startswith(str(run))]


def test_nothing_is_printed(run, case, capfd):
    ragsam.load(run).segment(case.image)
    assert capfd.readouterr() == ("", "")


def test_a_packed_run_is_loaded_and_goes_with_its_folder(run, loaded, case, tmp_path):
    pack_run(run, tmp_path / "liver.zip")
    packed = ragsam.load(tmp_path / "liver.zip")
    place = packed.path
    assert place.is_dir()
    wanted = loaded.segment(case.image)
    assert np.array_equal(voxels(packed.segment(case.image).labels), voxels(wanted.labels))
    del packed
    gc.collect()
    assert not place.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, r"not a run \(no configs/inference.yaml\)"),
        (lambda path: path / "nowhere", "not a run"),
        (lambda path: (path / "a.zip").write_bytes(b"no zip") and path / "a.zip", "not a zip, or a damaged one"),
        (lambda path: "sam_lora", "not a run"),
    ],
)
def test_what_is_no_run_is_one_clear_error(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        ragsam.load(make(tmp_path))


def test_an_untrained_run_is_refused(own_run):
    (own_run / "models" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"not trained \(no model.safetensors\)"):
        ragsam.load(own_run)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (3, r"int: give a path, an image of nibabel or SimpleITK, or \(array, affine\)"),
        ((np.zeros((4, 4)), np.eye(4)), "not three-dimensional"),
        ((np.full((4, 4, 4), np.nan), np.eye(4)), "64 voxels are NaN or infinite"),
        ((np.zeros((4, 4, 4)), np.zeros((4, 4))), "no .4, 4. matrix from voxels to mm, or singular"),
    ],
)
def test_images_that_cannot_be_segmented(loaded, image, words):
    with pytest.raises(InputError, match=words):
        loaded.segment(image)


def test_prompts_a_network_does_not_answer_are_refused(loaded, case):
    with pytest.raises(InputError, match="its network answers no prompts"):
        loaded.segment(case.image, prompts=[ragsam.Click(3, 4, 2)])


def test_clicks_and_boxes_are_answered_as_the_command_answers_a_file_of_prompts(study, case, tmp_path):
    folder = make_run("sam_lora", study, tmp_path / "run", {"prompts": "trained"})
    torch.manual_seed(0)
    network = Segmenter(**network_options((folder / "configs" / "inference.yaml").read_text(), 2))
    save_weights(folder / "models" / "model.safetensors", network.trainable_state(), network.about)
    asked = [
        {"organ": "posterior", "points": [{"i": 12, "j": 14, "k": 3}, {"i": 2, "j": 2, "k": 3, "inside": False}]},
        {"object": "cyst", "box": {"i": [4, 9], "j": [5, 12], "k": [1, 2]}},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps({case.case: asked}))
    segment_prompted(folder, [case.image], tmp_path / "prompts.json", tmp_path / "out", retrieval=False)
    click, box = ragsam.Click, ragsam.Box
    prompts = [click(12, 14, 3, object="posterior"), click(2, 2, 3, inside=False, object="posterior")]
    prompts.append(box((4, 9), (5, 12), (1, 2), object="cyst"))
    loaded = ragsam.load(folder)
    wanted = voxels(nib.load(tmp_path / "out" / f"{case.case}.nii.gz"))
    for image in (case.image, nib.load(case.image)):
        result = loaded.segment(image, prompts=prompts)
        assert np.array_equal(voxels(result.labels), wanted)
    assert result.values == {"posterior": 2, "cyst": 3}
    assert list(result.objects) == read_json(tmp_path / "out" / "prompts.json")["cases"][case.case]["objects"]
    refined = loaded.segment(case.image, prompts=prompts[:2], refine=True, retrieval=False)
    assert refined.values == {"anterior": 1, "posterior": 2}
    with pytest.raises(InputError, match="cyst has two boxes"):
        loaded.segment(case.image, prompts=[*prompts, prompts[-1]])
    with pytest.raises(InputError, match="refine starts from the automatic result of an organ"):
        loaded.segment(case.image, prompts=prompts, refine=True)


def test_bank_grows_and_shrinks_and_is_searched_anew(own_run, study, case, tmp_path):
    shutil.copytree(own_run / "bank", tmp_path / "bank")
    shutil.rmtree(own_run / "bank")
    shutil.move(tmp_path / "bank", own_run / "bank")  # own files: those of the fixture are links
    run = ragsam.load(own_run)
    before = run.bank.manifest
    first = run.segment(case.image)
    more = load_datalist(write_study(tmp_path / "more")).section("validation")
    entry = {"case": "new", "patient": "patient-new", "image": more[0].image, "label": str(more[0].label)}
    grown = run.bank.add([entry])
    assert grown["patients"] == before["patients"] + 1
    assert grown["slices"] > before["slices"]
    assert run.bank.manifest["slices"] == grown["slices"]
    with_more = run.segment(case.image)
    assert with_more.novelty != first.novelty
    assert run.bank.remove(["patient-new"])["slices"] == before["slices"]
    assert np.array_equal(voxels(run.segment(case.image).labels), voxels(first.labels))


def test_evaluate_measures_as_the_commands_do(loaded, study, segmented, tmp_path):
    metrics = loaded.evaluate(study, tmp_path / "out")
    ours = ragsam.evaluate(study, segmented, tmp_path / "theirs")
    assert metrics["summary"] == ours["summary"]
    assert (tmp_path / "out" / "report.html").is_file()
    cases = load_datalist(study).section("test")
    assert loaded.evaluate(cases)["summary"] == metrics["summary"]


def test_importing_is_light_and_names_are_complete():
    code = "import sys, ragsam; print(sorted({'torch', 'monai', 'numpy', 'nibabel'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in ragsam.__all__:
        assert getattr(ragsam, name) is not None
    assert set(ragsam.__all__) <= set(dir(ragsam))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ragsam.nothing
