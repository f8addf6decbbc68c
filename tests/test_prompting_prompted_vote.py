"""The vote sharpened by prompts: the mean by hand, and every kind of weights that may be named."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import log_lines

from ragsam.api.import_weights import import_weights
from ragsam.api.index import index_run
from ragsam.cli import main
from ragsam.data.cards.load import card_text
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.files import sha256_file
from ragsam.io.documents import read_json
from ragsam.metrics.overlap import dice
from ragsam.networks import Supports
from ragsam.networks.prompts import PromptedMasks
from ragsam.networks.sam import build_sam
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.prompting.prompted_vote import PromptedVote, load_answering
from ragsam.runs.bank_only import segment_values
from ragsam.transforms.voxel_prompts import MASK_LOGIT

SURE = 1e4


class Answering(torch.nn.Module):
    """Stands for SAM: keeps what it was asked, and answers with one mask."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        self.image_size = len(mask)
        self.sam = SimpleNamespace(prompt_encoder=SimpleNamespace(mask_input_size=(2, 2)))
        self.asked, self.seen = [], []

    def embed(self, image):
        self.seen.append(image)
        return Embedded(image, None)

    def decode_prompted(self, embedded, prompts):
        self.asked.append(prompts)
        masks = torch.where(self.mask, SURE, -SURE).expand(len(prompts), 4, -1, -1)
        return PromptedMasks(masks, masks, torch.ones(len(prompts), 4))


def square(top, left, bottom, right):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def vote_of(mask, share):
    """Return a vote [1, 3, 4, 4] that gives organ 2 a share in a mask, the rest to background."""
    vote = torch.zeros(1, 3, 4, 4)
    vote[0, 2][mask] = share
    vote[0, 0] = 1 - vote[0, 2]
    return Supports.of_vote(vote, torch.ones(1))


def shares_of(answer, share=0.6, image=None):
    sam = Answering(answer)
    network = PromptedVote(2, image_size=4, sam=sam, repeated=True)
    image = torch.rand(1, 3, 4, 4) if image is None else image
    return network(image, supports=vote_of(square(1, 1, 2, 2), share)).softmax(1)[0], sam


def test_the_mask_is_averaged_with_the_vote():
    """The vote gives 0.6 to four pixels, the answer all to these and two more: 0.8 there, 0.5 in the two, 0 else."""
    shares, _ = shares_of(square(1, 1, 2, 3))
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3], expected[1:3, 3] = 0.8, 0.5
    assert torch.allclose(shares[2], expected, atol=1e-4)
    assert torch.allclose(shares[0], 1 - expected, atol=1e-4)
    assert float(shares[1].max()) < 1e-4


def test_a_mask_that_is_elsewhere_is_not_taken():
    """Of four pixels two are shared, of six in all: a third, less than a half."""
    plain = vote_of(square(1, 1, 2, 2), 0.6).vote[0]
    shares, _ = shares_of(square(1, 2, 2, 3))
    assert torch.allclose(shares, plain, atol=1e-4)


def test_box_point_and_mask_are_those_of_the_vote():
    image = torch.rand(1, 3, 4, 4)
    _, sam = shares_of(square(1, 1, 2, 2), image=image)
    (asked,) = sam.asked
    box = asked.boxes
    assert [float(side) for side in (box.top, box.left, box.bottom, box.right)] == [1, 1, 2, 2]
    assert square(1, 1, 2, 2)[int(asked.points.row), int(asked.points.column)]
    assert asked.points.kind.tolist() == [[1]]
    # Of each coarse pixel's four one is the organ's, at log(0.6 / 0.4), and three are not.
    assert torch.allclose(asked.masks, torch.full((1, 1, 2, 2), (0.4055 - 3 * MASK_LOGIT) / 4), atol=1e-3)
    assert torch.equal(sam.seen[0], image[:, 1:2].expand(-1, 3, -1, -1))


def test_where_the_vote_has_no_organ_nothing_is_asked():
    shares, sam = shares_of(square(0, 0, 3, 3), share=0.4)
    assert not sam.asked
    assert torch.allclose(shares, vote_of(square(1, 1, 2, 2), 0.4).vote[0], atol=1e-4)


def test_objects_of_several_slices_are_answered_as_one_by_one():
    """A real network: two slices together give what each gives alone, the larger slice resized to the network's own."""
    torch.manual_seed(0)
    sam = Segmenter(1, image_size=16, prompts="trained", fusion=None)
    network = PromptedVote(2, image_size=24, sam=sam, part=0.5, least_overlap=0.0)
    image, vote = torch.rand(2, 3, 24, 24), torch.zeros(2, 3, 24, 24)
    vote[0, 1, 4:12, 4:12] = 0.7
    vote[0, 2, 14:20, 3:9] = 0.7
    vote[1, 2, 8:20, 8:20] = 0.7
    vote[:, 0] = 1 - vote[:, 1:].sum(1)

    def logits(rows):
        with torch.no_grad():
            return network(image[rows], supports=Supports.of_vote(vote[rows], torch.ones(len(rows))))

    both = logits([0, 1])
    assert torch.allclose(both, torch.cat([logits([0]), logits([1])]), atol=1e-4)
    assert not torch.allclose(both.softmax(1), vote, atol=1e-2)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory):
    """Made weights in the format of SAM's own checkpoints."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(build_sam("vit_tiny", image_size=32).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(sam_file, tmp_path_factory):
    """The same weights as a file of ours, and as a run."""
    folder = tmp_path_factory.mktemp("ours")
    text = card_text("hippocampus")
    text = text[: text.index("  - name: posterior")] + text[text.index("licence:") :]
    (folder / "one.yaml").write_text(text)
    options = {"run": folder / "run", "card": str(folder / "one.yaml")}
    import_weights("medsam", sam_file, output=folder / "medsam.safetensors", **options)
    return {"file": folder / "medsam.safetensors", "run": folder / "run", "checkpoint": sam_file}


def test_a_checkpoint_a_file_of_ours_and_a_run_are_taken(weights):
    loaded = {name: load_answering(path) for name, path in weights.items()}
    assert {name: (repeated, sam.image_size) for name, (sam, repeated) in loaded.items()} == dict.fromkeys(
        weights, (True, 32)
    )
    means = {name: float(sam.pixel_mean.sum()) for name, (sam, _) in loaded.items()}
    assert means["file"] == means["run"] == 0 < means["checkpoint"]
    states = [sam.state_dict() for sam, _ in loaded.values()]
    assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in states[0])


@pytest.mark.parametrize("name", ["checkpoint", "file", "run"])
def test_segmenting_is_opt_in_and_told(name, weights, study, tmp_path):
    """Made weights answer nonsense, which overlaps too little to be taken: the result is the vote's, or nearly so."""
    bank, *_ = index_run(None, tmp_path / "bank", data=study, options={"slice_layout": "file"})
    case = load_datalist(study).section("test")[0]
    free = ["segment", "--card", "hippocampus", "--bank", str(bank), str(case.image), "--base", str(weights[name])]
    assert main([*free, "--output", str(tmp_path / "out")]) == 0
    voxels, truth = (np.asarray(nib.load(p).dataobj) for p in (tmp_path / "out" / f"{case.case}.nii.gz", case.label))
    assert min(dice(truth == organ, voxels == organ) for organ in (1, 2)) > 0.9
    file = weights[name] / "models" / "model.safetensors" if name == "run" else weights[name]
    told = read_json(tmp_path / "out" / "provenance.json")["network"]["prompted"]
    assert told == {"backbone": "vit_tiny", "image_size": 32, "base_sha256": None, "weights_sha256": sha256_file(file)}


def test_a_run_that_saw_other_slices_is_told(weights, study, tmp_path, caplog):
    bank, *_ = index_run(None, tmp_path / "bank", data=study, options={"image_size": 48, "slice_layout": "file"})
    segment_values("hippocampus", bank, weights["run"])
    segment_values("hippocampus", bank, weights["file"])
    told = "--base run: image_size was 32 in its training and is 48 in the bank; it may answer worse"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [told]


def test_a_bank_of_slices_in_another_layout_is_refused(weights, study, tmp_path):
    bank, *_ = index_run(None, tmp_path / "bank", data=study)
    for name in ("file", "run"):
        with pytest.raises(InputError, match=r"trained on slices of slice_layout file, the bank's are ras; make the"):
            segment_values("hippocampus", bank, weights[name])
    segment_values("hippocampus", bank, weights["checkpoint"])


def test_what_answers_no_prompts_is_one_line(run, study, weights, tmp_path, capsys):
    bank, *_ = index_run(None, tmp_path / "bank", data=study)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    free = ["segment", "--card", "hippocampus", "--bank", bank, study, "--output", tmp_path / "out", "--base"]
    for base, line in (
        (run, "run: its network answers no prompts and has no base weights; train one with --set prompts=trained"),
        (
            run / "models" / "model.safetensors",
            "--base model.safetensors: answers no prompts; take SAM's own, or train",
        ),
        (tmp_path / "none.pth", f"{tmp_path}/none.pth: no such weights file; check the path"),
        (tmp_path / "other.pth", "other.pth: no image_encoder.pos_embed in it; is it of this format?"),
        (tmp_path / "bank", f"--base {tmp_path}/bank: not a run (no configs/inference.yaml), and no file of weights"),
    ):
        assert main([str(word) for word in (*free, base)]) == 2
        (told,) = log_lines(capsys.readouterr().err)
        assert told.startswith(f"ragsam: {line}")
    assert main(["segment", str(run), str(study), "--base", str(run), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "ragsam: --base: only with --card or --prompts; a run has weights of its own\n"


def test_weights_tuned_on_a_sam_are_named_by_their_run(sam_file, tmp_path):
    from ragsam.networks.checkpoints import save_weights

    network = Segmenter(1, image_size=32, base=sam_file, lora={"rank": 2}, prompts="trained")
    save_weights(tmp_path / "tuned.safetensors", network.trainable_state(), network.about)
    with pytest.raises(InputError, match=r"tuned\.safetensors: holds only what was tuned on a SAM; name the run"):
        load_answering(tmp_path / "tuned.safetensors")


@pytest.mark.parametrize("name", ["num_classes", "backbone", "tuning"])
def test_weights_that_do_not_say_their_network_are_told_by_file_and_field(tmp_path, name):
    from ragsam.networks.checkpoints import save_weights

    network = Segmenter(1, image_size=32, mask_tokens=4, detail=False)
    about = {key: value for key, value in network.about.items() if key != name}
    save_weights(tmp_path / "own.safetensors", network.trainable_state(), about)
    with pytest.raises(InputError, match=rf"^--base own\.safetensors: .*do(es)? not state {name}; make "):
        load_answering(tmp_path / "own.safetensors")
