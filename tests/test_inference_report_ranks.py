"""The report handler on several processes: each scores its own cases, one writes, and the figures are those of one."""

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Engine
from small_study import anatomy, files_below

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist, write_datalist
from ragsam.errors import InputError
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.inference import evaluation as report_handler
from ragsam.inference.evaluation import EvaluationReport, gather
from ragsam.io.documents import read_json

CARD = load_card("hippocampus")


@pytest.fixture
def scene(tmp_path):
    """Four cases of three patients; the predictions are shifted by none to three voxels."""
    cases = []
    for number in range(4):
        image, label = anatomy(number, (16, 16, 4))
        name = f"case{number}"
        paths = {"image": tmp_path / "image" / f"{name}.nii", "label": tmp_path / "label" / f"{name}.nii"}
        prediction = tmp_path / "predictions" / f"{name}.nii.gz"
        for path, voxels in ((paths["image"], image), (paths["label"], label), (prediction, np.roll(label, number, 0))):
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
        cases.append(Case(name, f"patient{number // 2}", **paths))
    write_datalist(tmp_path / "datalist.json", "hippocampus", {"test": cases})
    return tmp_path


def run_handler(folder, names):
    """Run the handler on an engine that has had the named cases."""
    handler = EvaluationReport(folder / "datalist.json", "test", CARD, folder / "predictions", folder / "evaluation")
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([[{"case": name}] for name in names])


def expected(folder):
    return evaluate_cases(
        pairs_from_cases(load_datalist(folder / "datalist.json").section("test"), folder / "predictions"), CARD
    )


def on_a_rank(rank, folder, shares):
    """Score as one of several processes does, and note which cases were scored there."""
    scored, plain = [], report_handler.evaluated

    def noted(pair, **options):
        scored.append(pair.case)
        return plain(pair, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_handler, "evaluated", noted)
        run_handler(folder, shares[rank])
    (folder / f"scored{rank}.txt").write_text(" ".join(scored))


def test_two_processes_write_what_one_does(scene):
    """A sampler may fill up the last share with a case that another has too, and a case may have reached none."""
    shares = [["case0", "case1"], ["case2", "case0"]]
    idist.spawn("gloo", on_a_rank, args=(scene, shares), nproc_per_node=2, start_method="forkserver")
    assert read_json(scene / "evaluation" / "metrics.json") == expected(scene)
    assert "report.html" in files_below(scene / "evaluation")
    scored = [(scene / f"scored{rank}.txt").read_text() for rank in (0, 1)]
    assert scored == ["case0 case1 case3", "case0 case2"]


def test_one_process_scores_each_case_once(scene):
    on_a_rank(0, scene, [["case3", "case1", "case0", "case2"]])
    assert (scene / "scored0.txt").read_text() == "case0 case1 case2 case3"
    assert read_json(scene / "evaluation" / "metrics.json") == expected(scene)


def test_a_case_without_a_volume_is_missed_and_told(scene):
    (scene / "predictions" / "case2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case2: no prediction; scored as missed"):
        run_handler(scene, ["case0", "case1", "case3"])
    (case,) = [case for case in read_json(scene / "evaluation" / "metrics.json")["cases"] if case["case"] == "case2"]
    assert {entry["status"] for entry in case["organs"].values()} == {"missed"}


def test_alone_nothing_is_gathered():
    scores = {"case0": (None, ["a fault"])}
    assert gather(scores) is scores
