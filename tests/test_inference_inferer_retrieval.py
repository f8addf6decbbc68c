"""An inferer that is called with a volume and the network alone, as MONAI Label does, retrieves as `ragsam segment`."""

import shutil

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from ragsam.api.segment import segment_with_run
from ragsam.data.datalist import load_datalist
from ragsam.data.served import as_cases, case_name
from ragsam.inference.inferer_retrieval import InfererRetrieval


class Served:
    """What MONAI Label makes of a bundle: its preprocessing, network, inferer and postprocessing, and no handler."""

    def __init__(self, run, **settings):
        parser = ConfigParser()
        parser.read_config(str(run / "configs" / "inference.yaml"))
        parser.update({"bundle_root": str(run), "device": "cpu", **settings})
        get = parser.get_parsed_content
        self.network = get("network_def").eval()
        self.network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True), strict=False)
        self.preprocessing, self.inferer, self.postprocessing = map(get, ("preprocessing", "inferer", "postprocessing"))
        self.retriever = get("retriever")

    def segment(self, path, **options):
        data = self.preprocessing({"image": str(path)})
        with torch.no_grad():
            data["pred"] = self.inferer(data["image"][None], self.network, **options)[0]
        return np.asarray(self.postprocessing(data)["pred"])[0]


class NoSupports:
    """Stands for the supports of a volume of which no slice has any."""

    needs_embedding = False

    def require_orientation(self, volume):
        """Any will do."""

    def __call__(self, image, embedding, height):
        return None


def test_masks_are_those_of_ragsam_segment(run, study, segmented):
    served = Served(run)
    for case in load_datalist(study).section("test"):
        expected = np.asarray(nib.load(segmented / f"{case.case}.nii.gz").dataobj)
        assert np.array_equal(served.segment(case.image), expected)


def test_a_case_of_the_bank_does_not_support_itself(run, study, tmp_path, monkeypatch):
    served, given, retrieval = Served(run), [], InfererRetrieval.__call__
    case = load_datalist(study).section("training")[2]
    monkeypatch.setattr(InfererRetrieval, "__call__", lambda *args: given.append(retrieval(*args)) or given[-1])
    mask = served.segment(case.image)
    bank = served.retriever.bank
    own = bank.own_patients(case.case, case.case)
    assert own & set(bank.patients)
    found = {str(bank.patients[row]) for _, neighbours in given[0].trace for row in neighbours.rows.ravel()}
    assert len(found) == 3
    assert not own & found
    segment_with_run(run, [case.image], tmp_path)  # a file alone: the same patient by its name
    assert np.array_equal(mask, np.asarray(nib.load(tmp_path / f"{case.case}.nii.gz").dataobj))


def test_retrieval_can_be_off_and_a_bank_is_opened_again_when_it_is_another(own_run, study, tmp_path):
    case = load_datalist(study).section("test")[0]
    off = Served(own_run, retrieval=False)
    assert off.inferer.retrieval is None
    segment_with_run(own_run, [case.image], tmp_path, retrieval=False)
    assert np.array_equal(off.segment(case.image), np.asarray(nib.load(tmp_path / f"{case.case}.nii.gz").dataobj))
    served = Served(own_run)
    served.segment(case.image)
    bank = served.retriever.bank
    served.segment(case.image)
    assert served.retriever.bank is bank
    manifest = own_run / "bank" / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text)  # as `ragsam index` replaces it
    served.segment(case.image)
    assert served.retriever.bank is not bank
    shutil.rmtree(own_run / "bank")
    assert np.array_equal(served.segment(case.image), off.segment(case.image))  # without a bank, without retrieval


def test_supports_that_are_given_go_before(run, study):
    served, case = Served(run), load_datalist(study).section("test")[0]
    without = served.segment(case.image, supports=NoSupports())
    assert served.retriever.bank is None
    off = Served(run, retrieval=False)
    assert np.array_equal(without, off.segment(case.image))


def test_items_of_a_server_become_cases_named_after_their_image(study):
    case = load_datalist(study).section("training")[0]
    (made,) = as_cases([{"image": str(case.image), "label": str(case.label)}])
    assert (made.case, made.patient) == (case.case, case.case)
    assert (made.image, made.label) == (case.image, case.label)
    assert as_cases([case]) == [case]
    assert as_cases([{"image": "/a/b.nii"}])[0].label is None
    names = {"/a/img01.nii.gz": "img01", "/a/img.v2.nii": "img.v2", "/a/folder": "folder", "/a/x.nrrd": "x", None: None}
    assert {path: case_name(path) for path in names} == names
