"""`ragsam import` and `ragsam export`: what is written, segmenting at once, training from it, and bad input."""

import hashlib
import json
import os
import shutil
import struct
import zipfile

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from monai.bundle import ConfigParser
from published_checkpoints import (
    copied,
    medical_file,
    medical_file_of_2024,
    sam_adapter_file,
    samed_file,
    samed_reading,
    segment_anything_sam,
)
from small_study import affine_of, anatomy, files_below, save_volume

from ragsam.api.train import train_run
from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.runs.start import start_options
from ragsam.runs.templates import find_bundle, make_run
from ragsam.training.start_weights import StartWeights

SIZE = 32
FAST = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "validate_every": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a SAM, another one, and a SAMed checkpoint of two classes made on the first."""
    folder = tmp_path_factory.mktemp("published")
    base = segment_anything_sam(SIZE)
    torch.save(base.state_dict(), folder / "sam.pth")
    torch.save(segment_anything_sam(SIZE, seed=1).state_dict(), folder / "other.pth")
    torch.save(samed_file(base, classes=2, rank=3), folder / "samed.pth")
    torch.save(medical_file(base), folder / "msa.pth")
    torch.save(sam_adapter_file(base), folder / "sam_adapter.pth")
    return folder


@pytest.fixture(scope="module")
def imported(place, tmp_path_factory):
    """The folder with weights and run of that SAMed checkpoint, and what the command said."""
    folder = tmp_path_factory.mktemp("imported")
    command = ["import", "samed", place / "samed.pth", "--base", place / "sam.pth", "--image-size", SIZE]
    command += ["--card", "hippocampus", "--output", folder / "samed.safetensors", "--run", folder / "run"]
    assert main([str(part) for part in command]) == 0
    return folder


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command that must be refused, and gives the line that says why."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ragsam: ")]
        assert code == 2
        assert len(lines) == 1
        return lines[0].removeprefix("ragsam: ")

    return call


def knobs_of(run, config="train"):
    return yaml.safe_load((run / "configs" / f"{config}.yaml").read_text())


# What is written


def test_the_file_says_what_it_is(imported, place):
    tensors, about = load_weights(imported / "samed.safetensors")
    assert about == {
        "num_classes": 2, "backbone": "vit_tiny", "image_size": SIZE, "patch_size": 8,
        "base_sha256": hashlib.sha256((place / "sam.pth").read_bytes()).hexdigest(),
        "tuning": {"lora": {"rank": 3, "targets": ["q", "v"]}},
        "full_tuning": False, "detail": False, "fusion": None, "prompts": None, "normalisation": "unit",
        "mask_tokens": None, "enlarged": "logits", "efficient_decoder": None, "kind": "samed", "rank": 3,
        "labels": ["anterior", "posterior"],
        "context_slices": 0, "slice_layout": "file",
        "checkpoint_sha256": hashlib.sha256((place / "samed.pth").read_bytes()).hexdigest(),
    }  # fmt: skip
    network = Segmenter(2, image_size=SIZE, base=place / "sam.pth", lora={"rank": 3}, detail=False, fusion=None)
    network.load_trainable_state(tensors)
    published = torch.load(place / "samed.pth", weights_only=True)
    assert torch.equal(tensors["sam.image_encoder.blocks.1.attn.qkv.updates.v.b.weight"], published["w_b_003"])


def test_the_command_tells_every_key(place, tmp_path, capsys):
    arguments = ["import", "samed", str(place / "samed.pth"), "--base", str(place / "sam.pth")]
    assert main([*arguments, "--image-size", str(SIZE), "--output", str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out.splitlines()
    count = len(torch.load(place / "samed.pth", weights_only=True))
    assert out[0].startswith(f"used, {count - 1}: w_a_* (8), w_b_* (8), ")
    assert out[1] == "ignored, 1: prompt_encoder.pe_layer.positional_encoding_gaussian_matrix: the base's own"
    assert out[-1].endswith(f"--set start={tmp_path}/a.safetensors --set base={place}/sam.pth")
    assert files_below(tmp_path) == ["a.safetensors"]


def test_the_run_is_a_bundle_with_the_checkpoints_network(imported, place):
    run = imported / "run"
    assert set(files_below(run)) >= {"configs/card.yaml", "configs/metadata.json", "models/model.pt", "LICENSE"}
    tensors = load_weights(imported / "samed.safetensors")[0]
    for mine in (load_weights(run / "models/model.safetensors")[0], torch.load(run / "models/model.pt")):
        assert mine.keys() == tensors.keys()
        assert all(torch.equal(mine[key], tensors[key]) for key in mine)
    for config in ("train", "inference", "evaluate"):
        options = knobs_of(run, config)
        options |= options.get("untrained", {})
        assert (options["image_size"], options["context_slices"], options["detail"], options["fusion"]) == (
            SIZE,
            0,
            False,
            None,
        )
        assert options["base"] == str(place / "sam.pth")
        assert options["lora"] == {"rank": 3, "targets": ["q", "v"]}


# What the user does next


def test_it_segments_at_once_as_samed_would(imported, place, study, tmp_path):
    """Slices of the network's own size: the label is the largest of SAMed's masks for the slice, repeated."""
    assert main(["segment", str(imported / "run"), str(study), "--output", str(tmp_path)]) == 0
    parser = ConfigParser()
    parser.read_config(str(imported / "run" / "configs" / "inference.yaml"))
    parser.update({"bundle_root": str(imported / "run"), "datalist": str(study)})
    item = parser.get_parsed_content("dataset")[0]  # [y, x, z] of the file
    slices = item["image"][0].as_tensor().permute(2, 0, 1)[:, None].expand(-1, 3, -1, -1)
    base = segment_anything_sam(SIZE)
    reading = samed_reading(base, torch.load(place / "samed.pth", weights_only=True), slices)
    expected = reading.argmax(1).permute(2, 1, 0).numpy()  # from [z, y, x]
    written = np.asarray(nib.load(tmp_path / "case-te-ras.nii.gz").dataobj)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(written, expected)


def test_a_training_starts_with_it(imported, place, study, tmp_path):
    """At a learning rate of next to zero the weights come out as they went in, and detail and fusion begin anew."""
    options = {"start": str(imported / "samed.safetensors"), "base": str(place / "sam.pth"), "learning_rate": 1e-30}
    run = train_run("sam_lora", study, tmp_path / "run", {**FAST, **options, "weight_decay": 0.0})
    text = (run / "configs" / "train.yaml").read_text()
    options = yaml.safe_load(text)
    assert (options["image_size"], options["context_slices"], options["detail"], options["fusion"]) == (
        SIZE, 0, True, "vote_product"
    )  # fmt: skip
    assert options["lora"] == {"rank": 3, "targets": ["q", "v"]}
    state, about = load_weights(run / "models" / "model.safetensors")
    start = load_weights(imported / "samed.safetensors")[0]
    assert all(torch.allclose(state[key], start[key], rtol=0, atol=1e-20) for key in start)
    assert {key.split(".")[0] for key in set(state) - set(start)} == {"stem", "detail", "fusion"}
    assert state["detail.gate.weight"].abs().max() < 1e-20
    assert about["detail"] is True


def test_the_log_tells_what_became_of_every_key(imported, place, study, tmp_path, caplog):
    caplog.set_level("INFO", logger="ragsam")
    options = {"base": place / "sam.pth", "lora": {"rank": 3}, "detail": False, "fusion": "label_prior"}
    network = Segmenter(2, image_size=SIZE, **options)
    StartWeights(network, imported / "samed.safetensors", ["anterior", "posterior"]).load()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("start: ")]
    assert lines[0].startswith("start: used, ")
    assert lines[1].startswith(
        "start: missing, 6: fusion.label_prior.convs.*.weight (2), fusion.label_prior.convs.*.bias (2), "
        "fusion.label_prior.to_logits.weight, "
    )


def test_a_training_starts_with_another_run(run, study, tmp_path):
    """A run of ours, by its folder: its network's options are taken over."""
    made = make_run("sam_lora", study, tmp_path / "next", {"start": str(run)})
    options = knobs_of(made)
    assert options["start"] == str(run / "models" / "model.safetensors")
    assert (options["image_size"], options["detail"], options["fusion"]) == (32, True, "vote_product")
    assert options["adapter"] is None


def test_what_tunes_the_weights_is_set_and_more_may_be_added(place, study, tmp_path):
    command = ["import", "medical-sam-adapter", place / "msa.pth", "--base", place / "sam.pth", "--thd", "false"]
    command += ["--slice-layout", "ras"]
    assert main([str(part) for part in (*command, "--output", tmp_path / "msa.safetensors")]) == 0
    options = {"start": str(tmp_path / "msa.safetensors"), "base": str(place / "sam.pth")}
    made = make_run("sam_lora", study, tmp_path / "run", {**options, "network_def.lora.rank": 2})
    network = knobs_of(made)
    assert network["adapter"] == {
        "space": True, "mlp": True, "depth": False, "ratio": 0.25, "normed_padding": True
    }  # fmt: skip
    assert network["lora"] == {"rank": 2, "targets": ["q", "v"]}
    made = make_run("sam_lora", study, tmp_path / "other", options)
    assert knobs_of(made)["lora"] is None
    assert knobs_of(made)["mask_tokens"] is None  # two organs: a token each
    assert start_options(tmp_path / "msa.safetensors", {}, 1)["mask_tokens"] == 4


def test_the_decoder_of_a_file_of_2024_goes_along(place, study, refused, tmp_path):
    torch.save(medical_file_of_2024(segment_anything_sam(512)), tmp_path / "msa.pth")
    command = ["import", "medical-sam-adapter", tmp_path / "msa.pth", "--image-size", "64", "--thd", "false"]
    command += ["--normalisation", "unit", "--activation", "gelu", "--windows", "before-norm", "--slice-layout", "ras"]
    assert main([str(part) for part in (*command, "--output", tmp_path / "msa.safetensors")]) == 0
    start = {"start": str(tmp_path / "msa.safetensors")}
    run = train_run("sam_adapter", study, tmp_path / "run", {**FAST, **start})
    assert knobs_of(run)["efficient_decoder"] == "gelu"
    assert load_weights(run / "models" / "model.safetensors")[1]["efficient_decoder"] == "gelu"
    assert main(["segment", str(run), str(study), "--output", str(tmp_path / "out"), "--no-retrieval"]) == 0
    assert (tmp_path / "out" / "case-te-ras.nii.gz").is_file()
    with pytest.raises(InputError, match="--set efficient_decoder: 'relu', but the weights of start"):
        make_run("sam_adapter", study, tmp_path / "other", {**start, "efficient_decoder": "relu"})
    line = refused("export", run, "--to", "sam", "--output", tmp_path / "a.pth")
    assert "efficient_decoder: the format has SAM's own" in line


def test_a_bundle_of_an_earlier_version_cannot_start_with_what_it_has_no_option_for(imported, place, study, tmp_path):
    bundle = tmp_path / "earlier"
    shutil.copytree(find_bundle("sam_lora"), bundle)
    config = bundle / "configs" / "train.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "slice_layout" not in line))
    start = {"start": str(imported / "samed.safetensors"), "base": str(place / "sam.pth")}
    with pytest.raises(InputError, match="earlier: has no slice_layout, and file is needed; take a bundle of this"):
        make_run(bundle, study, tmp_path / "run", start)


def test_without_a_base_the_network_stands_alone(place, study, tmp_path):
    torch.save(copied(segment_anything_sam(SIZE, seed=3)), tmp_path / "medsam.pth")
    command = ["import", "medsam", str(tmp_path / "medsam.pth"), "--output", str(tmp_path / "medsam.safetensors")]
    assert main(command) == 0
    made = make_run("sam_lora", study, tmp_path / "run", {"start": str(tmp_path / "medsam.safetensors")})
    assert knobs_of(made)["detail"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--set start: samed.safetensors was made on different base weights; set `base` to the ones whose SHA-256"),
        ({"base": "other.pth"}, "--set start: samed.safetensors was made on different base weights"),
        (
            {"image_size": 64},
            "--set image_size: 64, but the weights of start (samed.safetensors) have 32; leave it out",
        ),
        ({"peft": ["adapter"]}, "--set peft: ['adapter'], but the weights of start (samed.safetensors) have ['lora'"),
        (
            {"backbone": "vit_b"},
            "--set backbone: 'vit_b', but the weights of start (samed.safetensors) have 'vit_tiny'",
        ),
        ({"normalisation": "sam"}, "--set normalisation: 'sam', but"),
        ({"full_tuning": True}, "--set full_tuning: True, but"),
        ({"network_def.lora.rank": 4}, "--set lora.rank: 4, but the weights of start"),
        ({"network_def.lora": None}, "--set lora: None, but the weights of start"),
    ],
)
def test_a_knob_that_contradicts_the_weights_is_told(imported, place, study, refused, tmp_path, options, words):
    values = {"start": imported / "samed.safetensors", "base": "sam.pth", **options}
    values["base"] = place / values["base"] if options else None
    settings = [f"{name}={'null' if value is None else value}" for name, value in values.items()]
    line = refused(
        "train", "sam_lora", "--data", study, "--output", tmp_path / "run", *(f"--set={text}" for text in settings)
    )
    assert line.startswith(words)
    assert not (tmp_path / "run").exists()


def test_dropout_may_differ_from_the_weights(imported, place, study, tmp_path):
    options = {"start": str(imported / "samed.safetensors"), "base": str(place / "sam.pth")}
    made = make_run("sam_lora", study, tmp_path / "run", {**options, "network_def.lora.dropout": 0.1})
    assert knobs_of(made)["lora"] == {"rank": 3, "targets": ["q", "v"], "dropout": 0.1}


# Export


def test_import_export_import_by_the_command_line(imported, place, tmp_path, capsys):
    assert main(["export", str(imported / "run"), "--to", "samed", "--output", str(tmp_path / "back.pth")]) == 0
    assert capsys.readouterr().out.splitlines() == [f"samed: {tmp_path / 'back.pth'}"]
    back, published = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pth", place / "samed.pth"))
    assert back.keys() == published.keys()
    assert all(torch.equal(back[key], published[key]) for key in back)
    command = ["import", "samed", tmp_path / "back.pth", "--base", place / "sam.pth", "--image-size", SIZE]
    assert main([str(part) for part in (*command, "--output", tmp_path / "again.safetensors")]) == 0
    again, once = (load_weights(p)[0] for p in (tmp_path / "again.safetensors", imported / "samed.safetensors"))
    assert all(torch.equal(again[key], once[key]) for key in once)


def test_a_merged_sam_is_written_and_is_a_base(imported, tmp_path, capsys):
    assert main(["export", str(imported / "run"), "--to", "sam", "--output", str(tmp_path / "merged.pth")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "masks: 3 class tokens, background first, where SAM has 4 masks for prompts"
    assert out[1] == "positions: for 32 pixels, where SAM's own builder takes 1024"
    Segmenter(5, image_size=SIZE, base=tmp_path / "merged.pth", lora={"rank": 1})


def test_what_a_format_cannot_hold_is_one_line(run, imported, refused, tmp_path):
    line = refused("export", run, "--to", "samed", "--output", tmp_path / "a.pth")
    assert line.startswith("SAMed's format cannot hold this network: the whole network was trained, ")
    assert refused("export", run, "--to", "sam", "--output", tmp_path / "a.pth").startswith("a plain SAM cannot hold")
    line = refused("export", imported / "run", "--to", "samed", "--output", tmp_path / "a.onnx")
    assert line == "--output a.onnx: this format is a .pth file; call it so"
    assert "not a run" in refused("export", tmp_path, "--to", "sam", "--output", tmp_path / "a.pth")
    assert files_below(tmp_path) == []


# Bad input


class Payload:
    """What a pickle runs when it is loaded carelessly: it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def _with_code(place, folder):
    torch.save({**medical_file(segment_anything_sam(SIZE)), "path_helper": Payload(folder / "ran")}, folder / "bad.pth")


def _truncated(place, folder):
    whole = (place / "samed.pth").read_bytes()
    (folder / "bad.pth").write_bytes(whole[: len(whole) // 2])


def _swollen(place, folder):
    state = torch.load(place / "samed.pth", weights_only=True)
    torch.save({**state, "w_a_000": torch.zeros(1, 1).expand(10**7, 10**7)}, folder / "bad.pth")


def _compressed(place, folder):
    torch.save({"a": torch.zeros(10**6)}, folder / "loose.pth")
    packed = zipfile.ZipFile(folder / "bad.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(folder / "loose.pth") as source, packed as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    (folder / "loose.pth").unlink()


def _promising(place, folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}}).encode()
    (folder / "bad.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)


def _header_of_headers(place, folder):
    (folder / "bad.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


@pytest.mark.parametrize(
    "make",
    [_with_code, _truncated, _swollen, _compressed, _promising, _header_of_headers],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("kind", ["samed", "medical-sam-adapter"])
def test_a_hostile_checkpoint_is_one_line_and_writes_nothing(make, kind, place, refused, tmp_path):
    make(place, tmp_path)
    (bad,) = tmp_path.glob("bad.*")
    out = tmp_path / "out"
    command = ("import", kind, bad, "--base", place / "sam.pth", "--card", "hippocampus")
    line = refused(*command, "--output", out / "a.safetensors", "--run", out / "run")
    assert line.startswith(f"{bad.name}: not a readable weights file (")
    assert line.endswith("fetch it again from its source")
    assert files_below(tmp_path) == [bad.name]
    assert not (tmp_path / "ran").exists()


def test_bad_input_is_one_line_and_writes_nothing(place, refused, tmp_path):
    out = tmp_path / "a.safetensors"
    samed = ("import", "samed", place / "samed.pth", "--image-size", SIZE)
    based = (*samed, "--base", place / "sam.pth")
    assert refused(*samed, "--output", out) == (
        "samed.pth: holds only what was tuned; give the SAM that it was made on with --base"
    )
    line = refused(*samed, "--base", place / "other.pth", "--output", out)
    assert line.endswith("is not the base's: made on other base weights; give those with --base")
    line = refused(*samed, "--base", place / "none.pth", "--output", out)
    assert line == f"--base: {place}/none.pth: no such file; check the path"
    assert refused(*based) == "import: nothing to write; give --output, or --run with --card"
    assert refused(*based, "--run", tmp_path / "run") == "--run: needs the names of the classes; give --card"
    line = refused(*based, "--output", tmp_path / "a.pth")
    assert line == "--output a.pth: weights are written as safetensors; call it .safetensors"
    assert refused(*based, "--output", out, "--card", "btcv") == (
        "btcv: the card has 13 organs, the checkpoint 2; give a card with the checkpoint's, in their order"
    )
    line = refused(*based, "--card", "hippocampus", "--run", place)
    assert line == f"{place}: is not empty; choose another output, or remove it"
    assert files_below(tmp_path) == []


def test_a_run_on_another_base_is_refused(imported, place, refused, tmp_path):
    """FAULTS 22: the base's file is another one than at import."""
    run = shutil.copytree(imported / "run", tmp_path / "run")
    config = run / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace(str(place / "sam.pth"), str(place / "other.pth")))
    volume = save_volume(tmp_path / "a.nii.gz", anatomy(1)[0], affine_of())
    words = "model.safetensors: made on different base weights; set `base` to the ones it was trained on"
    assert refused("segment", run, volume, "--output", tmp_path / "out") == words
    assert refused("export", run, "--to", "samed", "--output", tmp_path / "a.pth") == words
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"x" * 40), "no metadata of ours in it; import the checkpoint first"),
        (lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path), "no metadata of ours in it"),
        (lambda path: None, "no such weights file; check the path"),
        (
            lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path, {"backbone": '"vit_tiny"'}),
            "does not state image_size; make it again with this version",
        ),
    ],
)
def test_a_start_that_is_none_is_one_line(make, words, study, refused, tmp_path):
    make(tmp_path / "a.safetensors")
    start = f"--set=start={tmp_path / 'a.safetensors'}"
    assert words in refused("train", "sam_lora", "--data", study, "--output", tmp_path / "run", start)
    assert not (tmp_path / "run").exists()


def test_the_layout_of_slices_is_asked_for_where_no_format_says_it(place, refused, tmp_path):
    command = ["import", "sam-adapter", place / "sam_adapter.pth", "--base", place / "sam.pth"]
    line = refused(*command, "--output", tmp_path / "a.safetensors")
    assert line.startswith("sam_adapter.pth: a sam-adapter file does not say how slices were laid out in its training")
    assert "--slice-layout: file (as the file stores them, [Y, X]) or ras" in line
    assert files_below(tmp_path) == []


def test_the_layout_of_slices_goes_with_the_weights(imported, place, study, refused, tmp_path):
    """Into the run, into a training that starts with them, and nowhere else."""
    for config in ("train", "inference", "evaluate"):
        assert knobs_of(imported / "run", config)["slice_layout"] == "file"
    start = {"start": str(imported / "samed.safetensors"), "base": str(place / "sam.pth")}
    assert knobs_of(make_run("sam_lora", study, tmp_path / "next", start))["slice_layout"] == "file"
    with pytest.raises(InputError, match=r"--set slice_layout: 'ras', but the weights of start \(samed.safetensors\)"):
        make_run("sam_lora", study, tmp_path / "other", {**start, "slice_layout": "ras"})
    turned = tmp_path / "turned"
    shutil.copytree(imported / "run", turned)
    config = turned / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("\nslice_layout: file", "\nslice_layout: ras"))
    line = refused("segment", turned, study, "--output", tmp_path / "out")
    assert line == "model.safetensors: made for slice_layout file, the run has ras; leave it as in training"


def test_weights_that_an_earlier_version_imported_are_to_be_imported_again(imported, place, study, refused, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(imported / "run", earlier)
    state, about = load_weights(earlier / "models" / "model.safetensors")
    del about["slice_layout"]
    save_weights(earlier / "models" / "model.safetensors", state, about)
    line = refused("segment", earlier, study, "--output", tmp_path / "out")
    assert line.startswith("model.safetensors: imported from samed by an earlier version")
    assert line.endswith("import the checkpoint again")
    start = ["--set", f"start={earlier}", "--set", f"base={place / 'sam.pth'}"]
    assert refused("train", "sam_lora", "--data", study, "--output", tmp_path / "next", *start) == line
    assert not (tmp_path / "next").exists()
    save_weights(tmp_path / "sam.safetensors", state, {**about, "kind": "sam"})  # which nobody trained on volumes
    assert start_options(tmp_path / "sam.safetensors", {}, 2)["slice_layout"] == "ras"


def card_of_one_organ(path):
    organ = {"name": "lump", "value": 1, "colour": [1, 2, 3], "tolerance_mm": 1}
    texts = dict.fromkeys(("title", "licence", "source", "citation"), "none")
    shared = {"name": "one", "modality": "MR", "window": None, "orientation": "RAS", "organs": [organ]}
    path.write_text(yaml.safe_dump({**shared, **texts}))
    return path


def test_one_organ_by_medical_sam_adapter(place, tmp_path):
    card = card_of_one_organ(tmp_path / "one.yaml")
    command = ["import", "medical-sam-adapter", place / "msa.pth", "--base", place / "sam.pth", "--card", card]
    command += ["--thd", "false", "--slice-layout", "file"]
    assert main([str(part) for part in (*command, "--run", tmp_path / "run")]) == 0
    volume = save_volume(tmp_path / "a.nii.gz", anatomy(1)[0], affine_of())
    assert main(["segment", str(tmp_path / "run"), str(volume), "--output", str(tmp_path / "out")]) == 0
    assert set(np.unique(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)) <= {0, 1}


def test_one_organ_by_sam_adapter(place, tmp_path):
    """Its one mask needs a card of one organ; the run then has SAM's four mask tokens."""
    card = card_of_one_organ(tmp_path / "one.yaml")
    command = ["import", "sam-adapter", place / "sam_adapter.pth", "--base", place / "sam.pth", "--card", card]
    command += ["--slice-layout", "file"]
    assert main([str(part) for part in (*command, "--run", tmp_path / "run")]) == 0
    assert knobs_of(tmp_path / "run")["mask_tokens"] == 4
    network = knobs_of(tmp_path / "run")
    assert (network["lora"], network["frequency"]) == (None, {"rate": 0.25, "reduction": 32, "as_published": True})
    metadata = json.loads((tmp_path / "run" / "configs" / "metadata.json").read_text())
    assert metadata["name"] == "RAG-SAM with frequency prompts"
    volume = save_volume(tmp_path / "a.nii.gz", anatomy(1)[0], affine_of())
    assert main(["segment", str(tmp_path / "run"), str(volume), "--output", str(tmp_path / "out")]) == 0
    assert set(np.unique(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)) <= {0, 1}
