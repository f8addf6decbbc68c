"""Training: the same seed gives the same weights and masks, and every batch carries other patients' supports."""

import csv
import logging

import numpy as np
import pytest
import torch
from ignite.engine import Events
from small_study import QUICK, TRAINING, workflow_of

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.api.try_training import try_training
from ragsam.data.datalist import load_datalist, write_datalist
from ragsam.errors import InputError
from ragsam.inference.bank_building import encoder_fingerprint
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.checkpoints import load_weights
from ragsam.networks.supports import Supports
from ragsam.retrieval.bank import pseudonym
from ragsam.runs.templates import make_run
from ragsam.training.batches import prepare_slices
from ragsam.training.training_retrieval import TrainingRetrieval

#: With a fusion that learns.
SHORT = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "validate_every": 1, "fusion": "label_prior"}


def weights_of(run):
    return load_weights(run / "models" / "model.safetensors")[0]


def prepared(study, folder, **options):
    """Return the workflow of a training that is ready to run."""
    return workflow_of(make_run("sam_lora", study, folder, {**SHORT, **options}))


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def retrieval_of(workflow):
    (handler,) = (item for item in workflow.train_handlers if isinstance(item, TrainingRetrieval))
    return handler


def masks_asked(retriever):
    """Keep the rows that a retriever is allowed to find from now on, training slice by training slice."""
    search, asked = retriever.search, []

    def spy(vectors, own, allowed=None):
        asked.extend(allowed or ())  # validation names its own patient instead
        return search(vectors, own, allowed)

    retriever.search = spy
    return asked


def batches_of(workflow):
    """Train, and return what the network was given, step by step."""
    seen = []

    def look(engine):
        seen.append(dict(engine.state.batch))

    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    workflow.run()
    return seen


def test_one_seed_gives_the_same_weights_and_masks_and_another_seed_does_not(run, study, tmp_path):
    again = train_run("sam_lora", study, tmp_path / "again", QUICK)
    first, second = weights_of(run), weights_of(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    index_run(again)
    for folder in (run, again):
        segment_with_run(folder, [study], tmp_path / f"masks-{folder.name}")
    for path in (tmp_path / "masks-again").glob("*.nii.gz"):
        assert path.read_bytes()[10:] == (tmp_path / "masks-run" / path.name).read_bytes()[10:]  # past gzip's time
    other = weights_of(train_run("sam_lora", study, tmp_path / "other", {**QUICK, "seed": 1}))
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_every_batch_carries_supports_of_other_patients(study, tmp_path):
    options = {"neighbours": 3, "epochs": 2, "steps_per_epoch": 4, "carry": False}
    workflow = prepared(study, tmp_path / "run", supports_withheld=0.0, **options)
    retriever = retrieval_of(workflow).retriever
    found = []
    search = retriever.search

    def spy(vectors, own):
        found.append(search(vectors, own))
        return found[-1]

    retriever.search, batch_searches = spy, []
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: batch_searches.append(found[-1]))
    batches = batches_of(workflow)
    assert len(batches) == len(batch_searches) == 8
    patients_seen = set()
    for batch, neighbours in zip(batches, batch_searches, strict=True):
        supports, bank = batch["supports"], retriever.bank
        assert supports.labels.shape == (4, 3, 32, 32)
        torch.testing.assert_close(supports.weights.sum(1), torch.ones(4))
        for index, patient in enumerate(batch["patient"]):
            own = pseudonym(patient, bank.salt, "p")
            rows = neighbours.rows[index]
            assert own in bank.patients  # it could have been found
            assert own not in bank.patients[rows]
            assert np.array_equal(supports.labels[index].numpy(), bank.labels[rows])
            patients_seen.add(patient)
    assert patients_seen == set(TRAINING.values())


@pytest.mark.parametrize(("option", "number"), [("frozen_from", 3), ("frozen_from", 0)])
def test_an_epoch_that_never_comes_is_refused(study, tmp_path, option, number):
    told = "there is no epoch 3, the last one is 2" if number else "0 is not a whole number from 1 on"
    options = {**SHORT, "epochs": 2, option: number}
    for way in (train_run, try_training):
        with pytest.raises(InputError, match=f"{option}: {told}"):
            way("sam_lora", study, tmp_path / way.__name__, options)


def test_carried_votes_are_of_other_patients_and_move_with_the_slice(study, tmp_path):
    """Every slice is moved: a vote that lay elsewhere than the labels would overlap with them less."""
    options = {"epochs": 2, "steps_per_epoch": 4, "supports_wrong": 0.0, "affine": 1.0}
    workflow = prepared(study, tmp_path / "run", **options)
    retriever = retrieval_of(workflow).retriever
    asked = masks_asked(retriever)
    batches = batches_of(workflow)
    bank = retriever.bank
    hidden = {frozenset(bank.patients[~mask].tolist()) for mask in asked}
    assert hidden == {frozenset({pseudonym(patient, bank.salt, "p")}) for patient in set(TRAINING.values())}
    assert len(asked) <= len(bank)  # a slice's vote is found once
    overlaps = []
    for batch in batches:
        vote = batch["supports"].vote
        assert vote.shape == (4, 3, 32, 32)
        overlaps += [(vote[:, 1:].sum(1) * (batch["label"][:, 0].roll(shift, 1) > 0)).sum() for shift in (0, 6)]
    assert sum(overlaps[::2]) > 1.3 * sum(overlaps[1::2])


def test_wrong_supports_are_another_slices(study, tmp_path):
    workflow = prepared(study, tmp_path / "run", supports_wrong=1.0)
    for batch in batches_of(workflow):
        assert torch.equal(batch["supports"].vote, batch["vote"].roll(1, 0))


def test_a_lone_patient_learns_from_altered_copies_of_distant_slices(study, tmp_path):
    data = load_datalist(study)
    lone = [case for case in data.sections["training"] if case.patient == "patient-bert"]
    write_datalist(study.parent / "lone.json", data.card, {**data.sections, "training": lone})
    workflow = prepared(study.parent / "lone.json", tmp_path / "run", epochs=2)
    retriever = retrieval_of(workflow).retriever
    asked = masks_asked(retriever)
    batches = batches_of(workflow)
    masks = {tuple(np.flatnonzero(mask)) for mask in asked}
    assert masks <= {(3, 4, 5), (4, 5), (5,), (0,), (0, 1), (0, 1, 2)}  # of 6 slices, none nearer than 3
    assert any(batch["supports"].vote[:, 1:].any() for batch in batches)


@pytest.mark.parametrize(("withheld", "with_supports"), [(0.0, 8), (1.0, 0)])
def test_withheld_share_of_all_and_of_none(study, tmp_path, withheld, with_supports):
    batches = batches_of(prepared(study, tmp_path / "run", supports_withheld=withheld))
    weights = torch.cat([batch["supports"].weights for batch in batches])
    assert len(weights) == 8
    assert int((weights.sum(1) > 0).sum()) == with_supports


def test_withheld_share_between(study, tmp_path):
    options = {"supports_withheld": 0.3, "steps_per_epoch": 4, "batch_size": 32, "image_size": 16}
    batches = batches_of(prepared(study, tmp_path / "run", **options))
    kept = torch.cat([batch["supports"].weights for batch in batches]).sum(1) > 0
    assert 0.55 < kept.float().mean() < 0.85  # 128 draws at 0.7: three standard deviations are 0.12


@pytest.mark.parametrize(("descriptor", "built"), [("thumbnail", [1]), ("embedding", [1, 3])])
def test_bank_is_built_anew_where_its_encoder_has_moved(study, tmp_path, monkeypatch, descriptor, built):
    workflow = prepared(study, tmp_path / "run", descriptor=descriptor, epochs=4, validate_every=9)
    handler = retrieval_of(workflow)
    handler.refresh_epochs = 2
    banks = {}

    def note(engine):
        banks[engine.state.epoch] = handler.retriever.bank

    workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, note)
    workflow.run()
    assert [epoch for epoch in banks if banks[epoch] is not banks.get(epoch - 1)] == built
    assert ("encoder" in banks[1].fit) == (descriptor == "embedding")
    if descriptor == "embedding":
        assert banks[1].fit["encoder"] != banks[3].fit["encoder"] != encoder_fingerprint(handler.network)


def test_bank_stays_where_the_encoder_stood_still(study, tmp_path):
    workflow = prepared(study, tmp_path / "run", descriptor="embedding", epochs=3, learning_rate=0.0)
    handler = retrieval_of(workflow)
    handler.refresh_epochs = 1
    banks = []
    workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: banks.append(handler.retriever.bank))
    workflow.run()
    assert banks[0] is banks[1] is banks[2]


def test_encoder_fingerprint_looks_at_encoder_and_stem_alone(study, tmp_path):
    network = retrieval_of(prepared(study, tmp_path / "run")).network
    before = encoder_fingerprint(network)
    with torch.no_grad():
        next(network.fusion.parameters()).add_(1)
    assert encoder_fingerprint(network) == before
    with torch.no_grad():
        next(network.stem.parameters()).add_(1)
    assert encoder_fingerprint(network) != before


def test_supports_of_volumes_are_in_the_batches_of_a_validation_only(study, tmp_path):
    workflow = prepared(study, tmp_path / "run")
    given = []
    for engine in (workflow.trainer, workflow.evaluator):
        engine.add_event_handler(
            Events.ITERATION_STARTED, lambda engine: given.append(engine.state.batch.get("supports"))
        )
    workflow.run()
    assert [isinstance(supports, VolumeSupports) for supports in given] == [False, False, True]
    validation = given[-1]
    assert validation.retriever is retrieval_of(workflow).retriever
    assert len(validation.trace) >= 1


def test_validation_names_the_patient_to_leave_out(study, tmp_path):
    workflow = prepared(study, tmp_path / "run")
    queries = []
    workflow.evaluator.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: queries.append(engine.state.batch["supports"].query)
    )
    workflow.run()
    assert queries == [("patient-emil", "case-va0")]


def test_training_without_retrieval_neither_searches_nor_injects(study, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ragsam")
    workflow = prepared(study, tmp_path / "run", retrieval=False)
    assert not any(isinstance(item, TrainingRetrieval) for item in workflow.train_handlers)
    batches = batches_of(workflow)
    assert all("supports" not in batch for batch in batches)
    assert "bank:" not in caplog.text
    assert "no base weights were given: the whole network trains" in caplog.text


def test_last_epoch_is_validated_whatever_the_interval(study, tmp_path):
    workflow = prepared(study, tmp_path / "run", epochs=3, steps_per_epoch=1, validate_every=2)
    epochs = []
    workflow.evaluator.add_event_handler(Events.COMPLETED, lambda _: epochs.append(workflow.trainer.state.epoch))
    workflow.run()
    assert epochs == [2, 3]


def test_prepared_batch_is_what_the_network_takes():
    image, label = torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    supports = Supports(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.ones(2, 1))
    annotated = torch.ones(2, 3, dtype=torch.bool)
    batch = {"image": image, "label": label, "annotated": annotated}
    given = prepare_slices({**batch, "supports": supports}, "cpu")
    assert torch.equal(given[0], image)
    assert torch.equal(given[1].label, label)
    assert torch.equal(given[1].annotated, annotated)
    assert given[2] == ()
    assert torch.equal(given[3]["supports"].weights, supports.weights)
    assert prepare_slices(batch)[3] == {"supports": None}
