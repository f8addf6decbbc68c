"""The support bank: what is kept, what is hidden, and what a damaged or killed one does."""

import hashlib
import json
import runpy
import tracemalloc

import numpy as np
import pytest

from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.retrieval import Bank, bank_rows
from ragsam.retrieval.bank_arrays import npy_header
from ragsam.retrieval.bank_manifest import digest, read_manifest, write_manifest
from ragsam.retrieval.bank_removal import remove_patients
from ragsam.retrieval.bank_rows import COLUMNS, pseudonym, rows_of_table
from ragsam.retrieval.bank_writer import BankWriter

FIT = {"card": "btcv", "labels": ["liver"], "image_size": 8, "window": [-125.0, 275.0], "descriptor": "thumbnail"}
PATIENTS = {"Doe^Jane-1960": ["scan-Doe-a", "scan-Doe-b"], "Zebra-0042": ["scan-Zebra"]}


def batches(seed=0, patients=PATIENTS):
    """A batch a case, of three slices each."""
    draw = np.random.default_rng(seed)
    for patient, cases in patients.items():
        for case in cases:
            vectors = draw.normal(size=(3, 6)).astype(np.float32)
            yield {
                "descriptor": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                "label": draw.integers(0, 2, (3, 8, 8)).astype(np.uint8),
                "patient": [patient] * 3,
                "case": [case] * 3,
                "slice": [0, 1, 2],
                "height": [0.0, 0.5, 1.0],
            }


@pytest.fixture
def bank():
    return Bank.collect(batches(), FIT)


@pytest.fixture
def folder(tmp_path, bank):
    bank.save(tmp_path / "bank")
    return tmp_path / "bank"


def equal(a, b):
    arrays = ("descriptors", "labels", "patients", "cases", "slices", "heights", "present")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and (a.fit, a.salt) == (b.fit, b.salt)


def names(folder):
    """What is in a bank's folder, beside the lock of its writers."""
    return sorted(path.name.split("-")[0] for path in folder.iterdir() if path.name != ".lock")


def test_slices_stand_in_the_order_in_which_they_came(bank):
    given = list(batches())
    np.testing.assert_array_equal(bank.descriptors, np.concatenate([batch["descriptor"] for batch in given]))
    np.testing.assert_array_equal(bank.labels, np.concatenate([batch["label"] for batch in given]))
    assert bank.slices.tolist() == [0, 1, 2] * 3
    assert len(bank) == 9
    assert bank.descriptors.dtype == np.float32
    assert bank.labels.dtype == np.uint8


def test_patients_and_cases_are_told_apart_by_pseudonyms(bank):
    assert len(set(bank.patients[:6])) == 1
    assert bank.patients[6] not in bank.patients[:6]
    assert len(set(bank.cases)) == 3
    assert all(name[0] == "p" and len(name) == 11 for name in bank.patients)
    assert all(name[0] == "c" and len(name) == 11 for name in bank.cases)


def test_two_banks_have_two_salts(bank):
    assert not set(Bank.collect(batches(), FIT).patients) & set(bank.patients)


def test_a_patient_is_found_by_its_key_and_by_a_case_of_that_name(bank):
    first, second = str(bank.patients[0]), str(bank.patients[6])
    assert bank.own_patients("Zebra-0042", None) & set(bank.patients) == {second}
    assert bank.own_patients(None, "scan-Doe-b") == {first}
    assert bank.own_patients("Zebra-0042", "scan-Doe-a") & set(bank.patients) == {first, second}
    assert not bank.own_patients("somebody else", "another scan") & set(bank.patients)
    assert bank.own_patients(None, None) == set()


def test_a_pseudonym_is_a_slow_hash_of_the_key():
    """By RFC 7914, with the cost that stands in the salt; that of a new bank takes 16 MB for each key."""
    assert pseudonym("Zebra-0042", "scrypt:4:00", "p") == "pb946069d77"
    assert pseudonym("Zebra-0042", "scrypt:5:00", "p") != "pb946069d77"
    assert runpy.run_path(bank_rows.__file__)["new_salt"]().startswith("scrypt:14:")  # tests' own cost is lower


def test_a_bank_of_before_opens_grows_and_is_pruned(tmp_path, bank):
    """Its pseudonyms are of the fast hash, and stay so: by another the own patient would not be found."""
    salt = 32 * "0"
    with BankWriter(tmp_path / "bank", FIT, salt=salt) as writer:
        for batch in batches():
            writer.add(batch)
        writer.commit()
    assert read_manifest(tmp_path / "bank")["format"] == 3
    old = Bank.open(tmp_path / "bank")
    assert old.patients[6] == "p" + hashlib.sha256(f"{salt}/p/Zebra-0042".encode()).hexdigest()[:10]
    assert old.own_patients("Zebra-0042", None) == {old.patients[6]}
    batch = {**next(batches(seed=1)), "case": ["another"] * 3, "patient": ["Zebra-0042"] * 3}
    with BankWriter(tmp_path / "bank", FIT, grow=True, stamps={"another": "x"}) as writer:
        writer.add(batch)
        writer.commit()
    assert Bank.open(tmp_path / "bank").patients[-1] == old.patients[6]
    manifest = remove_patients(tmp_path / "bank", ["Zebra-0042"])
    assert (manifest["format"], manifest["patients"], manifest["salt"]) == (3, 1, salt)


@pytest.mark.parametrize("salt", ["scrypt:40:00", "scrypt:x:00", "scrypt:-1:00", "argon:1"])
def test_a_salt_that_would_take_all_memory_is_refused(folder, salt):
    write_manifest(folder, {**read_manifest(folder), "salt": salt})
    with pytest.raises(InputError, match=r"manifest\.json: salt: a text of the form"):
        Bank.open(folder)


def test_a_patient_named_as_a_case_is_not_that_case(bank):
    assert not bank.own_patients("scan-Zebra", None) & set(bank.patients)


def test_saved_and_opened_is_the_same(folder, bank):
    opened = Bank.open(folder, FIT)
    assert equal(opened, bank)
    assert isinstance(opened.labels, np.memmap)
    assert opened.own_patients("Zebra-0042", None) == bank.own_patients("Zebra-0042", None)


def test_the_folder_holds_four_files_and_no_draft(folder):
    assert names(folder) == ["descriptors", "labels", "manifest.json", "slices"]


def test_no_key_of_a_patient_or_case_stands_anywhere(folder):
    keys = [key for patient, cases in PATIENTS.items() for key in (patient, *cases)]
    for path in folder.iterdir():
        content = path.name.encode() + path.read_bytes()
        for key in keys:
            assert key.encode() not in content, path.name
        assert b"Zebra" not in content
        assert b"Doe" not in content


def test_the_manifest_counts_slices_patients_and_cases(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    counts = [manifest[name] for name in ("format", "slices", "patients", "cases", "keeps")]
    assert counts == [4, 9, 2, 3, []]
    assert manifest["fit"] == FIT


def with_pictures(batch):
    """The batch with what a bank may keep beside the labels."""
    draw = np.random.default_rng(batch["label"].sum())
    image = draw.integers(0, 256, (3, 8, 8)).astype(np.uint8)
    return {**batch, "image": image}


def test_images_are_kept_where_they_are_wanted(tmp_path, folder):
    given = [with_pictures(batch) for batch in batches()]
    bank = Bank.collect(given, FIT, keeps=("images",))
    bank.save(tmp_path / "full")
    opened = Bank.open(tmp_path / "full", FIT)
    np.testing.assert_array_equal(opened.images, np.concatenate([batch["image"] for batch in given]))
    assert isinstance(opened.images, np.memmap)
    assert opened.keeps == bank.keeps == ("images",)
    lean = Bank.open(folder)
    assert (lean.images, lean.keeps) == (None, ())
    assert Bank.collect(given, FIT).keeps == ()


def test_a_bank_of_before_with_embeddings_still_opens(tmp_path):
    """They are passed over, and go when the bank is written to."""
    given, folder = [with_pictures(batch) for batch in batches()], tmp_path / "bank"
    Bank.collect(given, FIT, keeps=("images",)).save(folder)
    manifest = read_manifest(folder)
    manifest["keeps"].append("embeddings")
    (part,) = manifest["parts"]
    path = folder / part["files"]["images"]["name"].replace("images", "embeddings")
    path.write_bytes(b"of any size")
    part["files"]["embeddings"] = {"name": path.name, "sha256": "0" * 64}
    write_manifest(folder, manifest)
    assert path.exists()
    opened = Bank.open(folder, FIT)
    assert opened.keeps == ("images",)
    assert len(opened) == 9
    assert path.exists()
    write_manifest(folder, read_manifest(folder))
    assert not path.exists()
    assert len(Bank.open(folder, FIT)) == 9


def test_the_classes_of_a_slice_are_known(tmp_path):
    (*_, batch) = batches()
    batch["label"] = np.zeros((3, 8, 8), np.uint8)
    batch["label"][1, 0, :3] = [1, 4, 4]
    batch["label"][2] = 2
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0]]
    bank = Bank.collect([batch], FIT)
    bank.save(tmp_path)
    assert bank.present.astype(int).tolist() == Bank.open(tmp_path).present.astype(int).tolist() == expected


def test_a_table_is_read_without_keeping_its_lines():
    line = "p0123456789,c0123456789,{},0.5,0 3 7,\n"
    text = ",".join(COLUMNS) + "\n" + "".join(line.format(number) for number in range(4000))
    tracemalloc.start()
    table = rows_of_table(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.flatnonzero(table["present"][3999]).tolist() == [0, 3, 7]
    # 306 bytes a slice; with every line in memory they were 719
    assert peak - 2 * len(text) < 4000 * 450


def test_rows_are_allowed_by_patient(bank):
    first, second = str(bank.patients[0]), str(bank.patients[6])
    for mask, expected in (
        (bank.allowed(without={second}), range(6)),
        (bank.allowed(without={first, second}), ()),
        (bank.allowed(without={first, "nobody"}), (6, 7, 8)),
    ):
        assert np.flatnonzero(mask).tolist() == list(expected)
    assert bank.allowed(without=set()) is bank.allowed(without={"nobody"}) is None


def test_an_older_bank_is_replaced_whole(folder):
    older = Bank.open(folder)
    labels = np.array(older.labels)
    newer = Bank.collect(batches(seed=1, patients={"Other": ["x"]}), FIT)
    newer.save(folder)
    assert equal(Bank.open(folder), newer)
    assert names(folder) == ["descriptors", "labels", "manifest.json", "slices"]
    np.testing.assert_array_equal(older.labels, labels)  # an open bank goes on


@pytest.mark.parametrize("stem", ["descriptors", "labels", "slices", "manifest"])
def test_a_flipped_bit_is_found_wherever_it_is(folder, stem):
    (path,) = folder.glob(f"{stem}*")
    whole = path.read_bytes()
    for position in range(0, len(whole), 1 if stem == "manifest" else 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"bank|manifest\.json"):
            Bank.open(folder)
    path.write_bytes(whole)
    Bank.open(folder)


@pytest.mark.parametrize("stem", ["descriptors", "labels", "slices", "manifest"])
def test_a_truncated_or_missing_file_is_found(folder, stem):
    (path,) = folder.glob(f"{stem}*")
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        if stem == "manifest" and length == len(whole) - 1:
            continue  # the last byte is a line end
        with pytest.raises(InputError):
            Bank.open(folder)
    path.unlink()
    with pytest.raises(InputError, match="index"):
        Bank.open(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "3",
        '{"format": 2}',
        '{"format": 3}',
        '{"format": 4}',
        '{"format": 5}',
        '{"format": 2, "fit": {}, "files": {}}',
    ],
)
def test_a_manifest_that_is_none_is_told(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="bank"):
        Bank.open(folder, FIT)


@pytest.mark.parametrize("shape", [(10**9, 8, 8), (9, 8), (9, 8, 8, 1), (9, 0, 8), (8, 8, 8), (9, 10**7, 10**7)])
def test_a_head_that_does_not_agree_with_the_file_is_refused_before_anything_is_allocated(folder, shape):
    """Whoever changes a file can change the manifest's SHA-256 too: sizes are compared first."""
    (path,) = folder.glob("labels-*")
    content = npy_header(shape, np.uint8) + path.read_bytes()[128:]
    path.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"][0]["files"]["labels"]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest.pop("sha256")
    write_manifest(folder, manifest)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bank bank: labels is missing or damaged; make it again with `ragsam index`"):
        Bank.open(folder)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_an_array_of_objects_is_not_unpickled(folder):
    (path,) = folder.glob("labels-*")
    np.save(path, np.array([{"a": 1}] * 9, object), allow_pickle=True)
    with pytest.raises(InputError, match="labels is missing or damaged"):
        Bank.open(folder)


@pytest.mark.parametrize("name", ["../labels-0123456789ab.npy", "/etc/passwd", "manifest.json", "labels.npy"])
def test_a_manifest_that_names_other_files_is_refused(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    manifest["parts"][0]["files"]["labels"]["name"] = name
    write_json_atomic(folder / "manifest.json", {**manifest, "sha256": digest(manifest)})
    with pytest.raises(InputError, match="labels is missing or damaged"):
        Bank.open(folder)


def test_a_manifest_edited_by_hand_is_found(folder):
    """With another salt the own patient would no longer be known, and leak into its own supports."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["salt"] = "0" * 32
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="damaged"):
        Bank.open(folder)


@pytest.mark.parametrize(
    "other", [{"card": "flare22"}, {"image_size": 16}, {"descriptor": "embedding"}, {"encoder": "abc"}]
)
def test_a_bank_made_for_something_else_is_refused(folder, other):
    with pytest.raises(InputError, match=f"made for a different {next(iter(other))} .*ragsam index"):
        Bank.open(folder, {**FIT, **other})


def test_no_bank_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Bank.open(tmp_path / "nowhere")


@pytest.mark.parametrize("patient", ["", None])
def test_a_slice_without_patient_is_refused_by_its_case(patient):
    (*_, batch) = batches()
    batch = {**batch, "patient": ["1", "2", patient], "case": ["a", "b", "bad"]}
    with pytest.raises(InputError, match="bad: no patient"):
        Bank.collect([batch], FIT)


def test_a_bank_of_nothing_is_refused():
    with pytest.raises(InputError, match="no labelled slice"):
        Bank.collect([], FIT)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, bank):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        bank.save(tmp_path / "file" / "bank")
