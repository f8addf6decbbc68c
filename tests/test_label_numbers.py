"""Label numbers: the card's or the data set's own, told apart, refused, or written as asked for; worked out by hand."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import yaml

import ragsam
from ragsam.api.datalists import as_datalist
from ragsam.cli import main
from ragsam.data.cards.load import card_text, load_card
from ragsam.data.cards.own_numbers import card_text_with
from ragsam.data.cards.schema import parse_card
from ragsam.data.checks.check_case import examine_case
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.label_numbers import (
    possible_numberings,
    raw_numbers,
    sidecar,
    to_raw,
    told_numbering,
    write_sidecar,
)
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.runs.run import RunFolder, root_cause

#: synapse8: liver 5 is 6 in the data set, stomach 6 is 7, aorta 7 is 8, pancreas 8 is 11; 1 to 4 are the same.
RAW = {5: 6, 6: 7, 7: 8, 8: 11}


IN_THE_MIDDLE = {"i": 16, "j": 16, "k": 3}


def save(path, values):
    """Write a volume whose slices along x hold one value each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.repeat(np.array(values, np.uint8), 4).reshape(-1, 2, 2)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def evaluate(folder, *options, reference="reference"):
    command = ["evaluate", "--reference", folder / reference, "--prediction", folder / "prediction"]
    code = main([str(word) for word in (*command, "--output", folder / "ev", *options)])
    return code, read_json(folder / "ev" / "metrics.json")["summary"]["mean"]["dice"]["mean"] if code == 0 else None


def test_values_tell_the_numbering_where_only_one_has_them():
    card = load_card("synapse8")
    assert possible_numberings({0, 6, 11}, card, card.label_map) == {"raw"}  # 11 is beyond the card's 8
    assert possible_numberings({0, 6, 8}, card, card.label_map) == {"card", "raw"}
    assert possible_numberings({0, 14}, card, card.label_map) == set()
    assert possible_numberings({0}, card, card.label_map) == {"card", "raw"}
    labels = np.array([0, 1, 5, 8], np.uint8)
    assert to_raw(labels, card).tolist() == [0, 1, 6, 11]


@pytest.mark.parametrize("numbers", ["card", "raw", "same"])
def test_perfect_predictions_have_dice_1_in_either_numbering(tmp_path, capsys, numbers):
    """The reference has the data set's 11, no number of the card; the prediction either 11, or what both share."""
    shared = [0, 1, 2, 3, 4]
    values = shared if numbers == "same" else [*shared, 5, 8]
    save(tmp_path / "reference" / "a.nii.gz", [RAW.get(value, value) for value in values])
    options = []
    if numbers == "card":
        save(tmp_path / "prediction" / "a.nii.gz", values)
        code, _ = evaluate(tmp_path, "--card", "synapse8")
        assert code == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            "ragsam: predictions: their values (0, 1, 2, 3, 4, 5, 8) may be the numbers of card synapse8 or the data "
            "set's own; say which with --labels card or --labels raw"
        )
        options = ["--labels", "card"]
    else:
        save(tmp_path / "prediction" / "a.nii.gz", [RAW.get(value, value) for value in values])
    assert evaluate(tmp_path, "--card", "synapse8", *options) == (0, 1.0)


def test_what_cannot_be_told_is_refused_by_name(tmp_path, capsys):
    """Only 6 to 8 occur: liver, stomach and aorta of the data set, or stomach, aorta and pancreas of the card."""
    save(tmp_path / "reference" / "a.nii.gz", [0, 6, 7, 8])
    save(tmp_path / "prediction" / "a.nii.gz", [0, 5, 6, 7])
    assert evaluate(tmp_path, "--card", "synapse8")[0] == 2
    assert "--reference-labels card or --reference-labels raw" in capsys.readouterr().err
    assert not (tmp_path / "ev").exists()
    assert evaluate(tmp_path, "--card", "synapse8", "--reference-labels", "raw", "--labels", "card") == (0, 1.0)
    capsys.readouterr()
    # As the card's numbers: 6 and 7 lie elsewhere, 8 is missed, 5 is false: nothing agrees.
    assert evaluate(tmp_path, "--card", "synapse8", "--reference-labels", "card", "--labels", "card") == (0, 0.0)
    assert "warning: mean Dice 0 over all cases: no voxel agrees" in capsys.readouterr().err
    assert evaluate(tmp_path, "--card", "synapse8", "--labels", "mine")[0] == 2
    assert "--labels mine: no such numbers; choose card or raw" in capsys.readouterr().err


def test_folder_of_both_numberings_is_refused(tmp_path, capsys):
    for case, value in (("a", 11), ("b", 12)):
        save(tmp_path / "reference" / f"{case}.nii.gz", [0, value])
    save(tmp_path / "prediction" / "a.nii.gz", [0, 11])
    save(tmp_path / "prediction" / "b.nii.gz", [0, 1])
    assert evaluate(tmp_path, "--card", "synapse8") == (0, 1.0)  # 1 is the same in both, 12 is background
    content = yaml.safe_load(card_text("hippocampus"))
    content["organs"][0]["raw"], content["organs"][1]["raw"] = [7], [9]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    save(tmp_path / "reference" / "a.nii.gz", [0, 7])
    save(tmp_path / "reference" / "b.nii.gz", [0, 1])
    assert evaluate(tmp_path, "--card", str(tmp_path / "own.yaml"))[0] == 2
    assert "references: some have the card's numbers, others the data set's own" in capsys.readouterr().err


def test_predictions_for_a_datalist_are_told_apart_by_its_label_map(tmp_path, capsys):
    """7 is 1 and 9 is 2: predictions of 7 and 9 are the data set's, of 1 and 2 the card's."""
    save(tmp_path / "label" / "a.nii.gz", [0, 7, 9])
    case = {"case": "a", "patient": "p", "image": "label/a.nii.gz", "label": "label/a.nii.gz"}
    content = {"card": "hippocampus", "label_map": {"7": 1, "9": 2}, "test": [case]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    for values in ([0, 7, 9], [0, 1, 2]):
        save(tmp_path / "prediction" / "a.nii.gz", values)
        assert evaluate(tmp_path, reference="data.json") == (0, 1.0)


@pytest.fixture
def raw_card(run, own_run, tmp_path):
    """The trained run with a card on which its organs are 7 and 300 in the data set, as it would be trained with it."""
    content = yaml.safe_load(card_text("hippocampus"))
    content["organs"][0]["raw"], content["organs"][1]["raw"] = [7], [300, 301]
    path = own_run / "configs" / "card.yaml"
    path.unlink()
    path.write_text(yaml.safe_dump(content))
    return own_run


def test_segment_writes_the_numbers_that_are_asked_for_and_names_them(raw_card, study, tmp_path, capsys):
    case = load_datalist(study).section("test")[0]
    own = load_card(raw_card / "configs" / "card.yaml")
    written = {}
    for labels in ("card", "raw"):
        out = tmp_path / labels
        command = ["segment", str(raw_card), str(case.image), "--output", str(out), "--no-retrieval"]
        assert main([*command, "--labels", labels]) == 0
        written[labels] = np.asarray(nib.load(out / f"{case.case}.nii.gz").dataobj)
        told = read_json(out / f"{case.case}.labels.json")
        assert told["numbers"] == labels
        assert (
            told["labels"]
            == {"card": {"anterior": 1, "posterior": 2}, "raw": {"anterior": 7, "posterior": 300}}[labels]
        )
        assert told_numbering(out / f"{case.case}.nii.gz", own, own.label_map) == labels
        # What was written is evaluated without being asked what it is: the file beside it tells.
        (tmp_path / "reference").mkdir(exist_ok=True)
        nib.save(nib.load(case.label), tmp_path / "reference" / f"{case.case}.nii.gz")
        evaluate_own = ["evaluate", "--reference", str(tmp_path / "reference"), "--prediction", str(out)]
        card = ["--card", str(raw_card / "configs" / "card.yaml"), "--output", str(tmp_path / f"ev-{labels}")]
        assert main([*evaluate_own, *card]) == 0
    assert np.unique(written["card"]).tolist() == [0, 1, 2]
    assert np.array_equal(np.array([0, 7, 300])[written["card"]], written["raw"])
    dice = [read_json(tmp_path / f"ev-{labels}" / "metrics.json")["summary"] for labels in ("card", "raw")]
    assert dice[0] == dice[1]
    capsys.readouterr()
    command = ["evaluate", "--reference", str(study), "--prediction", str(tmp_path / "raw"), "--card", "synapse8"]
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    assert "has other labels than card synapse8" in capsys.readouterr().err


def test_a_result_in_python_has_the_numbers_that_are_asked_for(raw_card, study):
    case = load_datalist(study).section("test")[0]
    loaded = ragsam.load(raw_card)
    card, raw = (loaded.segment(case.image, retrieval=False, labels=labels) for labels in ("card", "raw"))
    assert (card.values, raw.values) == ({"anterior": 1, "posterior": 2}, {"anterior": 7, "posterior": 300})
    one, other = (np.asarray(result.labels.dataobj) for result in (card, raw))
    assert one.any()
    assert np.array_equal(np.array([0, 7, 300])[one], other)
    assert card.volumes_ml == raw.volumes_ml
    assert np.array_equal(card.probabilities("posterior").dataobj, raw.probabilities("posterior").dataobj)
    with pytest.raises(InputError, match="--labels mine: no such numbers; choose card or raw"):
        loaded.segment(case.image, labels="mine")
    with pytest.raises(InputError, match="labels: not with prompts"):
        loaded.segment(case.image, prompts=[ragsam.Click(16, 16, 3, object="anterior")], labels="raw")


def test_what_was_written_for_another_card_is_refused(segmented, tmp_path, capsys):
    command = ["evaluate", "--reference", str(segmented), "--prediction", str(segmented), "--card", "synapse8"]
    assert main([*command, "--output", str(tmp_path / "ev")]) == 2
    said = capsys.readouterr().err
    assert "of anterior, posterior, by its case-te-flipped.labels.json, not of card synapse8" in said


@pytest.mark.parametrize(
    "command",
    [
        "segment RUN DATA --output OUT",
        "segment RUN DATA --prompts PROMPTS --output OUT",
        "segment --card hippocampus --bank RUN/bank DATA --output OUT",
        "rank RUN DATA",
        "evaluate --reference DATA --prediction RUN --card hippocampus --output OUT",
    ],
)
def test_datalist_of_another_card_is_refused(run, edited_study, tmp_path, capsys, command):
    other = edited_study(lambda content: content.update(card="synapse8"))
    (tmp_path / "p.json").write_text(json.dumps({"case-te-ras": [{"organ": "anterior", "points": [IN_THE_MIDDLE]}]}))
    names = {"RUN": str(run), "DATA": str(other), "OUT": str(tmp_path / "out"), "PROMPTS": str(tmp_path / "p.json")}
    for name, path in names.items():
        command = command.replace(name, path)
    assert main(command.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("ragsam: datalist.json: of card synapse8, which has other labels than card hippocampus; ")
    assert not (tmp_path / "out").exists()


def test_datalist_of_another_card_is_refused_in_python_and_by_monai(run, own_run, edited_study, tmp_path):
    other = edited_study(lambda content: content.update(card="synapse8"))
    loaded = ragsam.load(run)
    for job in (loaded.segment, loaded.evaluate, loaded.bank.add):
        with pytest.raises(InputError, match="has other labels than"):
            job(other)
    for config in ("train", "inference", "evaluate"):
        parser = RunFolder(own_run, config).parser(config, datalist=str(other))
        name = "datalist_def" if config == "train" else "cases"
        with pytest.raises(Exception, match="load_datalist") as told:
            parser.get_parsed_content(name)
        assert "has other labels than" in str(root_cause(told.value))


def test_datalist_of_the_same_organs_in_other_images_is_warned_of(edited_study, tmp_path, caplog):
    content = yaml.safe_load(card_text("hippocampus"))
    card = parse_card({**content, "modality": "CT", "window": [-100, 300]})
    with caplog.at_level("WARNING"):
        load_datalist(edited_study(lambda content: None), card)
    assert "datalist.json: warning: of card hippocampus (MR, window None), but read as" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        load_datalist(edited_study(lambda content: content.update(card="lost.yaml")), card)
    assert "whether it belongs to card hippocampus is unknown: " in caplog.text


def test_prepare_finds_out_which_numbers_the_label_files_have(tmp_path, capsys):
    """11 is no number of the card; 14 neither's; 5 and 8 are liver and pancreas, or what the card leaves out, and 7."""
    for case, raw, card, open_ in (("img0001", 11, 5, 6), ("img0002", 6, 8, 7)):
        for kind, value in (("raw", raw), ("card", card), ("open", open_)):
            save(tmp_path / kind / "img" / f"{case}.nii.gz", [0, 1])
            save(tmp_path / kind / "label" / f"{case.replace('img', 'label')}.nii.gz", [0, value])
    data = tmp_path / "data.json"

    def prepared(kind, *options):
        command = ["prepare", "synapse8", tmp_path / kind, "--output", data, "--layout", "btcv", "--overwrite"]
        return main([str(word) for word in (*command, "--validation", 0, "--test", 0, *options)])

    assert prepared("raw") == 0
    assert load_datalist(data).label_map == load_card("synapse8").label_map
    data.unlink()
    for kind in ("card", "open"):
        assert prepared(kind) == 2
        assert "labels: their values" in capsys.readouterr().err
        assert not data.exists()
        assert prepared(kind, "--labels", "card") == 0
        assert load_datalist(data).label_map is None
        data.unlink()


def test_run_keeps_the_numbers_of_the_label_map_it_was_trained_on(tmp_path):
    """Of hippocampus 4 is 1 and 7 is 2, 9 is background: the run's card has them as its raw numbers."""
    card = parse_card(yaml.safe_load(card_text_with("hippocampus", {4: 1, 7: 2, 9: 0})))
    assert raw_numbers(card) == {"anterior": 4, "posterior": 7}
    assert card.label_map == {4: 1, 7: 2, 9: 0}
    assert card.labels == load_card("hippocampus").labels
    assert card_text_with("hippocampus", None) == card_text("hippocampus")
    assert card_text_with("hippocampus", {-4: 1, 7: 2}) == card_text("hippocampus")  # a card has no negative ones


def test_files_that_tell_their_numbers_do_so_in_any_format_and_only_as_they_were_written(tmp_path):
    card = load_card("hippocampus")
    for name in ("a.nii.gz", "b.NII.GZ", "c.mha"):
        path = save(tmp_path / name, [0, 1]) if name != "c.mha" else tmp_path / name
        path.write_bytes(path.read_bytes() if path.exists() else b"x")
        write_sidecar(path, {"anterior": 7, "posterior": 300})
        assert sidecar(path).name == f"{name[0]}.labels.json"
        assert told_numbering(path, card, {7: 1, 300: 2}) == "raw"
        with pytest.raises(InputError, match="not of card hippocampus"):
            told_numbering(path, card, None)
        path.write_bytes(b"another volume")
        assert told_numbering(path, card, {7: 1, 300: 2}) is None


def test_labels_given_in_python_are_read_in_their_own_numbers(raw_card, tmp_path):
    """11 is no number of the card; 300 and 7 are its raw ones, 1 and 2 its own, and 0 alone is the same in both."""
    run = RunFolder(raw_card)
    case = {"case": "a", "patient": "p", "image": tmp_path / "i.nii.gz", "label": tmp_path / "l.nii.gz"}
    maps = {}
    for name, values in (("raw", [0, 7, 44]), ("card", [0, 1, 2]), ("empty", [0])):
        save(case["label"], values)
        maps[name] = load_datalist(as_datalist([case], run, "training", tmp_path)).label_map
    assert maps == {"raw": None, "card": None, "empty": None}  # 44 is of neither: its fault is told when it is read
    save(case["label"], [0, 7])
    assert load_datalist(as_datalist([case], run, "training", tmp_path)).label_map == {7: 1, 300: 2, 301: 2}


def test_label_whose_file_tells_other_numbers_than_its_datalist_is_a_fault(tmp_path):
    """The label map swaps 1 and 2, which may be read either way."""
    card, raw = load_card("hippocampus"), {1: 2, 2: 1}
    label = save(tmp_path / "l.nii.gz", [0, 1, 2])
    case = Case("a", "p", label, label)
    numbers = {"card": {"anterior": 1, "posterior": 2}, "raw": {"anterior": 2, "posterior": 1}}
    told = {}
    for name, labels in numbers.items():
        write_sidecar(label, labels)
        for label_map in (None, raw):
            told[name, label_map is None] = examine_case(replace(case, label_map=label_map), card).faults
    assert told["card", True] == told["raw", False] == ()
    assert told["card", False][0].endswith("are the card's; leave label_map out of its datalist")
    assert "not of card hippocampus" in told["raw", True][0]  # the card alone knows no such numbers
    write_sidecar(label, {"liver": 1})
    assert "of liver, by its l.labels.json, not of card hippocampus" in examine_case(case, card).faults[0]
