"""The weight of the vote: validation patients choose it, and training with it is training without retrieval."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_study import QUICK
from test_api_train import prepared

from ragsam.api.train import train_run
from ragsam.data.datalist import load_datalist, write_datalist
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.checkpoints import load_weights, read_checkpoint
from ragsam.retrieval.agreement_measurement import overlaps
from ragsam.training.vote_weight import WEIGHTS, VoteWeight

NAME = "fusion.vote_product."


def weights_of(run):
    return load_weights(run / "models" / "model.safetensors")[0]


def two_validation_patients(study, folder):
    data = load_datalist(study)
    sections = dict(data.sections)
    training = sections["training"]
    sections["validation"] = (*sections["validation"], training[-1])
    sections["training"] = tuple(case for case in training if case.patient != training[-1].patient)
    write_datalist(folder / "datalist.json", data.card, sections)
    return folder / "datalist.json"


def chooser_of(study, folder):
    """A training that is ready to run, and what chooses the weight in it."""
    options = {**QUICK, "fusion": "vote_product"}
    workflow = prepared(two_validation_patients(study, folder), folder / "run", **options)
    (chooser,) = [handler for handler in workflow.val_handlers if isinstance(handler, VoteWeight)]
    return workflow, chooser


@pytest.fixture(scope="module")
def trained(study, tmp_path_factory):
    """What chooses the weight, of a workflow that has been run."""
    workflow, chooser = chooser_of(study, tmp_path_factory.mktemp("trained"))
    workflow.run()
    return chooser


def test_it_trains_the_network_that_trains_without_retrieval_to_the_bit(study, tmp_path):
    """With one validation patient the weight stays 1, and no score is another one's."""
    run = train_run("sam_lora", study, tmp_path / "product", QUICK)
    plain = train_run("sam_lora", study, tmp_path / "plain", {**QUICK, "fusion": None})
    kept, without = weights_of(run), weights_of(plain)
    assert (float(kept.pop(NAME + "weight")), float(kept.pop(NAME + "patients"))) == (1.0, 4.0)
    last, last_without = (read_checkpoint(r / "checkpoints" / "last.pt")["network"] for r in (run, plain))
    assert set(without) == set(kept)
    assert all(torch.equal(last[key], last_without[key]) for key in without)


def test_validation_patients_choose_what_serves_them(trained, caplog):
    product = trained.network.fusion.vote_product
    scores = trained._scores()
    assert set(scores) == set(WEIGHTS)
    best = max(scores.values())
    logging.getLogger("ragsam").propagate = True
    with caplog.at_level(logging.INFO, "ragsam"):
        trained.choose(None)
    chosen = min(weight for weight in WEIGHTS if scores[weight] == best)
    assert float(product.weight) == pytest.approx(chosen)
    assert f"the neighbours' vote weighs {chosen:g}: Dice {best:.4f} in 12 slices" in caplog.text


def test_a_score_is_that_of_the_network_with_that_weight(trained):
    """On every slice of the validation patients, by hand."""
    scores = trained._scores()
    network, retriever, slices = trained.network.eval(), trained.retriever, trained.slices
    for weight in (0.0, 1.0):
        network.fusion.vote_product.weight.fill_(weight)
        counts = {}
        for item in (slices[index] for index in range(len(slices))):
            image, height = item["image"][None], torch.tensor([item["height"]])
            supports = VolumeSupports(retriever, item["patient"], item["case"])(image, None, height)
            with torch.no_grad():
                found = network(image, supports).argmax(1)[0]
            for organ in (1, 2):
                ours, truth = found == organ, item["label"][0] == organ
                count = counts.setdefault((item["patient"], organ), [0, 0])
                count[0] += 2 * int((ours & truth).sum())
                count[1] += int(ours.sum() + truth.sum())
        expected = sum(both / either for both, either in counts.values()) / len(counts)
        assert scores[weight] == pytest.approx(expected, abs=1e-6)


def test_a_vote_that_misleads_gets_no_weight_and_one_that_helps_does(trained):
    """First the bank's organs lie half a picture away, then the network knows nothing."""
    product, bank = trained.network.fusion.vote_product, trained.retriever.bank
    trained.retriever.attach(replace(bank, labels=np.roll(bank.labels, 16, axis=(1, 2))))
    trained.choose(None)
    assert float(product.weight) == 0.0
    trained.retriever.attach(bank)
    taught = trained.network
    trained.network = untaught = copy.deepcopy(taught)
    for parameter in untaught.sam.mask_decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    trained.choose(None)
    trained.network = taught
    assert float(untaught.fusion.vote_product.weight) > 0


def test_overlaps_by_hand():
    found, truth = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
    assert overlaps(found[None], truth[None], 3).tolist() == [[[1, 1, 1], [1, 2, 1], [1, 1, 2]]]


def test_nothing_is_chosen_without_a_bank(study, tmp_path):
    _, chooser = chooser_of(study, tmp_path)
    chooser.choose(None)
    assert chooser.slices is None
    assert float(chooser.network.fusion.vote_product.weight) == 0.0
