"""Every fusion through the whole way: a run is trained with it, indexed, and segments with its bank."""

import numpy as np
import pytest
from small_study import KNOBS

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.errors import InputError
from ragsam.files import read_json
from ragsam.retrieval import Bank
from ragsam.retrieval.bank_manifest import read_manifest


@pytest.fixture(scope="module")
def fused(study, tmp_path_factory):
    knobs = {**KNOBS, "steps_per_epoch": 4, "fusion": "label_prior+dense_prior+prototypes+memory"}
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("fused") / "run", knobs)
    index_run(run)
    return run


def test_the_bank_holds_the_embeddings_of_its_encoder(fused):
    bank = Bank.open(fused / "bank")
    assert bank.keeps == ("images", "embeddings")
    assert bank.embeddings.shape == (len(bank), 256, 4, 4)
    assert bank.embeddings.dtype == np.float16
    assert len(read_manifest(fused / "bank")["fit"]["encoder"]) == 64


def test_it_segments_with_what_it_learnt(fused, study, tmp_path):
    segment_with_run(fused, [study], tmp_path / "with")
    segment_with_run(fused, [study], tmp_path / "without", retrieval=False)
    assert read_json(tmp_path / "with" / "retrieval.json")["cases"]
    assert len(list((tmp_path / "with").glob("*.nii.gz"))) == len(list((tmp_path / "without").glob("*.nii.gz"))) == 3


def test_a_bank_without_embeddings_does_not_fit(fused, run, study, tmp_path):
    with pytest.raises(InputError, match="bank"):
        segment_with_run(fused, [study], tmp_path / "out", bank=run / "bank")
