"""`ragsam segment --prompts`, end to end: clicks, boxes, drafts and corrections in voxels of the input's own file."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import QUICK, log_lines

from ragsam.api.index import index_run
from ragsam.api.train import train_run
from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.metrics.overlap import dice
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights
from ragsam.networks.sam import build_sam
from ragsam.prompting import prompted_run
from ragsam.prompting.propagation import Following, propagate
from ragsam.retrieval.bank import Bank
from ragsam.runs.network_config import network_options
from ragsam.runs.templates import make_run

CASES = ("case-te-ras", "case-te-flipped", "case-te-oblique")
LEFT, RIGHT = "anterior", "posterior"  # of the card: the study's organs 1 and 2


@pytest.fixture(scope="module")
def answering(study, tmp_path_factory):
    """A run trained from scratch to answer prompts, without retrieval."""
    options = {**QUICK, "steps_per_epoch": 20, "prompts": "trained", "retrieval": False, "fusion": None}
    return train_run("sam_lora", study, tmp_path_factory.mktemp("answering") / "run", options)


def untrained(study, folder, base=None, **options):
    """Return a run whose weights are what a network starts with."""
    run = make_run("sam_lora", study, folder, {"retrieval": False, "base": base and str(base), **options})
    torch.manual_seed(0)
    network = Segmenter(**network_options((run / "configs" / "inference.yaml").read_text(), 2))
    save_weights(run / "models" / "model.safetensors", network.trainable_state(), network.about)
    return run


def volumes(study, case):
    """Return (image path, label array) of a test case."""
    (found,) = (one for one in load_datalist(study).section("test") if one.case == case)
    return found.image, np.asarray(nib.load(found.label).dataobj)


def ask(folder, prompts, run, inputs, *options):
    """Run the command; return its exit code."""
    path = folder / "prompts.json"
    path.write_text(json.dumps(prompts), encoding="utf-8")
    return main(
        ["segment", str(run), *map(str, inputs), "--prompts", str(path), "--output", str(folder / "out"), *options]
    )


def written(folder, case):
    image = nib.load(folder / "out" / f"{case}.nii.gz")
    return image, np.asarray(image.dataobj)


def middle(mask):
    """Return the voxel of a mask that is nearest to its centre, as a point."""
    voxels = np.argwhere(mask)
    voxel = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
    return dict(zip("ijk", map(int, voxel), strict=True))


def box_of(mask, k):
    i, j = np.nonzero(mask[..., k])
    return {"i": [int(i.min()), int(i.max())], "j": [int(j.min()), int(j.max())], "k": [k, k]}


def following_all(answer, found, depth, _following):
    return propagate(answer, found, depth, Following(lowest_quality=-1))


def following_none(answer, found, depth, _following):
    return propagate(answer, found, depth, Following(lowest_quality=2))


@pytest.mark.parametrize("case", CASES)
def test_an_object_is_found_where_it_lies_in_the_file_and_followed(answering, study, tmp_path, monkeypatch, case):
    """The oracle's box in one slice; whatever way the file's axes run, the organ's own voxels come back.

    A network of forty steps knows little of its masks' quality, so that it is not asked when to stop.
    """
    monkeypatch.setattr(prompted_run, "propagate", following_all)
    image, label = volumes(study, case)
    k = middle(label == 1)["k"]
    asked = {"organ": LEFT, "box": box_of(label == 1, k)}
    assert ask(tmp_path, {case: [asked]}, answering, [image]) == 0
    stored, found = written(tmp_path, case)
    assert np.allclose(stored.affine, nib.load(image).affine, atol=1e-5)
    assert set(np.unique(found)) == {0, 1}
    assert np.unique(np.nonzero(found)[2]).tolist() == [k]
    assert dice(label[..., k] == 1, found[..., k] == 1) > 0.5  # with i mirrored it would be about 0
    assert ask(tmp_path, {case: [{**asked, "propagate": True}]}, answering, [image]) == 0
    followed = written(tmp_path, case)[1]
    assert np.array_equal(followed[..., k], found[..., k])
    assert len(np.unique(np.nonzero(followed)[2])) > 1
    (told,) = json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"][case]["objects"]
    assert (told["name"], told["value"], told["axis"], told["prompted"]) == (LEFT, 1, "k", [k])
    assert sorted(map(int, told["quality"])) == np.unique(np.nonzero(followed)[2]).tolist()


def test_a_box_that_is_not_followed_beyond_its_slice_says_so(answering, study, tmp_path, monkeypatch, caplog):
    """No mask is of a quality of 2; where the object is not to be followed nothing is said."""
    monkeypatch.setattr(prompted_run, "propagate", following_none)
    image, label = volumes(study, "case-te-flipped")
    k = middle(label == 1)["k"]
    asked = {"organ": LEFT, "box": box_of(label == 1, k)}
    assert ask(tmp_path, {"case-te-flipped": [asked]}, answering, [image]) == 0
    assert "propagation" not in caplog.text
    assert ask(tmp_path, {"case-te-flipped": [{**asked, "propagate": True}]}, answering, [image]) == 0
    told = f"case-te-flipped: {LEFT}: propagation ended where it started, at k {k}: in the next the object is empty, "
    assert told + "elsewhere or of low quality; prompt more slices" in caplog.messages


def test_refining_an_organ_changes_its_slice_alone_and_no_other_organ_beyond_it(answering, study, tmp_path):
    case = "case-te-flipped"
    image, label = volumes(study, case)
    assert main(["segment", str(answering), str(image), "--output", str(tmp_path / "plain")]) == 0
    automatic = np.asarray(nib.load(tmp_path / "plain" / f"{case}.nii.gz").dataobj)
    point = middle(label == 1)
    asked = {"organ": LEFT, "points": [point, {**middle(label == 2), "k": point["k"], "inside": False}], "refine": True}
    assert ask(tmp_path, {case: [asked]}, answering, [image]) == 0
    refined = written(tmp_path, case)[1]
    others = [k for k in range(label.shape[2]) if k != point["k"]]
    assert np.array_equal(refined[..., others], automatic[..., others])
    before, after = automatic[..., point["k"]], refined[..., point["k"]]
    touched = (before == 1) | (after == 1)
    assert np.array_equal(before[~touched], after[~touched])
    assert after[point["i"], point["j"]] == 1
    assert json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"][case]["automatic"] is True


def test_an_object_without_a_name_on_the_card_has_the_next_value_and_the_later_lies_on_top(answering, study, tmp_path):
    case = "case-te-ras"
    image, label = volumes(study, case)
    k = middle(label == 1)["k"]
    box = box_of(label == 1, k)
    asked = [{"organ": LEFT, "box": box}, {"object": "cyst", "box": box}, {"object": "scar", "box": box}]
    assert ask(tmp_path, {case: asked}, answering, [image]) == 0
    assert set(np.unique(written(tmp_path, case)[1])) == {0, 4}
    told = json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"][case]["objects"]
    assert [(one["name"], one["value"]) for one in told] == [(LEFT, 1), ("cyst", 3), ("scar", 4)]


def test_a_draft_prompts_its_slices(answering, study, tmp_path):
    case = "case-te-flipped"
    image, label = volumes(study, case)
    source = nib.load(image)
    draft = np.roll(label, 1, axis=0).astype(np.uint8)
    nib.save(nib.Nifti1Image(draft, source.affine), tmp_path / "draft.nii.gz")
    asked = {"organ": RIGHT, "mask": {"file": "draft.nii.gz", "value": 2}}
    assert ask(tmp_path, {case: [asked]}, answering, [image]) == 0
    (told,) = json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"][case]["objects"]
    assert told["prompted"] == np.unique(np.nonzero(draft == 2)[2]).tolist()
    found = np.nonzero(written(tmp_path, case)[1] == 2)[2]
    assert len(found) > 0
    assert set(found) <= set(told["prompted"])
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(draft, source.affine)), tmp_path / "draft.nii.gz")
    assert ask(tmp_path, {case: [asked]}, answering, [image]) == 0  # the same draft with its axes the other way
    assert json.loads((tmp_path / "out" / "prompts.json").read_text())["cases"][case]["objects"] == [told]
    moved = source.affine.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(draft, moved), tmp_path / "draft.nii.gz")
    assert ask(tmp_path, {case: [asked]}, answering, [image]) == 2


def test_base_weights_answer_in_a_run_that_left_prompts_out(study, tmp_path):
    torch.manual_seed(1)
    base = tmp_path / "sam.pth"
    torch.save(build_sam("vit_tiny", image_size=32).state_dict(), base)
    run = untrained(study, tmp_path / "run", base)
    image, _ = volumes(study, "case-te-ras")
    asked = {"object": "anything", "points": [{"i": 4, "j": 9, "k": 2}]}
    assert ask(tmp_path, {"case-te-ras": [asked]}, run, [image]) == 0
    assert set(np.unique(written(tmp_path, "case-te-ras")[1])) <= {0, 3}


POINT = {"i": 3, "j": 4, "k": 2}


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"case-te-ras": [{"organ": "liver", "points": [POINT]}]}, "liver is not an organ of the card hippocampus"),
        (
            {"case-te-ras": [{"organ": LEFT, "points": [{**POINT, "k": 6}]}]},
            f"case-te-ras: {LEFT}: point: (i 3, j 4, k 6) is outside the volume, whose k runs from 0 to 5",
        ),
        ({"other": [{"organ": LEFT, "points": [POINT]}]}, "case-te-ras: prompts.json has no prompts for it"),
        (
            {"case-te-ras": [{"organ": LEFT, "points": [POINT]}], "other": [{"organ": LEFT, "points": [POINT]}]},
            "other is not among the inputs",
        ),
        (
            {"case-te-ras": [{"organ": LEFT, "mask": {"file": "none.nii.gz"}}]},
            f"case-te-ras: {LEFT}: mask: no such file",
        ),
    ],
)
def test_faulty_prompts_are_one_line_and_write_nothing(answering, study, tmp_path, capsys, prompts, words):
    image, _ = volumes(study, "case-te-ras")
    assert ask(tmp_path, prompts, answering, [image]) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_network_that_answers_no_prompts_names_the_way_out(run, study, tmp_path, capsys):
    image, _ = volumes(study, "case-te-ras")
    assert ask(tmp_path, {"case-te-ras": [{"organ": LEFT, "points": [POINT]}]}, run, [image]) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert "answers no prompts and has no base weights; train one with --set prompts=trained" in line


def test_prompts_are_not_mixed_with_what_they_do_not_serve(answering, study, tmp_path, capsys):
    image, _ = volumes(study, "case-te-ras")
    asked = {"case-te-ras": [{"organ": LEFT, "points": [POINT]}]}
    assert ask(tmp_path, asked, answering, [image], "--uncertainty") == 2
    assert "--uncertainty: not with --prompts" in capsys.readouterr().err


def test_a_corrected_organ_is_a_neighbour_of_the_next_case(study, tmp_path, capsys):
    """The first input's organ joins the bank; the second's retrieval can use it, and `--remove` takes it out."""
    run = untrained(study, tmp_path / "run", prompts="trained", retrieval=True)
    index_run(run)
    size = len(Bank.open(run / "bank"))
    asked, images = {}, []
    for case in CASES[:2]:
        image, label = volumes(study, case)
        images.append(image)
        asked[case] = [{"organ": LEFT, "points": [middle(label == 1)], "refine": True}]
    single = {**asked, CASES[0]: [{"organ": LEFT, "points": [middle(label == 1)]}]}
    assert ask(tmp_path, single, run, images, "--add-to-bank") == 2
    assert f"--add-to-bank: {CASES[0]}: {LEFT} is sought in single slices" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert ask(tmp_path, asked, run, images, "--add-to-bank") == 0
    grown = Bank.open(run / "bank")
    assert len(grown) == size + 2 * 6
    own = np.isin(grown.patients, list(grown.own_patients(CASES[0], None)))
    assert grown.annotated[own].tolist() == [[True, True, False]] * 6
    assert main(["index", str(run), "--remove", *CASES[:2]]) == 0
    assert len(Bank.open(run / "bank")) == size
