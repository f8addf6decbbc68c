"""What a served run adds to MONAI Label's app, without the server: `test_monailabel.py` has the real one."""

import json
import os
import subprocess

import highdicom
import nibabel as nib
import numpy as np
import pytest
import torch
from small_dicom import write_series
from small_study import SPACING_MM, affine_of, anatomy, flipped, save_volume

from ragsam.api.segment_prompts import segment_prompted
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.inference.novelty_ranking import rank_volumes
from ragsam.io.read_volume import open_volume
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights
from ragsam.prompting.prompt_file import ObjectPrompts
from ragsam.runs.network_config import network_options
from ragsam.runs.templates import make_run
from ragsam.serving import novelty_strategy as served_novelty
from ragsam.serving.app import RunTasks
from ragsam.serving.dicom_program import labels_on_series, main, write_program
from ragsam.serving.novelty_strategy import NoveltyStrategy
from ragsam.serving.prompt_task import PromptTask, asked_object
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint

CARD = load_card("hippocampus")


# Prompts


def test_a_viewers_clicks_and_box_are_prompts():
    request = {"label": "Anterior", "foreground": [[1, 2, 3]], "background": [[4, 5.5, 6]], "roi": [9, 7, 1, 2, 5, 5]}
    points = (VoxelPoint(1, 2, 3, inside=True), VoxelPoint(4, 5.5, 6, inside=False))
    box = VoxelBox((7.0, 9.0), (1.0, 2.0), (5.0, 5.0))
    assert asked_object(request, CARD) == ObjectPrompts("anterior", True, points, box)
    both = {"propagate": True, "refine": True}
    assert asked_object({**request, **both}, CARD) == ObjectPrompts("anterior", True, points, box, **both)
    # Something that the card does not know cannot be refined, and may have no name.
    other = asked_object({"foreground": [[1, 2, 3]], "roi": [], **both}, CARD)
    assert other == ObjectPrompts("object", False, points[:1], propagate=True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "object: no prompt; send foreground or background clicks, or a roi"),
        ({"label": "posterior", "foreground": [], "roi": []}, "posterior: no prompt"),
        ({"foreground": [[1, 2]]}, r"foreground: \[1, 2\] is not 3 numbers"),
        ({"background": [[1, 2, "3"]]}, "background: .* is not 3 numbers"),
        ({"foreground": [[1, 2, True]]}, "is not 3 numbers"),
        ({"foreground": [[1, 2, float("nan")]]}, "is not 3 numbers"),
        ({"roi": [1, 2, 3, 4]}, "roi: .* is not 6 numbers"),
        ({"roi": 5}, "roi: 5 is not 6 numbers"),
    ],
)
def test_faulty_prompts_are_refused(request_, words):
    with pytest.raises(InputError, match=words):
        asked_object(request_, CARD)


@pytest.fixture(scope="module")
def answering(study, tmp_path_factory):
    """A run that answers prompts, its weights those that it starts with."""
    run = make_run("sam_lora", study, tmp_path_factory.mktemp("answering") / "run", {"prompts": "trained"})
    save_start(run, seed=0)
    return run


def save_start(run, seed):
    torch.manual_seed(seed)
    network = Segmenter(**network_options((run / "configs" / "inference.yaml").read_text(), 2))
    save_weights(run / "models" / "model.safetensors", network.trainable_state(), network.about)


def test_a_prompt_is_answered_as_the_command_line_does_by_the_weights_that_there_are(answering, study, tmp_path):
    case = load_datalist(study).section("test")[1]
    point = {"i": 12, "j": 14, "k": 3}
    (tmp_path / "prompts.json").write_text(json.dumps({case.case: [{"organ": "posterior", "points": [point]}]}))
    task, masks = PromptTask(answering), []
    for seed in (0, 1):
        save_start(answering, seed)
        os.utime(answering / "models" / "model.safetensors", ns=(seed, seed))  # saved within one tick of the clock
        segment_prompted(answering, [case.image], tmp_path / "prompts.json", tmp_path / "ours")
        path, told = task({"image": str(case.image), "label": "posterior", "foreground": [[12, 14, 3]]})
        mask, ours = (nib.load(file) for file in (path, tmp_path / "ours" / f"{case.case}.nii.gz"))
        masks.append(np.asarray(mask.dataobj))
        os.unlink(path)
        assert told["label_names"] == {"posterior": 2}
        assert set(np.unique(masks[-1])) == {0, 2}
        assert np.array_equal(masks[-1], ours.dataobj)
        assert np.array_equal(mask.affine, ours.affine)
    assert not np.array_equal(*masks)


# Novelty


class Images:
    """Stands for MONAI Label's datastore."""

    def __init__(self, paths):
        self.paths = paths

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return list(self.paths)

    def get_image_uri(self, image_id):
        return str(self.paths[image_id])


def test_the_most_novel_image_is_chosen_and_scored_once(run, study, tmp_path, monkeypatch):
    cases = load_datalist(study).section("test")
    paths = {case.case: tmp_path / f"{case.case}.nii.gz" for case in cases}
    for case in cases:
        paths[case.case].write_bytes(case.image.read_bytes())
    ranking, _ = rank_volumes(run, list(paths.values()))
    scored = []
    monkeypatch.setattr(
        served_novelty, "rank_volumes", lambda run, new: scored.append(sorted(new)) or rank_volumes(run, new)
    )
    strategy = NoveltyStrategy(run)
    for entry in ranking:  # what is chosen is labelled then
        assert strategy({}, Images(paths)) == {"id": entry["case"], "novelty": entry["score"]}
        labelled = paths.pop(entry["case"])
    assert strategy({}, Images(paths)) is None
    assert len(scored) == 1
    # Another file of that name is scored anew; one that cannot be read is left out.
    labelled.write_bytes(b"no volume")
    os.utime(labelled, ns=(1, 1))
    assert strategy({}, Images({"broken": labelled})) is None
    assert scored[1:] == [[str(labelled)]]


# The app


class BundleApp:
    def init_infers(self):
        return {"ragsam": "a model"}

    def init_strategies(self):
        return {"first": "a strategy"}


def test_a_run_gets_what_it_has_the_network_and_the_bank_for(run, answering):
    class App(RunTasks, BundleApp):
        pass

    app = App()
    app.models = {"ragsam": str(run)}
    assert app.init_infers() == {"ragsam": "a model"}
    assert set(app.init_strategies()) == {"first", "novelty"}
    app.models = {"ragsam": str(answering)}
    assert set(app.init_infers()) == {"ragsam", "ragsam_prompts"}
    assert set(app.init_strategies()) == {"first"}
    info = app.init_infers()["ragsam_prompts"].info()
    assert info["type"] == "deepgrow"
    assert info["labels"] == {"anterior": 1, "posterior": 2}


# DICOM segmentations


@pytest.fixture
def series(tmp_path):
    """A series of 5 slices, its labels in the series' array order, and the same as NIfTI that lies otherwise."""
    image, label = (array[:, :24, :5] for array in anatomy(5))
    label[:, :, 0] = 0
    write_series(tmp_path / "series", image, spacing_mm=SPACING_MM, Modality="MR")
    affine = open_volume(tmp_path / "series", "series").affine
    return tmp_path / "series", label, save_volume(tmp_path / "label.nii.gz", *flipped(label, affine, (0, 2)))


def test_the_program_writes_the_labels_on_the_series_slices(series, tmp_path, capsys):
    folder, label, file = series
    assert np.array_equal(labels_on_series(file, folder), label)
    asked = ["--inputImageList", str(file), "--inputDICOMDirectory", str(folder), "--inputMetadata", "none.json"]
    asked += ["--outputDICOM", str(tmp_path / "seg.dcm")]
    assert main(["--card", "hippocampus", *asked]) == 0
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["anterior", "posterior"]
    assert segmentation.pixel_array.sum() == (label > 0).sum()
    assert segmentation.NumberOfFrames == 2 * label.shape[2]
    assert main(["--card", "lost.yaml", *asked]) == 2
    assert capsys.readouterr().err.startswith("itkimage2segimage: card lost.yaml: no such file")


def test_the_program_is_called_by_dcmqis_name_and_arguments(tmp_path):
    program = write_program(tmp_path / "it's bin", "/bin/echo", tmp_path / "a card.yaml")
    done = subprocess.run([program, "--outputDICOM", "x y"], capture_output=True, text=True)
    assert program == tmp_path / "it's bin" / "itkimage2segimage"
    assert done.stdout == f"-m ragsam.serving.dicom_program --card {tmp_path}/a card.yaml --outputDICOM x y\n"


def test_labels_of_another_grid_are_refused(series, tmp_path):
    folder, label, _ = series
    for array, affine in ((label[:-1], affine_of()), (label, affine_of())):
        with pytest.raises(InputError, match="label: it is not on the series' grid"):
            labels_on_series(save_volume(tmp_path / "other.nii.gz", array, affine), folder)
