"""Splits and folds by patient."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import Split, SplitPart
from ragsam.data.datalist import Case
from ragsam.data.preparation.splits import deal_folds, split_by_patient, split_cases
from ragsam.errors import InputError

BTCV = [f"img{n:04d}" for n in (*range(1, 11), *range(21, 41))]  # the 30 labelled cases


def cases_of(patients):
    return [Case(f"c{i}", patient, Path(f"/{i}.nii")) for i, patient in enumerate(patients)]


def named(names):
    return [Case(name, name, Path(f"/{name}.nii.gz")) for name in names]


def counts(sections):
    return {name: len(part) for name, part in sections.items()}


@given(
    owners=st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=30).filter(lambda x: len(set(x)) >= 4),
    seed=st.integers(0, 1000),
    order=st.randoms(use_true_random=False),
)
def test_a_split_is_by_patient_complete_and_a_function_of_patients_and_seed(owners, seed, order):
    cases = cases_of(owners)
    split = split_by_patient(cases, validation=1, test=2, seed=seed)
    patients = {name: {case.patient for case in part} for name, part in split.items()}
    assert (len(patients["validation"]), len(patients["test"])) == (1, 2)
    assert sum(map(len, patients.values())) == len(set(owners))
    assert sorted(case.case for part in split.values() for case in part) == sorted(case.case for case in cases)
    shuffled = list(cases)
    order.shuffle(shuffled)
    again = split_by_patient(shuffled, validation=1, test=2, seed=seed)
    assert {name: {case.patient for case in part} for name, part in again.items()} == patients


@pytest.mark.parametrize("card", ["synapse8", "synapse12"])
def test_the_18_12_split_is_the_official_one_for_every_seed(card):
    for seed in (0, 1):
        sections = split_cases(named(BTCV), load_card(card), seed=seed)
        assert [int(case.case[3:]) for case in sections["test"]] == [1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38]
        assert counts(sections) == {"training": 16, "validation": 2, "test": 12}
    assert counts(split_cases(named(BTCV), load_card(card), seed=0, validation=0))["training"] == 18


def test_a_number_that_is_asked_for_goes_before_the_cards_split():
    sections = split_cases(named(BTCV), load_card("synapse8"), seed=0, test=5)
    assert counts(sections) == {"training": 23, "validation": 2, "test": 5}
    assert {case.case for case in sections["test"]} != set(load_card("synapse8").split.test.cases[:5])


def test_an_official_test_case_that_is_not_there_stops_it():
    with pytest.raises(InputError, match=r"^img0036 \(and 1 more\): in card synapse8: its test split, but not here"):
        split_cases(named(BTCV[:-5]), load_card("synapse8"), seed=0)


def test_a_card_without_split_gives_a_fifth_and_a_tenth():
    assert counts(split_cases(named(BTCV), load_card("btcv"), seed=0)) == {"training": 21, "validation": 3, "test": 6}


@pytest.mark.parametrize(
    ("patients", "training", "validation", "test"),
    [(1, 1, 0, 0), (2, 1, 1, 0), (3, 2, 1, 0), (4, 3, 1, 0), (5, 3, 1, 1), (6, 4, 1, 1), (15, 10, 2, 3)],
)
def test_few_patients_leave_one_for_validation(patients, training, validation, test):
    sections = split_cases(cases_of("abcdefghijklmno"[:patients]), load_card("btcv"), seed=0)
    assert counts(sections) == {"training": training, "validation": validation, "test": test}


def test_a_number_asked_for_the_test_leaves_the_others_what_there_is():
    """All may be for the test: a set to evaluate a run on."""
    for asked, others in ((4, (1, 0)), (3, (1, 1)), (5, (0, 0))):
        sections = split_cases(cases_of("abcde"), load_card("btcv"), seed=0, test=asked)
        assert counts(sections) == {"training": others[0], "validation": others[1], "test": asked}
    with pytest.raises(InputError, match="5 test and 1 validation patients of 5 leave none for training"):
        split_cases(cases_of("abcde"), load_card("btcv"), seed=0, test=5, validation=1)
    with pytest.raises(InputError, match="0 test and 5 validation patients of 5 leave none for training"):
        split_cases(cases_of("abcde"), load_card("btcv"), seed=0, test=0, validation=5)


def test_a_part_of_the_official_split_that_has_no_case_here_is_told(caplog):
    cases, card = cases_of("ab"), load_card("openkbp_hn")
    for cells, found, told in (
        (("train-pats", "validation-pats"), {"training": 1, "validation": 1, "test": 0}, ["test"]),
        (("test-pats", "test-pats"), {"training": 0, "validation": 0, "test": 2}, ["validation"]),
    ):
        caplog.clear()
        rows = {case.case: {"source_split": cell} for case, cell in zip(cases, cells, strict=True)}
        assert counts(split_cases(cases, card, seed=0, rows=rows)) == found
        assert [record.getMessage() for record in caplog.records] == [
            f"prepare: card openkbp_hn: its split has no {section} case among these" for section in told
        ]
    rows = {case.case: {"source_split": "validation-pats"} for case in cases}
    with pytest.raises(InputError, match="leave none for training"):
        split_cases(cases, card, seed=0, rows=rows)


def test_a_split_by_a_column_of_the_manifest():
    cases, card = cases_of("abcd"), load_card("openkbp_hn")
    cells = ("train-pats", "validation-pats", "test-pats", "train-pats")
    rows = {case.case: {"source_split": cell} for case, cell in zip(cases, cells, strict=True)}
    sections = split_cases(cases, card, seed=0, rows=rows)
    assert {name: [case.patient for case in part] for name, part in sections.items()} == {
        "training": ["a", "d"], "validation": ["b"], "test": ["c"],
    }  # fmt: skip
    assert counts(split_cases(cases, card, seed=0, rows=rows, test=2)) == {"training": 1, "validation": 1, "test": 2}
    with pytest.raises(InputError, match=r"its test split come from column source_split of manifest\.csv"):
        split_cases(cases, card, seed=0)


def test_a_split_by_patients_takes_all_their_cases():
    card = replace(load_card("btcv"), split=Split("n", test=SplitPart(patients=("b",))))
    sections = split_cases(cases_of("abab"), card, seed=0)
    assert counts(sections) == {"training": 2, "validation": 0, "test": 2}
    with pytest.raises(InputError, match=r"^z: in card btcv: its test split, but not here"):
        split_cases(cases_of("ab"), replace(card, split=Split("n", test=SplitPart(patients=("z",)))), seed=0)


def test_a_split_that_tears_a_patient_apart_is_refused():
    split = Split("n", validation=SplitPart(cases=("c0",)), test=SplitPart(cases=("c1",)))
    with pytest.raises(InputError, match="puts one patient into validation and test"):
        split_cases(cases_of("aab"), replace(load_card("btcv"), split=split), seed=0)


def test_no_patient_left_for_training():
    with pytest.raises(InputError, match="2 test and 1 validation patients of 3 leave none for training"):
        split_by_patient(cases_of("abc"), validation=1, test=2, seed=0)
    with pytest.raises(InputError, match="must not be negative"):
        split_by_patient(cases_of("abc"), validation=1, test=-2, seed=0)


presences = st.lists(st.frozensets(st.sampled_from("uvwxyz")), min_size=2, max_size=40).map(
    lambda parts: {f"p{i}": organs for i, organs in enumerate(parts)}
)


def spread(fold_of, folds, patients):
    """Return most minus fewest of the given patients in a fold."""
    per_fold = Counter(fold_of[patient] for patient in patients)
    return max(per_fold[fold] for fold in range(folds)) - min(per_fold[fold] for fold in range(folds))


@given(presence=presences, data=st.data(), seed=st.integers(0, 100))
def test_folds_are_a_partition_of_even_size_with_the_rarest_trait_spread_evenly(presence, data, seed):
    folds = data.draw(st.integers(2, len(presence)))
    fold_of = deal_folds(presence, folds, seed=seed)
    assert fold_of.keys() == presence.keys()
    assert spread(fold_of, folds, presence) <= 1
    groups = [[p for p in presence if (organ in presence[p]) == there] for organ in "uvwxyz" for there in (True, False)]
    fewest = min(len(group) for group in groups if group)
    if sum(len(group) == fewest for group in groups) == 1:
        assert spread(fold_of, folds, next(group for group in groups if len(group) == fewest)) <= 1
    reordered = dict(reversed(list(presence.items())))
    assert deal_folds(reordered, folds, seed=seed) == fold_of


lacking = st.lists(st.sampled_from(["", *"uvwxyz"]), min_size=2, max_size=40)


@given(lacks=lacking, data=st.data(), seed=st.integers(0, 100))
def test_where_patients_lack_one_organ_at_most_each_organ_is_as_even_as_two_roundings_allow(lacks, data, seed):
    """Fold sizes are even to within one, and so are the patients without an organ; those with it to within two."""
    presence = {f"p{i}": frozenset("uvwxyz") - {organ} for i, organ in enumerate(lacks)}
    folds = data.draw(st.integers(2, len(presence)))
    fold_of = deal_folds(presence, folds, seed=seed)
    for organ in "uvwxyz":
        assert spread(fold_of, folds, [p for p in presence if organ in presence[p]]) <= 2


def test_two_patients_with_a_rare_organ_never_share_a_fold_of_two():
    presence = {f"p{i}": frozenset({"liver"} | ({"gallbladder"} if i in (2, 5) else set())) for i in range(8)}
    for seed in range(20):
        fold_of = deal_folds(presence, 2, seed=seed)
        assert fold_of["p2"] != fold_of["p5"]
    assert len({tuple(sorted(deal_folds(presence, 2, seed=seed).items())) for seed in range(20)}) > 1


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_folds_that_cannot_be(folds):
    with pytest.raises(InputError, match=f"--folds: {folds} asked for 3 patients"):
        deal_folds(dict.fromkeys("abc", frozenset()), folds, seed=0)
