"""Writing banks: streamed, resumed after a kill, grown, pruned, and by one writer at a time."""

import errno
import json
import os
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from forked import start_python
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.errors import InputError
from ragsam.retrieval import Bank, bank_writer
from ragsam.retrieval.bank_arrays import PartedArray
from ragsam.retrieval.bank_manifest import read_manifest, write_manifest
from ragsam.retrieval.bank_removal import remove_patients
from ragsam.retrieval.bank_writer import BankWriter

FIT = {"card": "btcv", "labels": ["liver"], "image_size": 8, "window": [-125.0, 275.0], "descriptor": "thumbnail"}
CASES = {f"scan-{number}": f"Patient^{number // 2}" for number in range(6)}
STAMPS = dict.fromkeys(CASES, "as it was")


def slices_of(case, count=3):
    """The slices of a case as a batch; their content is the case's own."""
    draw = np.random.default_rng(sum(case.encode()))
    vectors = draw.normal(size=(count, 6)).astype(np.float32)
    return {
        "descriptor": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        "label": draw.integers(0, 4, (count, 8, 8)).astype(np.uint8),
        "image": draw.integers(0, 256, (count, 8, 8)).astype(np.uint8),
        "patient": [CASES.get(case, "somebody")] * count,
        "case": [case] * count,
        "slice": np.arange(count),
        "height": np.linspace(0, 1, count),
    }


def write(folder, cases=CASES, measure=None, **options):
    """Write what is left of some cases; return their names."""
    options = {"stamps": dict.fromkeys(cases, "as it was"), "keeps": ("images",), **options}
    with BankWriter(folder, FIT, **options) as writer:
        left = writer.left()
        for case in left:
            writer.add(slices_of(case))
        writer.commit(measure)
    return left


def holds(bank, cases):
    """Whether a bank holds just these cases, in this order, each array as it was given."""
    batches = [slices_of(case) for case in cases]
    names = {"descriptors": "descriptor", "labels": "label", "images": "image", "slices": "slice", "heights": "height"}
    joined = {name: np.concatenate([batch[key] for batch in batches]) for name, key in names.items()}
    same = [np.array_equal(np.asarray(getattr(bank, name)), values) for name, values in joined.items()]
    patients = [CASES[case] for case in cases for _ in range(3)]
    if len(bank) != len(patients):
        return False
    own = [bank.patients[row] in bank.own_patients(key, None) for row, key in enumerate(patients)]
    return all(same) and all(own)


def names(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir() if path.name != ".lock")


WHOLE = ["descriptors", "images", "labels", "manifest.json", "slices"]


def test_what_is_streamed_is_what_is_collected(tmp_path):
    assert write(tmp_path / "bank") == list(CASES)
    assert holds(Bank.open(tmp_path / "bank", FIT), CASES)
    assert names(tmp_path / "bank") == WHOLE


def test_a_batch_may_hold_several_cases_and_a_case_several_batches(tmp_path):
    whole = {key: np.concatenate([slices_of(case)[key] for case in CASES]) for key in slices_of("scan-0")}
    with BankWriter(tmp_path / "bank", FIT, stamps=STAMPS, keeps=("images",)) as writer:
        for start in range(0, 18, 5):
            writer.add({key: values[start : start + 5] for key, values in whole.items()})
        writer.commit()
    assert holds(Bank.open(tmp_path / "bank"), CASES)


def test_memory_holds_a_batch_and_not_the_bank(tmp_path):
    """40 batches of 4 MB each; less than four of them are ever in memory."""
    batch = {**slices_of("scan-0", 16), "label": np.ones((16, 512, 512), np.uint8)}
    tracemalloc.start()
    with BankWriter(tmp_path / "bank", FIT) as writer:
        for _ in range(40):
            writer.add(batch)
        manifest = writer.commit()
    bank = Bank.open(tmp_path / "bank")
    assert bank.labels[::100].all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest["slices"] == 640
    assert peak < 16e6


# Kills.


class Killed(BaseException):
    pass


def killed_at(monkeypatch, step):
    """Let the writer die at its step-th call that touches the disk."""
    calls = []

    def counting(function):
        def call(*args, **options):
            if len(calls) == step:
                raise Killed
            calls.append(function)
            return function(*args, **options)

        return call

    for name in ("replace", "fsync"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    for name in ("unlink", "open"):
        monkeypatch.setattr(Path, name, counting(getattr(Path, name)))
    return calls


def test_a_writer_that_dies_at_any_step_leaves_the_old_bank_or_the_new_one(tmp_path, monkeypatch):
    """At every single step; the next writer encodes only what was not finished, and leaves no file behind."""
    old, new, lengths, step = ["scan-0"], ["scan-1", "scan-2", "scan-3"], [], 0
    while True:
        folder = tmp_path / str(step)
        write(folder, old)
        with monkeypatch.context() as patch:
            calls = killed_at(patch, step)
            try:
                write(folder, new)
                break
            except Killed:
                pass
        assert holds(Bank.open(folder), old) or holds(Bank.open(folder), new), step
        if holds(Bank.open(folder), old):
            lengths.append(len(write(folder, new)))
        assert holds(Bank.open(folder), new), step
        write(folder, ["scan-5"], grow=True)  # cleans up after a writer that died behind its manifest
        assert names(folder) == sorted([*WHOLE, *(name for name in WHOLE if name != "manifest.json")]), step
        step += 1
    assert len(calls) == step > 30
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) == {0, 1, 2, 3}


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_retrieval_bank_writer import *
with BankWriter({folder!r}, FIT, stamps=STAMPS, keeps=("images",)) as writer:
    print(len(writer.left()), flush=True)
    for case in writer.left()[:4]:
        writer.add(slices_of(case))
        print(case, flush=True)
    time.sleep(600)
"""


def test_a_process_that_is_killed_is_taken_up_by_another_and_keeps_others_out(tmp_path):
    """SIGKILL after four cases: three of them are finished, and never written again."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "bank"))
    out, errors = tmp_path / "out.txt", tmp_path / "errors.txt"
    process = start_python(["-c", script], out, errors)
    while process.is_alive() and out.read_text().count("\n") < 5:
        time.sleep(0.01)
    assert out.read_text().split() == ["6", *list(CASES)[:4]], errors.read_text()
    with pytest.raises(InputError, match="another process writes to it"):
        write(tmp_path / "bank")
    process.kill()
    process.join()
    assert write(tmp_path / "bank") == list(CASES)[3:]
    assert holds(Bank.open(tmp_path / "bank"), CASES)


def begun(folder, cases, **options):
    """Write some cases and die before the last one is known to be finished."""
    with BankWriter(folder, FIT, **{"stamps": STAMPS, "keeps": ("images",), **options}) as writer:
        for case in cases:
            writer.add(slices_of(case))
        raise Killed


def stopped_after(folder, count, **options):
    """Begin a bank and stop within the case after `count` finished ones."""
    with pytest.raises(Killed):
        begun(folder, list(CASES)[: count + 1], **options)


def test_finished_cases_are_not_written_again(tmp_path):
    stopped_after(tmp_path / "bank", 4)
    with pytest.raises(InputError, match=r"no manifest\.json in it"):
        Bank.open(tmp_path / "bank")
    assert write(tmp_path / "bank") == ["scan-4", "scan-5"]
    assert holds(Bank.open(tmp_path / "bank"), CASES)
    assert names(tmp_path / "bank") == WHOLE


@pytest.mark.parametrize(
    "options",
    [
        {"stamps": {**STAMPS, "scan-1": "its label was mended"}},
        {"stamps": {case: "as it was" for case in CASES if case != "scan-1"}},
        {"keeps": ()},
    ],
)
def test_a_draft_of_something_else_is_begun_anew(tmp_path, options):
    stopped_after(tmp_path / "bank", 3)
    with BankWriter(tmp_path / "bank", FIT, **{"stamps": STAMPS, "keeps": ("images",), **options}) as writer:
        assert writer.left() == list(options.get("stamps", STAMPS))
    stopped_after(tmp_path / "other", 3)
    with BankWriter(tmp_path / "other", {**FIT, "image_size": 16}, stamps=STAMPS, keeps=("images",)) as writer:
        assert writer.left() == list(CASES)


def test_a_draft_whose_files_were_cut_goes_on_from_what_is_there(tmp_path):
    stopped_after(tmp_path / "bank", 4)
    (labels,) = (tmp_path / "bank").glob("labels-*")
    os.truncate(labels, 128 + 7 * 64)  # the third case's first slice is the last that is there
    draft = tmp_path / "bank" / "draft.jsonl"
    draft.write_text(draft.read_text()[:-5])
    assert write(tmp_path / "bank") == ["scan-2", "scan-3", "scan-4", "scan-5"]
    assert holds(Bank.open(tmp_path / "bank"), CASES)


@pytest.mark.parametrize("text", ["", "[]\n", "null\n", '{"part": 3}\n', "{\n", '{"part": "../x", "keeps": []}\n'])
def test_a_draft_that_is_none_is_begun_anew(tmp_path, text):
    stopped_after(tmp_path / "bank", 2)
    (tmp_path / "bank" / "draft.jsonl").write_text(text)
    assert write(tmp_path / "bank") == list(CASES)
    assert names(tmp_path / "bank") == WHOLE


def test_an_error_before_the_first_finished_case_leaves_nothing(tmp_path):
    stopped_after(tmp_path / "bank", 0)
    assert not (tmp_path / "bank").exists()
    with pytest.raises(InputError, match="no labelled slice to put in"), BankWriter(tmp_path / "bank", FIT) as writer:
        writer.commit()
    assert not (tmp_path / "bank").exists()


def test_a_full_disk_is_told_and_the_old_bank_stays(tmp_path, monkeypatch):
    write(tmp_path / "bank", list(CASES)[:2])

    def full(file, rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bank_writer, "append_rows", full)
    with pytest.raises(InputError, match=r"bank bank: cannot be written \(No space left on device\); free some space"):
        write(tmp_path / "bank")
    assert holds(Bank.open(tmp_path / "bank"), list(CASES)[:2])
    assert names(tmp_path / "bank") == WHOLE


# Growing.


def test_a_bank_grows_by_a_part_and_nothing_that_is_there_is_written_again(tmp_path):
    write(tmp_path / "bank", list(CASES)[:4])
    old = Bank.open(tmp_path / "bank")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bank").iterdir() if "-" in path.name}
    assert write(tmp_path / "bank", list(CASES)[4:], grow=True) == ["scan-4", "scan-5"]
    bank = Bank.open(tmp_path / "bank", FIT)
    assert holds(bank, CASES)
    assert bank.salt == old.salt
    assert len(set(bank.patients)) == 3
    assert {name: (tmp_path / "bank" / name).stat().st_mtime_ns for name in before} == before
    assert holds(old, list(CASES)[:4])
    manifest = json.loads((tmp_path / "bank" / "manifest.json").read_text())
    assert (manifest["slices"], manifest["patients"], manifest["cases"]) == (18, 3, 6)


def test_growing_is_taken_up_after_a_kill(tmp_path):
    first = list(CASES)[:1]
    write(tmp_path / "bank", first)
    stamps = {case: "as it was" for case in CASES if case not in first}
    with pytest.raises(Killed):
        begun(tmp_path / "bank", list(stamps)[:3], stamps=stamps, grow=True)
    assert holds(Bank.open(tmp_path / "bank"), first)
    assert write(tmp_path / "bank", list(stamps), grow=True) == list(stamps)[2:]
    assert holds(Bank.open(tmp_path / "bank"), CASES)


def test_a_case_that_is_there_made_of_other_files_is_refused_by_its_name(tmp_path):
    write(tmp_path / "bank")
    before = Bank.open(tmp_path / "bank")
    for stamps in ({"scan-9": "as it was", "scan-3": "changed"}, {"scan-3": "changed"}):
        with pytest.raises(InputError, match=r"scan-3: is in bank bank already, made of other files; leave it out, or"):
            write(tmp_path / "bank", list(stamps), stamps=stamps, grow=True)
    assert np.array_equal(Bank.open(tmp_path / "bank").labels, before.labels)
    assert names(tmp_path / "bank") == WHOLE


def test_a_case_that_is_there_made_of_the_same_files_is_left_out(tmp_path):
    """Alone, and with one more; of an older bank, which kept no stamps, it is refused."""
    write(tmp_path / "bank", list(CASES)[:3])
    before = (tmp_path / "bank" / "manifest.json").read_bytes()
    assert write(tmp_path / "bank", ["scan-1", "scan-2"], grow=True) == []
    assert (tmp_path / "bank" / "manifest.json").read_bytes() == before
    assert names(tmp_path / "bank") == WHOLE
    assert write(tmp_path / "bank", ["scan-2", "scan-3"], grow=True) == ["scan-3"]
    remove_patients(tmp_path / "bank", ["Patient^0"])  # scan-0 and scan-1
    assert write(tmp_path / "bank", ["scan-3", "scan-1"], grow=True) == ["scan-1"]
    assert holds(Bank.open(tmp_path / "bank"), ["scan-2", "scan-3", "scan-1"])
    manifest = read_manifest(tmp_path / "bank")
    write_manifest(tmp_path / "bank", {key: value for key, value in manifest.items() if key != "stamps"})
    with pytest.raises(InputError, match="scan-1: is in bank bank already"):
        write(tmp_path / "bank", ["scan-1"], grow=True)


def test_what_is_measured_stands_in_the_manifest_that_makes_the_bank(tmp_path):
    """Whoever dies while it is measured leaves the old bank and its draft."""

    def measure(manifest):
        bank = Bank.of_manifest(tmp_path / "bank", manifest)
        assert not (tmp_path / "bank" / "manifest.json").exists()
        return {"agreement": {"patients": len(bank)}}

    def dying(manifest):
        raise Killed

    with pytest.raises(Killed):
        write(tmp_path / "bank", measure=dying)
    assert write(tmp_path / "bank", measure=measure) == []
    assert read_manifest(tmp_path / "bank")["agreement"] == {"patients": 18}
    with pytest.raises(Killed):
        remove_patients(tmp_path / "bank", ["Patient^0"], dying)
    assert holds(Bank.open(tmp_path / "bank"), CASES)
    remove_patients(tmp_path / "bank", ["Patient^0"], lambda manifest: {"agreement": {"patients": manifest["slices"]}})
    assert read_manifest(tmp_path / "bank")["agreement"] == {"patients": 12}
    assert names(tmp_path / "bank") == WHOLE


def test_only_a_sound_bank_of_the_same_fit_grows(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json in it"):
        write(tmp_path / "none", grow=True)
    assert not (tmp_path / "none").exists()
    write(tmp_path / "bank", list(CASES)[:2])
    with (
        pytest.raises(InputError, match="made for a different image_size"),
        BankWriter(tmp_path / "bank", {**FIT, "image_size": 16}, stamps=STAMPS, grow=True),
    ):
        pass
    (labels,) = (tmp_path / "bank").glob("labels-*")
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(InputError, match="labels is missing or damaged"):
        write(tmp_path / "bank", list(CASES)[2:], grow=True)
    write(tmp_path / "bank")  # made anew
    assert holds(Bank.open(tmp_path / "bank"), CASES)


def test_parts_may_annotate_other_classes(tmp_path):
    for number, annotated in enumerate(([True, False, True], None, [True, True, True])):
        batch = slices_of(f"scan-{number}")
        if annotated:
            batch["annotated"] = np.array([annotated] * 3)
        with BankWriter(tmp_path, FIT, stamps={f"scan-{number}": ""}, grow=number > 0) as writer:
            writer.add(batch)
            writer.commit()
    assert Bank.open(tmp_path).annotated.tolist() == [[True, False, True]] * 3 + [[True] * 3] * 6


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_parts_read_as_one_array(lengths, data):
    whole = np.random.default_rng(0).integers(0, 99, (sum(lengths), 2, 3))
    parted = PartedArray(np.split(whole, np.cumsum(lengths)[:-1]))
    number = st.integers(-len(whole), len(whole) - 1)
    rows = np.array(data.draw(st.lists(st.lists(number, min_size=2, max_size=2), max_size=5)), int).reshape(-1, 2)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole))))
    for index in (rows, rows[:, 0], mask, data.draw(number), slice(1, None, 2), slice(None)):
        np.testing.assert_array_equal(parted[index], whole[index])
    np.testing.assert_array_equal(np.asarray(parted), whole)
    assert (len(parted), parted.shape, parted.dtype) == (len(whole), whole.shape, whole.dtype)
    with pytest.raises(IndexError):
        parted[len(whole)]


# Removing.


def test_a_patient_is_taken_out_of_every_part(tmp_path):
    for number, cases in enumerate((["scan-0", "scan-2"], ["scan-1"], ["scan-4", "scan-5"])):
        write(tmp_path / "bank", cases, grow=number > 0)
    bank = Bank.open(tmp_path / "bank")
    (kept,) = {path.name for path in (tmp_path / "bank").glob("labels-*") if path.stat().st_size == 128 + 6 * 64} - {
        path.name
        for path in (tmp_path / "bank").glob("labels-*")
        if path.read_bytes()[128:] == bank.labels.parts[0].tobytes()
    }
    manifest = remove_patients(tmp_path / "bank", ["Patient^0"])  # scan-0 and scan-1
    assert holds(Bank.open(tmp_path / "bank", FIT), ["scan-2", "scan-4", "scan-5"])
    assert (manifest["slices"], manifest["patients"], manifest["cases"]) == (9, 2, 3)
    assert sorted(names(tmp_path / "bank")) == sorted([*WHOLE, *(name for name in WHOLE if name != "manifest.json")])
    assert (tmp_path / "bank" / kept).exists()
    gone = slices_of("scan-0")["label"].tobytes()[:64]
    assert not [path for path in (tmp_path / "bank").iterdir() if gone in path.read_bytes()]
    assert holds(bank, ["scan-0", "scan-2", "scan-1", "scan-4", "scan-5"])  # who has it open goes on


def test_who_is_not_there_is_told_by_place_and_nothing_changes(tmp_path):
    write(tmp_path / "bank")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()}
    for keys, match in (
        (["Patient^0", "Somebody^Else"], r"--remove: patient 2 of 2 is not in bank bank; nothing was removed"),
        (["Somebody^Else"], r"--remove: the patient is not in bank bank; nothing was removed"),
        (["scan-0"], r"the patient is not in bank bank"),
        ([f"Patient^{number}" for number in range(3)], r"nobody would be left in bank bank; delete its folder"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            remove_patients(tmp_path / "bank", keys)
        assert "Somebody" not in str(caught.value)
        assert "Patient^" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()} == before
    with pytest.raises(InputError, match=r"no manifest\.json"):
        remove_patients(tmp_path / "none", ["x"])
    assert not (tmp_path / "none").exists()


def test_a_removal_that_dies_at_any_step_leaves_the_old_bank_or_the_new_one(tmp_path, monkeypatch):
    step = 0
    while True:
        folder = tmp_path / str(step)
        write(folder)
        with monkeypatch.context() as patch:
            calls = killed_at(patch, step)
            try:
                remove_patients(folder, ["Patient^1"])
                break
            except Killed:
                pass
        bank = Bank.open(folder)
        assert holds(bank, CASES) or holds(bank, ["scan-0", "scan-1", "scan-4", "scan-5"])
        assert remove_patients(folder, ["Patient^1"])["patients"] == 2  # repeated, it succeeds
        assert holds(Bank.open(folder), ["scan-0", "scan-1", "scan-4", "scan-5"])
        assert names(folder) == WHOLE
        step += 1
    assert len(calls) == step > 10


def test_whom_the_last_removal_took_out_may_be_named_again(tmp_path):
    write(tmp_path / "bank")
    remove_patients(tmp_path / "bank", ["Patient^1"])
    before = (tmp_path / "bank" / "manifest.json").read_bytes()
    assert b"Patient" not in before
    remove_patients(tmp_path / "bank", ["Patient^1"])
    assert (tmp_path / "bank" / "manifest.json").read_bytes() == before
    with pytest.raises(InputError, match="patient 2 of 2 is not in bank"):
        remove_patients(tmp_path / "bank", ["Patient^1", "Patient^9"])
    remove_patients(tmp_path / "bank", ["Patient^1", "Patient^0"])
    write(tmp_path / "bank", ["scan-0"], grow=True)
    assert "removed" not in read_manifest(tmp_path / "bank")
    with pytest.raises(InputError, match="the patient is not in bank"):
        remove_patients(tmp_path / "bank", ["Patient^1"])


def test_a_removal_takes_a_draft_along(tmp_path):
    """The draft may hold slices of the patient who leaves."""
    write(tmp_path / "bank", list(CASES)[:4])
    stamps = {"scan-4": "as it was", "scan-5": "as it was"}
    with pytest.raises(Killed):
        begun(tmp_path / "bank", stamps, stamps=stamps, grow=True)
    assert "draft.jsonl" in names(tmp_path / "bank")
    remove_patients(tmp_path / "bank", ["Patient^0"])
    assert names(tmp_path / "bank") == WHOLE


# Two at once.


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    write(tmp_path / "bank", list(CASES)[:2])
    refusal = r"bank bank: another process writes to it; wait until it is done"
    with BankWriter(tmp_path / "bank", FIT, stamps=STAMPS, keeps=("images",)) as writer:
        writer.add(slices_of("scan-0"))
        for other in (
            lambda: write(tmp_path / "bank"),
            lambda: remove_patients(tmp_path / "bank", ["Patient^0"]),
            lambda: Bank.collect([slices_of("scan-0")], FIT).save(tmp_path / "bank"),
        ):
            with pytest.raises(InputError, match=refusal):
                other()
            assert holds(Bank.open(tmp_path / "bank"), list(CASES)[:2])
        for case in list(CASES)[1:]:
            writer.add(slices_of(case))
        writer.commit()
    assert holds(Bank.open(tmp_path / "bank"), CASES)
    write(tmp_path / "bank", ["scan-9"], grow=True)


def test_readers_see_whole_banks_while_writers_replace_them(tmp_path):
    """A reader that meets a bank in the moment of its replacement opens the new one."""
    write(tmp_path / "bank", list(CASES)[:2])
    faults, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                bank = Bank.open(tmp_path / "bank")
                if not (holds(bank, list(CASES)[:2]) or holds(bank, CASES)):
                    faults.append("neither of them")
            except Exception as error:
                faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        write(tmp_path / "bank")
        write(tmp_path / "bank", list(CASES)[:2])
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults


def test_no_key_stands_in_a_draft_or_a_bank(tmp_path):
    stopped_after(tmp_path / "bank", 3)
    keys = [key.encode() for item in CASES.items() for key in item] + [b"Patient", b"as it was"]
    for state in ("draft", "bank"):
        for path in (tmp_path / "bank").iterdir():
            content = path.name.encode() + path.read_bytes()
            assert not [key for key in keys if key in content], (state, path.name)
        write(tmp_path / "bank")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["grow", "remove", "kill"]), st.integers(0, 5)), max_size=8))
def test_any_history_of_growing_killing_and_removing_gives_the_bank_that_it_should(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("history") / "bank"
    inside = ["scan-0", "scan-1"]
    write(folder, inside)
    for action, number in history:
        case = f"scan-{number}"
        if action == "remove":
            leaving = [name for name in inside if CASES[name] == CASES[case]]
            if leaving and leaving != inside:
                remove_patients(folder, [CASES[case]])
                inside = [name for name in inside if name not in leaving]
        elif case not in inside:
            if action == "grow":
                write(folder, [case], grow=True)
                inside = [*inside, case]
            else:
                with pytest.raises(Killed):
                    begun(folder, [case], stamps={case: ""}, grow=True)
        assert holds(Bank.open(folder, FIT), inside)
