"""A fusion that learns through the whole way: a run is trained with it, indexed, and segments with its bank."""

import pytest
from small_study import QUICK

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.io.documents import read_json


@pytest.fixture(scope="module")
def fused(study, tmp_path_factory):
    options = {**QUICK, "steps_per_epoch": 4, "fusion": "label_prior"}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("fused") / "run", options)
    index_run(run)
    return run


def test_it_segments_with_what_it_learnt(fused, study, tmp_path):
    segment_with_run(fused, [study], tmp_path / "with")
    segment_with_run(fused, [study], tmp_path / "without", retrieval=False)
    assert read_json(tmp_path / "with" / "retrieval.json")["cases"]
    assert len(list((tmp_path / "with").glob("*.nii.gz"))) == len(list((tmp_path / "without").glob("*.nii.gz"))) == 3
