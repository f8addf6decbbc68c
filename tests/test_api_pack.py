"""Runs packed and unpacked: the same masks elsewhere, nothing of the machine in the file, and no file believed."""

import os
import shutil
import stat
from contextlib import suppress
from zipfile import ZIP_LZMA, ZipFile, ZipInfo

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import files_below

import ragsam
from ragsam.api.pack import pack_run
from ragsam.api.segment import segment_with_run
from ragsam.api.unpack import unpack_run
from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.io.documents import read_json
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights
from ragsam.networks.sam import build_sam
from ragsam.outputs import RECORD
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run


def voxels(folder):
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


def assert_same_masks(one, other):
    first, second = voxels(one), voxels(other)
    assert first.keys() == second.keys() != set()
    for name, labels in first.items():
        np.testing.assert_array_equal(labels, second[name])


def contents(archive):
    with ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    archive = tmp_path_factory.mktemp("packed") / "run.zip"
    pack_run(run, archive)
    return archive


@pytest.fixture
def based(study, tmp_path):
    """A run on base weights, as imports write it; untrained, which its masks do not mind."""
    base = tmp_path / "weights" / "a sam.pth"
    base.parent.mkdir()
    torch.save(build_sam("vit_tiny", image_size=32).state_dict(), base)
    run = make_run("sam_lora", study, tmp_path / "based", {"base": str(base), "image_size": 32})
    network = Segmenter(2, image_size=32, base=base, lora={"rank": 4, "targets": ["q", "v"]})
    save_weights(run / "models" / "model.safetensors", network.trainable_state(), network.about)
    return run, base


@pytest.fixture
def tiny(tmp_path):
    """A run that is quickly packed: a template's configs and weights of one number."""
    from ragsam.runs.templates import find_bundle

    shutil.copytree(find_bundle("sam_lora"), tmp_path / "tiny")
    save_weights(tmp_path / "tiny" / "models" / "model.safetensors", {"w": torch.ones(1)}, {"base_sha256": None})
    return tmp_path / "tiny"


# A run that is given away


def test_a_run_segments_the_same_elsewhere(packed, study, segmented, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "dört ö"
    assert unpack_run(packed, there / "run").bank
    segment_with_run(there / "run", [study], tmp_path / "out")
    assert_same_masks(segmented, tmp_path / "out")
    trace = [read_json(folder / "retrieval.json") for folder in (segmented, tmp_path / "out")]
    assert trace[0] == trace[1]
    run_config(there / "run", "evaluate", datalist=str(study), output_dir="masks", evaluation_dir="measured")
    assert_same_masks(segmented, tmp_path / "masks")
    assert [path.name for path in there.iterdir()] == ["run"]


def test_what_is_in_it_and_what_is_not(run, own_run, packed, study, tmp_path):
    """Predictions, evaluations, drafts and the path of the data list stay where they are."""
    for name in (
        "predictions/case-te-ras.nii.gz",
        "evaluation/report.html",
        "models/.tmp-1",
        "models/last.pt",
        "bank/x",
    ):
        (own_run / name).parent.mkdir(exist_ok=True)
        (own_run / name).write_text("private")
    pack_run(own_run, tmp_path / "again.zip")
    held = contents(tmp_path / "again.zip")
    assert held == contents(packed)
    names = ["models/model.pt", "models/model.safetensors", "docs/README.md", "LICENSE", "log.csv"]
    for folder in ("configs", "bank"):
        names += [f"{folder}/{name}" for name in files_below(run / folder) if not name.startswith(".")]
    assert sorted(held) == list(held) == sorted(names)
    for content in held.values():
        assert not any(str(folder.parent).encode() in content for folder in (run, own_run, study))


def test_the_same_run_gives_the_same_bytes(run, packed, tmp_path):
    os.utime(run / "LICENSE")
    pack_run(run, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_the_bank_may_be_left_out(run, study, tmp_path, capsys):
    assert main(["pack", str(run), "--output", str(tmp_path / "p.zip"), "--no-bank"]) == 0
    assert "bank: in it" not in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "p.zip"), "--output", str(tmp_path / "there")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [
        "bank: not in it; the run segments without retrieval",
        f"next: ragsam segment {tmp_path / 'there'} INPUT --output DIR",
    ]
    assert not (tmp_path / "there" / "bank").exists()
    segment_with_run(tmp_path / "there", [study], tmp_path / "out")
    assert not (tmp_path / "out" / "retrieval.json").exists()


def test_base_weights_are_named_and_come_from_beside(based, study, tmp_path, capsys):
    run, base = based
    segment_with_run(run, [study], tmp_path / "here", retrieval=False)
    assert main(["pack", str(run), "--output", str(tmp_path / "p.zip")]) == 0
    assert f"base weights: left out: a sam.pth, SHA-256 {sha256_file(base)}" in capsys.readouterr().out
    assert yaml.safe_load(contents(tmp_path / "p.zip")["configs/inference.yaml"])["base"] == "a sam.pth"
    there = tmp_path / "there"
    assert main(["unpack", str(tmp_path / "p.zip"), "--output", str(there)]) == 0
    assert f"base weights: put a sam.pth into {there / 'base'}, SHA-256" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"base/a sam\.pth: no such"):
        segment_with_run(there, [study], tmp_path / "out", retrieval=False)
    (there / "base").mkdir()
    base.rename(there / "base" / "a sam.pth")
    segment_with_run(there, [study], tmp_path / "out", retrieval=False)
    assert_same_masks(tmp_path / "here", tmp_path / "out")
    moved = tmp_path / "weights" / "moved.pth"
    (there / "base" / "a sam.pth").rename(moved)
    unpack_run(tmp_path / "p.zip", tmp_path / "third", base=moved)
    assert yaml.safe_load((tmp_path / "third" / "configs" / "train.yaml").read_text())["base"] == str(moved)
    moved.write_bytes(b"other")
    with pytest.raises(InputError, match=r"moved\.pth: not the base weights that the run was trained on"):
        unpack_run(tmp_path / "p.zip", tmp_path / "fourth", base=moved)


def test_base_weights_may_go_in(based, study, tmp_path):
    run, base = based
    segment_with_run(run, [study], tmp_path / "here", retrieval=False)
    assert pack_run(run, tmp_path / "p.zip", with_base=True).with_base
    base.write_bytes(b"other")
    assert unpack_run(tmp_path / "p.zip", tmp_path / "there").with_base
    segment_with_run(tmp_path / "there", [study], tmp_path / "out", retrieval=False)
    assert_same_masks(tmp_path / "here", tmp_path / "out")
    with pytest.raises(InputError, match=r"a sam\.pth: not the base weights that the run was trained on"):
        pack_run(run, tmp_path / "q.zip", with_base=True)


def test_a_config_is_read_as_data_and_what_it_would_run_is_told(tiny, tmp_path, capsys, monkeypatch):
    """Row 20. A packed run that is loaded at once, with no time to look at it, is refused."""
    monkeypatch.chdir(tmp_path)
    config = tiny / "configs" / "inference.yaml"
    code = "$__import__('pathlib').Path('ran').touch()"
    config.write_text(config.read_text().replace("base: null", f'base: "{code}"') + f'extra: "{code}"\n')
    pack_run(tiny, tmp_path / "p.zip")
    assert main(["unpack", "p.zip", "--output", "there"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("runs other code")]
    assert [line.split(": ")[2] for line in told] == ["base", "extra"]
    with pytest.raises(InputError, match=r"p\.zip: configs/inference\.yaml: base: .* a call of .*ragsam unpack"):
        ragsam.load("p.zip")
    assert not (tmp_path / "ran").exists()


def test_files_that_no_run_has_are_neither_packed_nor_unpacked(tiny, tmp_path, capsys):
    for name in ("docs/inner/configs/inference.yaml", "docs/page.html", "configs/inference.json", "torch.py", "x.pth"):
        (tiny / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny / name).write_text("{}")
    assert main(["pack", str(tiny), "--output", str(tmp_path / "p.zip")]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert told == [
        f"left out: {name}, which is not part of a run" for name in ("configs/inference.json", "docs/page.html")
    ]
    assert sorted(contents(tmp_path / "p.zip")) == sorted(
        ["LICENSE", "docs/README.md", "models/model.safetensors", "configs/metadata.json", "configs/logging.conf"]
        + [
            f"configs/{name}.yaml"
            for name in ("train", "inference", "evaluate", "multi_gpu_train", "multi_gpu_evaluate")
        ]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", "/etc/passwd"),
        ("bank", "../../bank"),
        ("ensemble", ["docs/../../run"]),
        ("card", "~/card.yaml"),
        ("bank", "$@bundle_root + '/../bank'"),
        ("bank", "$'/etc' + '/bank'"),
        ("datalist", "C:\\data.json"),
    ],
)
def test_a_config_that_leads_out_of_the_run_is_neither_packed_nor_unpacked(small_archive, tmp_path, key, value):
    made = tmp_path / "p.zip"
    with ZipFile(small_archive) as old, ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "configs/evaluate.yaml":
                content = yaml.safe_dump({**yaml.safe_load(content), key: value}).encode()
            new.writestr(name, content)
    with pytest.raises(InputError, match=r"configs/evaluate\.yaml: " + key + ".* out of the run; it is not unpacked"):
        unpack_run(made, tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


# What is not packed


def _link(run):
    (run / "docs" / "passwords").symlink_to("/etc/passwd")
    return "docs/passwords: a link; put the file itself there"


def _linked_folder(run):
    shutil.move(run / "models", run.parent / "elsewhere")
    (run / "models").symlink_to(run.parent / "elsewhere")
    return "models/model.safetensors: a link; put the file itself there"


def _path(run):
    config = run / "configs" / "evaluate.yaml"
    config.write_text(config.read_text().replace("section: test", "section: /home/jane"))
    return "configs/evaluate.yaml: section is /home/jane, which is nowhere else"


def _no_yaml(run):
    (run / "configs" / "train.yaml").write_text("a: [")
    return "train.yaml: not valid YAML"


def _untrained(run):
    (run / "models" / "model.safetensors").unlink()
    return "model.safetensors: no such weights file"


def _broken_bank(run):
    (run / "bank").mkdir()
    (run / "bank" / "manifest.json").write_text("{}")
    return "bank bank: not a bank of format"


@pytest.mark.parametrize("harm", [_link, _linked_folder, _path, _no_yaml, _untrained, _broken_bank])
def test_what_cannot_be_packed_is_refused_and_an_older_file_stays(tiny, tmp_path, harm):
    (tmp_path / "p.zip").write_text("older")
    message = harm(tiny)
    with pytest.raises(InputError) as error:
        pack_run(tiny, tmp_path / "p.zip")
    assert message in str(error.value)
    assert (tmp_path / "p.zip").read_text() == "older"


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [("p.tar", {}, "a packed run is a zip"), ("p.zip", {"with_base": True}, "the run has no base weights")],
)
def test_what_makes_no_sense_is_refused(tiny, tmp_path, output, options, message):
    with pytest.raises(InputError, match=message):
        pack_run(tiny, tmp_path / output, **options)
    with pytest.raises(InputError, match="not a run"):
        pack_run(tmp_path, tmp_path / "p.zip")


# What is not unpacked (row 21)


def entry(name, *, mode=stat.S_IFREG | 0o644, **attributes):
    made = ZipInfo("x")
    made.filename = made.orig_filename = name
    made.create_system, made.external_attr = 3, mode << 16
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


UNSAFE = {
    "code": entry("docs/a.py"),
    "a bundle within": entry("docs/inner/configs/inference.yaml"),
    "a config of MONAI Label's": entry("configs/inference.json"),
    "what a bank lacks": entry("bank/other.npy"),
    "up": entry("../evil"),
    "up within": entry("docs/../../evil"),
    "absolute": entry("/tmp/evil"),
    "backslash": entry("docs\\..\\..\\evil"),
    "drive": entry("C:evil"),
    "dot": entry("./evil"),
    "double": entry("docs//evil"),
    "line": entry("docs/a\nb"),
    "link": entry("docs/link", mode=stat.S_IFLNK | 0o777),
    "device": entry("docs/device", mode=stat.S_IFCHR | 0o666),
    "pipe": entry("docs/pipe", mode=stat.S_IFIFO | 0o666),
    "lzma": entry("docs/a", compress_type=ZIP_LZMA),
    "twice": entry("LICENSE"),
    "twice but for the case": entry("license"),
    "file as folder": entry("LICENSE/a"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_archives_are_refused_and_nothing_is_written(tiny, tmp_path, name):
    pack_run(tiny, tmp_path / "p.zip")
    with ZipFile(tmp_path / "p.zip", "a") as archive:
        archive.writestr(UNSAFE[name], b"/etc/passwd")
    before = files_below(tmp_path)
    with pytest.raises(InputError, match="it is not unpacked"):
        unpack_run(tmp_path / "p.zip", tmp_path / "in" / "there")
    assert files_below(tmp_path) == before
    assert list((tmp_path / "in").iterdir()) == []


def test_an_archive_that_grows_too_large_is_refused(tiny, tmp_path, capsys):
    (tiny / "docs" / "zeros.txt").write_bytes(bytes(5_000_000))
    pack_run(tiny, tmp_path / "p.zip")
    assert (tmp_path / "p.zip").stat().st_size < 100_000
    unpack = ["unpack", str(tmp_path / "p.zip"), "--output", str(tmp_path / "there")]
    assert main([*unpack, "--max-gb", "0.005"]) == 2
    assert capsys.readouterr().err == "ragsam: p.zip: grows to 0.0 GB, more than 0.005; see --max-gb\n"
    assert not (tmp_path / "there").exists()
    assert main([*unpack, "--max-gb", "0.006"]) == 0


def test_an_entry_that_is_larger_than_it_says_is_refused(tiny, tmp_path):
    """The bomb's other form: the header promises little."""
    (tiny / "docs" / "zeros.txt").write_bytes(bytes(5_000_000))
    pack_run(tiny, tmp_path / "p.zip")
    told, lied = (size.to_bytes(4, "little") for size in (5_000_000, 10))
    data = (tmp_path / "p.zip").read_bytes()
    assert data.count(told) == 2
    (tmp_path / "p.zip").write_bytes(data.replace(told, lied))
    with pytest.raises(InputError, match=r"p\.zip: not a zip, or a damaged one"):
        unpack_run(tmp_path / "p.zip", tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != RECORD) == ["p.zip", "tiny"]


def test_too_many_files_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("ragsam.api.unpack.MAX_FILES", 5)
    pack_run(tiny, tmp_path / "p.zip")
    with pytest.raises(InputError, match="more than 5 files"):
        unpack_run(tmp_path / "p.zip", tmp_path / "there")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all", None])
def test_what_is_no_packed_run_is_refused(tmp_path, content):
    if content is None:
        with ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr("a.txt", "b")
    else:
        (tmp_path / "p.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"not a zip, or a damaged one|no file of a run"):
        unpack_run(tmp_path / "p.zip", tmp_path / "there")
    with pytest.raises(InputError, match="no such file"):
        unpack_run(tmp_path / "q.zip", tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    from ragsam.runs.templates import find_bundle

    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(find_bundle("sam_lora"), folder / "run")
    save_weights(folder / "run" / "models" / "model.safetensors", {"w": torch.ones(1)}, {"base_sha256": None})
    pack_run(folder / "run", folder / "p.zip")
    return folder / "p.zip"


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_archive_is_refused_or_gives_what_was_packed(small_archive, place, bit, cut):
    """A flipped bit or a cut anywhere: one clear error and nothing left, or the same configs and weights."""
    data = bytearray(small_archive.read_bytes())
    place %= len(data)
    data[place] ^= 1 << bit
    harmed = data[:place] if cut else data
    folder = small_archive.parent / "harmed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "p.zip").write_bytes(harmed)
    with suppress(InputError):
        unpack_run(folder / "p.zip", folder / "there")
        weights = folder / "there" / "models" / "model.safetensors"
        assert weights.read_bytes() == (small_archive.parent / "run" / "models" / "model.safetensors").read_bytes()
        return
    assert [path.name for path in folder.iterdir()] == ["p.zip"]


def test_a_folder_that_holds_something_is_not_touched(small_archive, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        unpack_run(small_archive, tmp_path)
    assert files_below(tmp_path) == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    unpack_run(small_archive, tmp_path / "empty")
    assert (tmp_path / "empty" / "configs" / "inference.yaml").is_file()


def test_encrypted_entries_are_refused(small_archive, tmp_path):
    data = bytearray(small_archive.read_bytes())
    start = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[start + 8] |= 1
    (tmp_path / "p.zip").write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        unpack_run(tmp_path / "p.zip", tmp_path / "there")


def test_the_cases_of_the_study_are_in_no_packed_file(packed, study):
    """Row 31: keys of patients and cases are pseudonyms in the bank, and nowhere else."""
    people = {word for part in load_datalist(study).sections.values() for c in part for word in (c.case, c.patient)}
    for content in contents(packed).values():
        assert not any(word.encode() in content for word in people)
