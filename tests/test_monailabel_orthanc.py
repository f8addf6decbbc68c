"""A study on a local Orthanc: stored by DICOMweb, served by MONAI Label, segmented, the labels stored back as SEG."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from label_server import INSTALLED, PYTHON, ask, free_port, infer, label_server, started
from small_dicom import write_series
from small_study import SPACING_MM, affine_of, anatomy

from ragsam.api.segment import segment_with_run
from ragsam.serving.dicom_program import labels_on_series

ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MR = "1.2.840.10008.5.1.4.1.1.4"
pytestmark = [
    pytest.mark.monailabel,
    pytest.mark.skipif(not INSTALLED, reason="MONAI Label is not installed; run `make monailabel-env`"),
    pytest.mark.skipif(
        not (ORTHANC and PLUGIN.is_file()), reason="no Orthanc; on Debian: apt-get install orthanc orthanc-dicomweb"
    ),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """The address of an Orthanc with DICOMweb that only this machine reaches."""
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    options = {
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(options))
    with started([ORTHANC, str(folder / "orthanc.json")], folder, f"http://127.0.0.1:{port}/system"):
        yield f"http://127.0.0.1:{port}"


def store(address, files):
    """Store DICOM files by STOW-RS."""
    parts = b"".join(b"--X\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n" for file in files)
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=X'}
    request = urllib.request.Request(f"{address}/dicom-web/studies", parts + b"--X--\r\n", headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def series_of(address, modality):
    """Return the series of a modality by QIDO-RS."""
    return json.loads(ask(f"{address}/dicom-web/series?Modality={modality}", method="GET"))


def test_a_study_is_segmented_and_its_labels_are_stored_beside_it(orthanc, run, tmp_path, monkeypatch):
    corner = affine_of() @ (31, 31, 0, 1)
    lying = {"origin": (-corner[0], -corner[1], corner[2]), "spacing_mm": SPACING_MM}
    for series, modality in (("1.2.3.4", "MR"), ("1.2.3.5", "CT")):
        kind = {"Modality": modality, "series": series, **({"SOPClassUID": MR} if modality == "MR" else {})}
        store(orthanc, write_series(tmp_path / modality, anatomy(91)[0][::-1, ::-1], **lying, **kind))
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "0")
    own_run = shutil.copytree(run, tmp_path / "run")
    with label_server(own_run, f"{orthanc}/dicom-web", tmp_path) as address:
        # Of the card's modality alone.
        assert json.loads(ask(f"{address}/activelearning/novelty", body={}))["id"] == "1.2.3.4"
        assert json.loads(ask(f"{address}/info/", method="GET"))["datastore"]["total"] == 1
        infer(address, "1.2.3.4", tmp_path / "1.2.3.4.nii.gz")
        url = f"{address}/datastore/label?image=1.2.3.4&tag=final"
        ask(url, method="PUT", fields={"params": "{}"}, files={"label": tmp_path / "1.2.3.4.nii.gz"})
        assert json.loads(ask(f"{address}/activelearning/novelty", body={})) == {}  # it is labelled
    assert (tmp_path / "run-monailabel" / "dicomweb").is_dir()

    # What `ragsam segment` writes for the files themselves, on the series' own slices.
    segment_with_run(own_run, [tmp_path / "MR"], tmp_path / "ours")
    ours = np.asarray(nib.load(tmp_path / "ours" / "MR.nii.gz").dataobj)
    assert ours.any()
    assert np.array_equal(labels_on_series(tmp_path / "1.2.3.4.nii.gz", tmp_path / "MR"), ours)
    (stored,) = series_of(orthanc, "SEG")
    assert stored["0020000D"]["Value"] == ["1.2.1"]  # in the study of its series
    (instance,) = json.loads(ask(f"{orthanc}/tools/find", body={"Level": "Instance", "Query": {"Modality": "SEG"}}))
    file = tmp_path / "seg.dcm"
    file.write_bytes(ask(f"{orthanc}/instances/{instance}/file", method="GET"))
    segmentation = highdicom.seg.segread(file)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (tmp_path / "MR").iterdir()]
    headers.sort(key=lambda header: header.ImagePositionPatient[2])
    found = segmentation.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(found.transpose(2, 1, 0), ours)
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["anterior", "posterior"]
    assert {header.PatientName for header in headers} == {segmentation.PatientName}

    # MONAI Label reads it as the label of that series, as for training where it has no copy.
    reading = (
        f"from monailabel.datastore.utils.convert import dicom_to_nifti as f; print(f({str(file)!r}, is_seg=True))"
    )
    done = subprocess.run([PYTHON, "-c", reading], capture_output=True, text=True, check=True)
    label = Path(shutil.move(done.stdout.splitlines()[-1], tmp_path / "label.nrrd"))
    assert np.array_equal(labels_on_series(label, tmp_path / "MR"), ours)
