"""How well a bank agrees with itself, on slices whose neighbours and labels are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ragsam.errors import InputError
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.retrieval import Bank, Retriever
from ragsam.retrieval.agreement import FULL_TRUST_DICE, USUAL_BOOST, Agreement
from ragsam.retrieval.bank_manifest import read_manifest, write_manifest

SIDE, HEIGHTS = 16, 12


def labels_of(place):
    """Organ 1 in every slice, organ 2 beside it, both walking down with the slice."""
    label = np.zeros((HEIGHTS, SIDE, SIDE), np.uint8)
    for z in range(HEIGHTS):
        label[z, z : z + 4, place : place + 3] = 1
        label[z, z : z + 4, place + 4 : place + 7] = 2
    return label


def bank_of(*patients, cases=None):
    """A bank of patients' labels [HEIGHTS, SIDE, SIDE]; the nearest slices are those of the same height."""
    angle = np.tile(np.linspace(0, np.pi / 2, HEIGHTS), len(patients))
    names = np.repeat([f"p{number}" for number in range(len(patients))], HEIGHTS)
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    numbers = np.tile(np.arange(HEIGHTS), len(patients))
    return Bank(vectors, np.concatenate(patients), names, names, numbers, np.zeros(len(names)), {})


def measured(bank, neighbours=1, **options):
    retriever = Retriever(**{"descriptor": "thumbnail", "neighbours": neighbours, "carry": False} | options)
    retriever.attach(bank)
    return retriever.agreement


def test_patients_with_the_same_labels_agree_wholly_and_are_trusted():
    found = measured(bank_of(labels_of(2), labels_of(2)))
    assert found.dice == (1.0, 1.0, 1.0)
    assert found.chance[1] < 0.6
    assert found.trust == (1.0, 1.0, 1.0)
    assert found.patients == 2
    assert found.boost == 1.0
    assert found.in_words(["left", "right"]) == "left 1.00, right 1.00"


def test_the_dice_is_that_of_the_nearest_slice_of_another_patient():
    """One pixel of three aside: 2 of 3 columns are shared, and a patient's own slices would agree wholly."""
    assert measured(bank_of(labels_of(2), labels_of(3))).dice[1] == pytest.approx(2 / 3, abs=1e-4)


def test_an_organ_whose_labels_are_somebody_elses_is_not_trusted_and_the_other_one_is():
    drawn = np.random.default_rng(0)
    right = [labels_of(2), labels_of(2), labels_of(2)]
    wrong = [np.where(label == 1, 1, 2 * (label == 2)[drawn.permutation(HEIGHTS)]).astype(np.uint8) for label in right]
    found = measured(bank_of(*wrong))
    assert found.trust[1] == 1.0
    assert found.trust[2] < 0.5
    assert found.dice[2] - found.chance[2] < FULL_TRUST_DICE / 2


def test_a_bank_of_one_patient_is_asked_for_its_own_slices_that_are_not_beside():
    """Two slices on, half of an organ's four rows is shared."""
    found = measured(bank_of(labels_of(2)))
    assert found.patients == 1
    assert found.boost == USUAL_BOOST
    assert found.dice[1] == pytest.approx(0.5, abs=1e-4)


def test_a_vote_that_spreads_counts_for_more():
    """Patients a column apart: where one of two neighbours sees an organ, it is found with a boost and lost without.

    Of columns 3 to 5, 2 to 4 and 4 to 6 the other two cover 2 to 6, 3 to 6 and 2 to 5 together: 7 of 9 right, 13 found.
    """
    bank = bank_of(labels_of(3), labels_of(2), labels_of(4))
    found = measured(bank, neighbours=2)
    assert found.boost == 1.25
    assert found.dice[1] == pytest.approx(2 * 7 / (9 + 13), abs=1e-4)


@pytest.mark.parametrize("sound", [2, 3, 6])
def test_of_four_patients_or_more_the_one_with_other_labels_is_doubtful(sound):
    """Its organs lie half a picture on, where nobody else has any."""
    found = measured(bank_of(*[labels_of(2)] * sound, np.roll(labels_of(2), SIDE // 2, axis=1)), neighbours=2)
    assert found.doubtful == ({} if sound < 3 else {f"p{sound}": 0.0})
    assert measured(bank_of(*[labels_of(2)] * sound, labels_of(3)), neighbours=2).doubtful == {}


def test_what_neighbours_do_not_annotate_is_not_known_and_costs_no_trust():
    bank = bank_of(labels_of(2), np.where(labels_of(2) == 2, 0, labels_of(2)))
    bank.annotated = np.repeat([[True, True, True], [True, True, False]], HEIGHTS, axis=0)
    found = measured(bank)
    assert found.dice[2] is None
    assert found.trust == (1.0, 1.0, 1.0)
    assert found.in_words(["left", "right"]) == "left 1.00"


def test_a_bank_without_any_organ_knows_nothing_of_itself():
    found = measured(bank_of(np.zeros((HEIGHTS, SIDE, SIDE), np.uint8)))
    assert found.dice == (None,)
    assert found.trust == (1.0,)


def test_trust_grows_from_a_tenth_beyond_chance_on():
    found = Agreement((0.9, 0.1, 0.2, 0.25, 0.3, 0.05, None), (0.8, 0.1, 0.1, 0.1, 0.1, 0.3, None), 5)
    assert found.trust == pytest.approx((1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 1.0))


def test_supports_tell_it_to_a_network_that_asks_and_it_is_measured_once(monkeypatch):
    image, height = torch.rand(2, 3, SIDE, SIDE), torch.zeros(2)
    for weigh in (False, True):
        retriever = Retriever(descriptor="thumbnail", neighbours=1, carry=False, weigh=weigh)
        batch = {"image": torch.rand(4, 3, SIDE, SIDE), "label": torch.ones(4, 1, SIDE, SIDE, dtype=torch.long)}
        batch |= {"patient": ["a", "a", "b", "b"], "case": ["a", "a", "b", "b"], "slice": torch.arange(4)}
        bank = retriever.build([{**batch, "height": torch.zeros(4)}], {})
        trust = VolumeSupports(retriever, None, None)(image, None, height).trust
        assert (trust is None) is not weigh
        assert (retriever._agreement is None) is not weigh
    monkeypatch.setattr("ragsam.retrieval.retriever.measured_agreement", None)
    assert torch.equal(VolumeSupports(retriever, None, None)(image, None, height).trust, trust)
    retriever.attach(replace(bank, agreement=Agreement((1.0, 0.1), (1.0, 0.1), 2)))
    assert VolumeSupports(retriever, None, None)(image, None, height).trust.tolist() == [1.0, 0.0]


def test_labels_that_are_carried_over_are_compared_as_carried(tmp_path):
    """The same picture elsewhere: carried over the labels agree, pixel on pixel they do not."""
    yy, xx = np.mgrid[:48, :48]
    slices = []
    for patient, shift in enumerate((0, 5)):
        for z in range(6):
            disc = (yy - 20 - z) ** 2 + (xx - 20 - shift) ** 2 < 30
            image = torch.from_numpy(0.2 + 0.6 * disc).float().expand(3, -1, -1)
            slices.append((image, torch.from_numpy(disc).long()[None], f"p{patient}", z))
    images, labels, patients, numbers = zip(*slices, strict=True)
    batch = {"image": torch.stack(images), "label": torch.stack(labels), "patient": patients, "case": patients}
    batch |= {"slice": torch.tensor(numbers), "height": torch.tensor(numbers) / 5}
    found = {}
    for carry in (False, True):
        retriever = Retriever(descriptor="thumbnail", neighbours=2, carry=carry)
        retriever.build([batch], {})
        found[carry] = retriever.agreement.dice[1]
    assert found[True] > found[False] + 0.1
    assert found[True] > 0.9


@pytest.mark.parametrize(
    "told",
    [
        "x",
        None,
        {"more": 1},
        {"dice": ["a"], "chance": [0.0], "patients": 2, "boost": 1.0, "doubtful": {}},
        {"dice": [1], "chance": [], "patients": 2, "boost": 1.0, "doubtful": {}},
        {"dice": [1], "chance": [1], "patients": 2, "boost": 0, "doubtful": {}},
        {"dice": [1], "chance": [1], "patients": 2, "boost": "2", "doubtful": {}},
        {"dice": [1], "chance": [1], "patients": 2, "boost": 1.0, "doubtful": ["p"]},
    ],
)
def test_a_manifest_that_tells_something_else_is_refused(told, tmp_path):
    """Its own hash is right: somebody wrote it so."""
    bank_of(labels_of(2)).save(tmp_path)
    sound = read_manifest(tmp_path)
    write_manifest(tmp_path, {**sound, "agreement": told})
    with pytest.raises(InputError, match=r"agreement.*(make it again|repair the file)"):
        Bank.open(tmp_path)
    kept = Agreement((1.0, None), (0.9, None), 3, 1.5, {"p1": 0.1})
    write_manifest(tmp_path, {**sound, "agreement": kept.as_json()})
    assert Bank.open(tmp_path).agreement == kept


def test_an_agreement_of_an_older_version_is_measured_anew(tmp_path):
    bank_of(labels_of(2), labels_of(2)).save(tmp_path)
    told = {"dice": [0.5, 0.5, 0.5], "chance": [0.0, 0.0, 0.0], "patients": 2}
    write_manifest(tmp_path, {**read_manifest(tmp_path), "agreement": told})
    assert measured(Bank.open(tmp_path)).dice == (1.0, 1.0, 1.0)
