"""Novel volumes: flagged in the log, the trace and the report, and put first by `ragsam rank`."""

import shutil

import numpy as np
import pytest
from small_study import affine_of, save_volume

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.cli import main
from ragsam.data.datalist import Case, write_datalist
from ragsam.errors import InputError
from ragsam.inference.novelty_ranking import rank_volumes
from ragsam.io.documents import read_json


def body(seed):
    """Return (image, label) of a smooth body that fills the slices, with an organ on each side."""
    draw = np.random.default_rng(seed)
    x, y, z = (index - (side - 1) / 2 for index, side in zip(np.indices((32, 32, 6)), (32, 32, 6), strict=True))
    (a, b), (dx, dy) = draw.uniform(11, 14, 2), draw.uniform(-1, 1, 2)
    image = 100 * np.exp(-((((x - dx) / a) ** 2 + ((y - dy) / b) ** 2) ** 2)) * (1 + 0.05 * z)
    label = np.zeros(image.shape, np.uint8)
    label[(x + 5) ** 2 + y**2 < 12] = 1
    label[(x - 5) ** 2 + y**2 < 9] = 2
    return (image + 60 * label + draw.normal(0, 1, image.shape)).astype(np.int16), label


@pytest.fixture(scope="module")
def bank(run, tmp_path_factory):
    """A bank of twelve bodies."""
    folder, cases = tmp_path_factory.mktemp("bodies"), []
    for seed in range(12):
        files = [save_volume(folder / f"{kind}{seed}.nii.gz", array, affine_of())
                 for kind, array in zip(("image", "label"), body(seed), strict=True)]  # fmt: skip
        cases.append(Case(f"body{seed}", f"patient{seed}", *files))
    write_datalist(folder / "datalist.json", "hippocampus", {"training": cases})
    copy = shutil.copytree(run, folder / "run")
    config = (copy / "configs" / "train.yaml").read_text().splitlines()
    lines = [f"datalist: {folder / 'datalist.json'}" if line.startswith("datalist:") else line for line in config]
    (copy / "configs" / "train.yaml").write_text("\n".join(lines))
    assert index_run(copy, folder / "bank")[1:] == (72, 12)
    return folder / "bank"


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A volume of noise, one of the bank's kind, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("unlabelled")
    noise = np.random.default_rng(0).normal(0, 50, (32, 32, 6)).astype(np.int16)
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    return {
        "noise": save_volume(folder / "noise.nii.gz", noise, affine_of()),
        "usual": save_volume(folder / "usual.nii.gz", body(77)[0], affine_of()),
        "broken": folder / "broken.nii.gz",
    }


@pytest.fixture(scope="module")
def ranked(run, bank, strange):
    return rank_volumes(run, [strange["usual"], strange["noise"]], bank=bank)


def test_the_most_novel_volume_comes_first(ranked):
    ranking, faults = ranked
    assert [entry["case"] for entry in ranking] == ["noise", "usual"]
    assert ranking[0]["flagged"]
    assert not ranking[1]["flagged"]
    assert ranking[0]["percentile"] == 100
    assert not faults


def test_segment_writes_the_same_and_warns(run, bank, strange, ranked, tmp_path, caplog):
    segment_with_run(run, [strange["usual"], strange["noise"]], tmp_path, bank=bank)
    trace = read_json(tmp_path / "retrieval.json")["cases"]
    for entry in ranked[0]:
        assert {**trace[entry["case"]]["novelty"], "case": entry["case"]} == entry
    (warned,) = [line for line in caplog.messages if "unlike" in line]
    assert warned.startswith("noise: unlike the bank's volumes (nearest slices at a distance of 0.")


def test_the_command_lists_them_and_goes_on_after_a_fault(run, bank, strange, tmp_path, capsys):
    inputs = list(map(str, strange.values()))
    assert main(["rank", str(run), *inputs, "--bank", str(bank), "--json", str(tmp_path / "ranking.json")]) == 2
    told = capsys.readouterr()
    first, second = told.out.splitlines()
    assert first.startswith("noise: 0.")
    assert first.endswith(", farther than 100 % of the bank's volumes, unlike them")
    assert second.startswith("usual: 0.")
    assert told.err.startswith("ragsam: broken: ")
    assert [entry["case"] for entry in read_json(tmp_path / "ranking.json")["volumes"]] == ["noise", "usual"]


def test_a_training_case_is_ranked_without_its_own_patient(run, study):
    ranking, _ = rank_volumes(run, [study], section="training")
    assert len(ranking) == 5
    assert min(entry["score"] for entry in ranking) > 0.001  # a copy would be at 0


def test_a_descriptor_of_the_encoder_is_ranked_by_the_encoder(study, strange, tmp_path):
    options = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "validate_every": 1, "descriptor": "embedding"}
    run = train_run("sam_lora", study, tmp_path / "run", options)
    index_run(run)
    ranking, _ = rank_volumes(run, [strange["usual"], strange["noise"]])
    segment_with_run(run, [strange["usual"], strange["noise"]], tmp_path / "out")
    trace = read_json(tmp_path / "out" / "retrieval.json")["cases"]
    assert {e["case"]: e["score"] for e in ranking} == {
        n: pytest.approx(trace[n]["novelty"]["score"], rel=1e-3) for n in trace
    }


def test_what_rank_needs(run, strange, tmp_path):
    with pytest.raises(InputError, match=r"not a run \(no configs/inference.yaml\)"):
        rank_volumes(tmp_path, [strange["usual"]])
    with pytest.raises(InputError, match=r"bank nowhere: no manifest\.json"):
        rank_volumes(run, [strange["usual"]], bank=tmp_path / "nowhere")
