"""Every raw layout, found out and read; contents are never looked at, so empty files do for volumes."""

import json

import pytest

from ragsam.data.cards.load import load_card, parse_card
from ragsam.data.datalist import load_datalist
from ragsam.data.preparation.dataset_json import check_dataset_json
from ragsam.data.preparation.layouts import detect_layout, read_layout
from ragsam.data.preparation.prepare import prepare
from ragsam.data.preparation.tables import annotated_organs
from ragsam.errors import InputError

ANY = parse_card(
    {
        "name": "any",
        "title": "One organ",
        "modality": "CT",
        "window": [0, 1],
        "orientation": "RAS",
        "organs": [{"name": "liver", "value": 1, "raw": [6], "colour": [1, 2, 3], "tolerance_mm": 1}],
        "raw_ignored": [1],
        "licence": "l",
        "source": "s",
        "citation": "c",
    }
)
FLARE = [f"images/FLARE22_Tr_000{n}_0000.nii.gz" for n in (1, 2)] + [f"labels/FLARE22_Tr_000{n}.nii.gz" for n in (1, 2)]


def files(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def cases_of(source, layout=None, card=ANY):
    found = read_layout(source, layout or detect_layout(source, card), card)
    return {
        pair.case: (str(pair.image.relative_to(source)), str(pair.label.relative_to(source))) for pair in found.pairs
    }


LAYOUTS = {
    "btcv": ["RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz"],
    "flare22": ["FLARE22_LabeledCase50/" + name for name in FLARE],
    "decathlon": ["imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz", "imagesTs/liver_2.nii.gz"],
    "nnunet": ["imagesTr/a_0000.nrrd", "labelsTr/a.nrrd", "imagesTr/b_0000.nrrd", "labelsTr/b.nrrd"],
    "plain": ["images/a.mha", "labels/a.nii.gz", "images/b.nii", "labels/b.nii.gz"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_found_out(layout, tmp_path):
    assert detect_layout(files(tmp_path, LAYOUTS[layout]), ANY) == layout


@pytest.mark.parametrize(
    ("img", "label"),
    [("Training/img", "Training/label"), ("averaged-training/img", "averaged-training/label"), (".", ".")],
)
def test_btcv_in_its_usual_folders_or_flat(img, label, tmp_path):
    files(tmp_path, [f"{img}/img0001.nii.gz", f"{label}/label0001.nii.gz", f"{img}/._img0001.nii.gz", f"{img}/a.txt"])
    image, mask = (str((tmp_path / part).relative_to(tmp_path)) for part in (f"{img}/img0001", f"{label}/label0001"))
    assert cases_of(tmp_path) == {"img0001": (f"{image}.nii.gz", f"{mask}.nii.gz")}


def test_folders_of_images_that_have_no_labels_are_left_out_and_counted(tmp_path):
    """The 20 test cases of BTCV have no labels to be had."""
    files(tmp_path, [f"Training/{kind}/{kind}000{n}.nii.gz" for kind in ("img", "label") for n in (1, 2)])
    files(tmp_path, [f"Testing/img/img006{n}.nii.gz" for n in (1, 2, 3)])
    found = read_layout(tmp_path, "btcv", load_card("btcv"))
    assert [pair.case for pair in found.pairs] == ["img0001", "img0002"]
    assert found.left_out == 3


def test_one_missing_label_among_labelled_images_is_named(tmp_path):
    files(tmp_path, ["img/img0001.nii.gz", "img/img0002.nii.gz", "label/label0001.nii.gz", "label/label0003.nii.gz"])
    with pytest.raises(InputError, match=r"^img0002: image without label, img0003: label without image; add"):
        cases_of(tmp_path)


def test_a_second_copy_of_a_case_is_not_chosen_between(tmp_path):
    files(tmp_path, [f"{place}/{kind}/{kind}0001.nii.gz" for place in "ab" for kind in ("img", "label")])
    with pytest.raises(InputError, match=r"^img0001: found in two folders"):
        cases_of(tmp_path)


def test_flare_cases_are_named_without_their_channel_and_unlabelled_ones_left_out(tmp_path):
    files(tmp_path, ["labelled/" + name for name in FLARE])
    files(tmp_path, [f"unlabelled/Case_0000{n}_0000.nii.gz" for n in range(5)])
    found = read_layout(tmp_path, "flare22", load_card("flare22"))
    assert [pair.case for pair in found.pairs] == ["FLARE22_Tr_0001", "FLARE22_Tr_0002"]
    assert [pair.image.name for pair in found.pairs] == ["FLARE22_Tr_0001_0000.nii.gz", "FLARE22_Tr_0002_0000.nii.gz"]
    assert found.left_out == 5


def test_a_case_that_is_itself_numbered_0000_keeps_its_name(tmp_path):
    files(tmp_path, ["images/Case_0000_0000.nii.gz", "images/Case_0001_0000.nii.gz"])
    files(tmp_path, ["labels/Case_0000.nii.gz", "labels/Case_0001.nii.gz"])
    assert list(cases_of(tmp_path, "flare22")) == ["Case_0000", "Case_0001"]


def test_decathlons_list_says_which_cases_there_are(tmp_path):
    names = [f"{kind}Tr/a_{n}.nii.gz" for kind in ("images", "labels") for n in (1, 2, 3)]
    listed = [{"image": f"./imagesTr/a_{n}.nii.gz", "label": f"./labelsTr/a_{n}.nii.gz"} for n in (1, 3)]
    files(tmp_path, names)
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    assert cases_of(tmp_path) == {f"a_{n}": (f"imagesTr/a_{n}.nii.gz", f"labelsTr/a_{n}.nii.gz") for n in (1, 3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it must be an object"),
        ({"training": ["a"]}, "without image or label"),
        ({"training": [{"image": "imagesTr/a.nii.gz"}]}, "without image or label"),
        ({"training": [{"image": "../a.nii.gz", "label": "labelsTr/a.nii.gz"}]}, "outside the folder"),
        ({"training": [{"image": "/etc/a.nii.gz", "label": "labelsTr/a.nii.gz"}]}, "outside the folder"),
        ({"training": [{"image": "imagesTr/a.txt", "label": "labelsTr/a.nii.gz"}]}, "is not a volume"),
        ({"training": [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}]}, "^b: its image is in dataset"),
        ({"modality": {"0": "T1", "1": "T2"}}, "2 channels"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "2 channels"),
        ({"labels": {"0": "background", "7": "bone"}}, r"label 7 \(bone\) is not a raw value of card any"),
        ({"labels": {"background": 0, "bone": 7}}, r"label 7 \(bone\) is not a raw value of card any"),
        ({"labels": {"0": "background", "1": "Liver"}}, "liver is 1, on card any 6"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(content, message, tmp_path):
    files(tmp_path, ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"])
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        cases_of(tmp_path)


def test_labels_of_a_dataset_json_may_have_other_names_and_regions(tmp_path):
    files(tmp_path, ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"])
    labels = {"background": 0, "LIVER": 6, "other": 1, "whole": [1, 6]}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": []}))
    assert list(cases_of(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["imagesTr/a_0001.nii.gz"], r"^a: several channels \(a_0001\)"),
        (["imagesTr/c.nii.gz"], "^c: an image of nnU-Net ends in _0000"),
        (["imagesTr/b_0000.nii.gz"], "^b: image without label"),
        (["labelsTr/b.nii.gz"], "^b: label without image"),
    ],
)
def test_a_wrong_folder_of_nnunet_is_refused(names, message, tmp_path):
    files(tmp_path, ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", *names])
    with pytest.raises(InputError, match=message):
        cases_of(tmp_path, "nnunet")


def test_a_folder_of_dicom_files_is_an_image_in_the_plain_layout(tmp_path):
    files(tmp_path, ["labels/a.nii.gz", "labels/b.nii.gz", "images/b.nii.gz", "images/notes/readme.txt"])
    (tmp_path / "images" / "a").mkdir()
    (tmp_path / "images" / "a" / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert cases_of(tmp_path) == {"a": ("images/a", "labels/a.nii.gz"), "b": ("images/b.nii.gz", "labels/b.nii.gz")}


def test_several_layouts_in_one_folder_are_asked_about(tmp_path):
    files(tmp_path, [*LAYOUTS["plain"], *LAYOUTS["decathlon"]])
    with pytest.raises(InputError, match="fits the layouts decathlon and plain; choose one with --layout"):
        cases_of(tmp_path)
    assert list(cases_of(tmp_path, "decathlon")) == ["liver_1"]


def test_of_several_layouts_the_cards_own_is_taken(tmp_path):
    files(tmp_path, [*LAYOUTS["btcv"], *LAYOUTS["decathlon"]])
    assert detect_layout(tmp_path, load_card("btcv")) == "btcv"


def test_another_layout_than_the_cards_is_only_read_when_it_is_named(tmp_path):
    files(tmp_path, ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"])
    with pytest.raises(InputError, match=r"has layout nnunet, card btcv expects btcv; .* give --layout nnunet"):
        prepare("btcv", tmp_path, tmp_path / "list.json")
    path = prepare("btcv", tmp_path, tmp_path / "list.json", layout="nnunet", validation=0, test=0)
    assert load_datalist(path).section("training")[0].patient == "a"


def test_folders_without_any_layout(tmp_path):
    with pytest.raises(InputError, match=r"no known layout; .*btcv: img0001\.nii\.gz with label0001\.nii\.gz; flare"):
        detect_layout(tmp_path, ANY)
    with pytest.raises(InputError, match="no such folder"):
        detect_layout(tmp_path / "none", ANY)
    with pytest.raises(InputError, match="no such folder"):
        read_layout(tmp_path / "none", "plain", ANY)
    with pytest.raises(InputError, match=r"no img0001\.nii\.gz with label0001"):
        prepare("synapse8", tmp_path, tmp_path / "list.json")
    with pytest.raises(InputError, match="no images/CASE_0000"):
        prepare("flare22", tmp_path, tmp_path / "list.json")
    with pytest.raises(InputError, match="no folder images;"):
        prepare("flare22", tmp_path, tmp_path / "list.json", layout="plain")
    with pytest.raises(InputError, match="--layout zip: no such layout; choose one of btcv, flare22, decathlon"):
        prepare("btcv", tmp_path, tmp_path / "list.json", layout="zip")
    files(tmp_path, ["images/a.txt", "labels/a.txt"])
    with pytest.raises(InputError, match=r"no volumes \(\.nii\.gz, \.nii, \.mha"):
        prepare("flare22", tmp_path, tmp_path / "list.json", layout="plain")


def named(*names):
    """Return a card whose organs have these names."""
    organs = [{"name": n, "value": v, "colour": [v, 0, 0], "tolerance_mm": 2} for v, n in enumerate(names, start=1)]
    texts = dict.fromkeys(("title", "licence", "source", "citation"), "any")
    texts |= {"name": "any", "modality": "CT", "orientation": "RAS"}
    return parse_card({"window": [0, 1], "organs": organs, **texts})


def test_a_manifest_s_columns_are_told_apart_by_every_letter():
    """Names in Japanese have no letter of a to z, and yet a column each."""
    assert annotated_organs("c", {"肝臓_ml": "0", "脾臓_ml": "3"}, named("肝臓", "脾臓")) == ("脾臓",)
    assert annotated_organs("c", {"Lobe1-2_ml": "0", "b_ml": "1"}, named("lobe 1 2", "b")) == ("b",)
    both = named("lobe 1/2", "lobe 1.2")
    assert annotated_organs("c", {"lobe 1/2_ml": "0", "lobe 1.2_ml": "1"}, both) == ("lobe 1.2",)
    for row in ({"lobe12_ml": "0"}, {"lobe 1 2_ml": "0", "lobe-1-2_ml": "1"}):
        with pytest.raises(InputError, match=r"which column is lobe 1/2_ml stays open"):
            annotated_organs("c", row, both)


def test_a_dataset_json_that_numbers_a_name_beyond_ascii_otherwise_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"肝臓": 2, "脾臓": 1}}))
    with pytest.raises(InputError, match=r"肝臓 is 2, on card any 1"):
        check_dataset_json(tmp_path, named("肝臓", "脾臓"))
