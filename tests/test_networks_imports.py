"""Published checkpoints: each gives what a plain reading of its format gives, and every key is accounted for."""

import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import (
    VIT_B,
    copied,
    medical_file,
    medical_file_of_2024,
    medical_network,
    medical_network_of_2024,
    plain_masks,
    sam_adapter_file,
    sam_adapter_reading,
    samed_file,
    samed_reading,
    segment_anything_sam,
)

from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.formats import FORMATS, usual_layout
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.key_report import KeyReport, fold
from ragsam.networks.prompts import BoxPrompts, PointPrompts, Prompts
from ragsam.networks.sam import build_sam

SIZE = 64
CLOSE = {"rtol": 0, "atol": 1e-5}
EQUAL = 2e-6  # of the largest number of what is compared
MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


@pytest.fixture(scope="module")
def base():
    return segment_anything_sam(SIZE)


@pytest.fixture(scope="module")
def base_file(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "sam.pth"
    torch.save(base.state_dict(), path)
    return path


@pytest.fixture
def brought(base_file, tmp_path):
    """Return a function that saves a checkpoint and imports it."""

    def call(kind, content, *, base=base_file, **options):
        torch.save(content, tmp_path / "published.pth")
        network, report = import_checkpoint(kind, tmp_path / "published.pth", base=base, **options)
        return network.eval(), report

    return call


def slices(count=2, size=SIZE):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def accounted(report):
    return [*report.used, *report.resized, *report.ignored]


# SAMed


@pytest.mark.parametrize("decoder", [False, True], ids=["SAMed", "SAMed_s"])
def test_samed_gives_what_its_format_means(base, brought, decoder):
    file = samed_file(base, classes=3, rank=5, decoder=decoder)
    network, report = brought("samed", file, image_size=SIZE)
    with torch.no_grad():
        out = network(slices())
    assert out.shape == (2, 4, SIZE, SIZE)
    assert out.std() > 0.01
    torch.testing.assert_close(out, samed_reading(base, file, slices()), **CLOSE)
    assert sorted(accounted(report)) == sorted(file)
    assert report.ignored == {MATRIX: "the base's own"}
    assert not report.missing
    assert network.about["backbone"] == "vit_tiny"
    assert network.about["num_classes"] == 3
    assert network.about["tuning"]["lora"] == {"rank": 5, "targets": ["q", "v"]}
    assert network.about["tuning"].get("decoder_lora") == ({"rank": 5} if decoder else None)


def test_samed_of_vit_b_at_its_published_size(tmp_path):
    """12 blocks in windows of 14; 4,913,621 parameters at 8 classes, 147,456 of them LoRA."""
    base = segment_anything_sam(SIZE, size=VIT_B)
    file = samed_file(base, classes=8, rank=4)
    torch.save(base.state_dict(), tmp_path / "sam.pth")
    torch.save(file, tmp_path / "samed.pth")
    options = {"base": tmp_path / "sam.pth", "image_size": SIZE}
    network, report = import_checkpoint("samed", tmp_path / "samed.pth", **options)
    (tmp_path / "sam.pth").unlink()
    trained = network.trainable_state()
    assert network.about["backbone"] == "vit_b"
    assert sum(tensor.numel() for tensor in trained.values()) == 4_913_621
    assert sum(tensor.numel() for name, tensor in trained.items() if ".updates." in name) == 147_456
    assert len(report.used) == len(trained)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(slices(1)), samed_reading(base, file, slices(1)), **CLOSE)


def test_samed_is_for_512_pixels_unless_told(base, brought):
    network, _ = brought("samed", samed_file(base, classes=1, rank=1))
    assert network.image_size == 512
    assert network.sam.image_encoder.pos_embed.shape == (1, 64, 64, 192)
    assert network.about["normalisation"] == "unit"


# Medical-SAM-Adapter


@pytest.mark.parametrize("size", [SIZE, 160, 256])  # grids of 8 (no windows), 20 and 32: windows of 14, padded
def test_medical_sam_adapter_gives_what_its_format_means(tmp_path, brought, size):
    sam = segment_anything_sam(size)
    torch.save(sam.state_dict(), tmp_path / "base.pth")
    file = medical_file(sam)
    network, report = brought("medical-sam-adapter", file, base=tmp_path / "base.pth", thd=False)
    own = medical_network(file, size)
    image = slices(1, size)
    with torch.no_grad():
        out, embedding = network(image), own.image_encoder(image)
    assert relative_error(network.encode(image), embedding) < EQUAL
    masks = plain_masks(own, embedding)
    assert relative_error(out[:, 1:], masks[:, :1]) < EQUAL
    assert out[:, 0].abs().max() == 0
    assert network.about["tuning"]["adapter"] == {
        "space": True, "mlp": True, "depth": False, "ratio": 0.25, "normed_padding": True
    }  # fmt: skip
    assert sorted(accounted(report)) == sorted({*file["state_dict"], *set(file) - {"state_dict"}})
    assert set(report.ignored.values()) == {"records of its training", "the base's own", "not used in 2D mode"}
    assert sum(reason == "not used in 2D mode" for reason in report.ignored.values()) == 16
    assert not report.missing


def test_medical_sam_adapter_answers_a_click(base, brought):
    file = medical_file(base)
    network, _ = brought("medical-sam-adapter", file, thd=False)
    sam, point = medical_network(file, SIZE), torch.tensor([[[20.0, 41.0]]])  # x, y
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=(point, torch.ones(1, 1)), boxes=None, masks=None)
        expected = plain_masks(sam, sam.image_encoder(slices(1)), sparse, dense)
        one = torch.tensor([[1]])
        click = Prompts(points=PointPrompts(row=one * 41.0, column=one * 20.0, kind=one))
        answer = network.decode_prompted(network.embed(slices(1)), click)
    torch.testing.assert_close(answer.logits, expected, **CLOSE)


def _another_table(state):
    state["image_encoder.blocks.0.attn.rel_h"] = torch.zeros(15, 32)


@pytest.mark.parametrize(
    ("change", "thd", "words"),
    [
        (None, None, "say whether it was trained in 3D mode"),
        (None, True, "3D mode is not supported"),
        (_another_table, False, r"from 2024-01 on in one file \(lin1, rel_h, rel_pos_h, rel_pos_w\); not taken"),
    ],
)
def test_what_medical_sam_adapters_file_does_not_say_is_asked_and_the_rest_refused(brought, base, change, thd, words):
    file = medical_file(base)
    if change is not None:
        change(file["state_dict"])
    with pytest.raises(InputError, match=words):
        brought("medical-sam-adapter", file, thd=thd)


@pytest.fixture(scope="module")
def of_2024():
    """A file of 2024 on a grid of 64 x 64 patches of 8 pixels."""
    return medical_file_of_2024(segment_anything_sam(512))


ANSWERS = {"thd": False, "image_size": 160, "normalisation": "unit", "windows": "before-norm", "activation": "gelu"}


@pytest.mark.parametrize(
    ("size", "windows", "activation"),
    [(160, "before-norm", "gelu"), (160, "after-norm", "relu"), (256, "after-norm", "gelu")],
)
def test_medical_sam_adapter_of_2024_gives_what_its_format_means(brought, of_2024, size, windows, activation):
    answers = {**ANSWERS, "image_size": size, "windows": windows, "activation": activation}
    network, report = brought("medical-sam-adapter", of_2024, base=None, **answers)
    act = {"gelu": F.gelu, "relu": F.relu}[activation]
    own = medical_network_of_2024(of_2024, size, activation=act, cut_first=windows == "before-norm")
    image = slices(1, size)
    with torch.no_grad():
        out, embedding = network(image), own.image_encoder(image)
        assert relative_error(network.encode(image), embedding) < EQUAL
        assert relative_error(out[:, 1:], plain_masks(own, embedding)[:, :1]) < EQUAL
    assert sorted(accounted(report)) == sorted({*of_2024["state_dict"], *set(of_2024) - {"state_dict"}})
    assert not report.missing
    assert network.about["efficient_decoder"] == activation
    tables = {f"image_encoder.blocks.{index}.attn.rel_{side}" for index in (1, 3) for side in "hw"}
    assert set(report.resized) == {"image_encoder.pos_embed", *tables}


def test_each_answer_of_2024_changes_what_it_gives(brought, of_2024):
    with torch.no_grad():
        plain = brought("medical-sam-adapter", of_2024, base=None, **ANSWERS)[0](slices(1, 160))
        for other in ({"activation": "relu"}, {"windows": "after-norm"}, {"normalisation": "sam"}):
            changed = brought("medical-sam-adapter", of_2024, base=None, **{**ANSWERS, **other})[0]
            assert relative_error(changed(slices(1, 160)), plain) > 1e-3


def test_a_file_of_2024_asks_for_all_that_it_does_not_say(base, brought, of_2024):
    with pytest.raises(InputError) as told:
        brought("medical-sam-adapter", of_2024, base=None, thd=False)
    line = str(told.value)
    assert "\n" not in line
    for option in ("--image-size N", "--normalisation sam", "--windows before-norm", "--activation relu or gelu"):
        assert option in line
    for name in ("image_size", "normalisation", "windows", "activation"):
        with pytest.raises(InputError, match=f"does not say how it was trained; add --{name.replace('_', '-')}"):
            brought("medical-sam-adapter", of_2024, base=None, **{**ANSWERS, name: None})
    with pytest.raises(InputError, match="say whether it was trained in 3D mode"):
        brought("medical-sam-adapter", of_2024, base=None, **{**ANSWERS, "thd": None})
    with pytest.raises(InputError, match="3D mode is not supported"):
        brought("medical-sam-adapter", of_2024, base=None, **{**ANSWERS, "thd": True})
    with pytest.raises(InputError, match="--windows nowhere: choose one of before-norm, after-norm"):
        brought("medical-sam-adapter", of_2024, base=None, **{**ANSWERS, "windows": "nowhere"})
    with pytest.raises(InputError, match=r"--base: published\.pth keeps relative positions of its own, no base's"):
        brought("medical-sam-adapter", of_2024, **ANSWERS)
    with pytest.raises(InputError, match="a file up to 2023-12 leaves no choice of --activation and --windows"):
        brought("medical-sam-adapter", medical_file(base), thd=False, activation="gelu")
    with pytest.raises(InputError, match="--activation: samed has SAM's own mask decoder; leave it out"):
        brought("samed", samed_file(base, classes=1, rank=1), activation="gelu")


def test_without_depth_adapters_the_mode_is_known(base, brought):
    network, _ = brought("medical-sam-adapter", medical_file(base, kinds=("MLP", "Space")))
    assert not network.stacked
    with pytest.raises(InputError, match="3D mode is not supported"):
        brought("medical-sam-adapter", medical_file(base, kinds=("MLP", "Space")), thd=True)
    with pytest.raises(InputError, match="--thd: sam has no 3D mode"):
        brought("sam", copied(base), thd=False)


@pytest.mark.parametrize("masks", [2, 3])
def test_another_number_of_masks_is_kept(brought, masks, tmp_path):
    sam = segment_anything_sam(SIZE, masks=masks)
    file = medical_file(sam)
    network, _ = brought("medical-sam-adapter", file, base=None, thd=False)
    assert network.about["mask_tokens"] == masks
    own = medical_network(file, SIZE)
    with torch.no_grad():
        expected = plain_masks(own, own.image_encoder(slices(1)))[:, :1]
        torch.testing.assert_close(network(slices(1))[:, 1:], expected, **CLOSE)


# SAM-Adapter


@pytest.mark.parametrize("size", [SIZE, 160])
def test_sam_adapter_gives_what_its_format_means(tmp_path, brought, size):
    sam = segment_anything_sam(size)
    torch.save(sam.state_dict(), tmp_path / "base.pth")
    file = sam_adapter_file(sam)
    network, report = brought("sam-adapter", file, base=tmp_path / "base.pth", normalisation="unit")
    with torch.no_grad():
        out = network(slices(size=size))
    assert relative_error(out[:, 1:], sam_adapter_reading(file, slices(size=size))) < EQUAL
    assert out[:, 0].abs().max() == 0
    assert sorted(accounted(report)) == sorted(file)
    assert network.about["tuning"] == {"frequency": {"rate": 0.25, "reduction": 32, "as_published": True}}
    assert set(report.missing.values()) == {"it takes no prompts; the base's"}
    assert all(name.startswith("sam.prompt_encoder.") for name in report.missing)
    assert torch.equal(network.trainable_state()[f"sam.{MATRIX}"], file[MATRIX.removeprefix("prompt_encoder.")])
    assert not network.answers_prompts


# SAM and MedSAM


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("kind", ["sam"])
def test_a_full_sam_gives_its_first_mask(base_file, brought, kind, with_base):
    sam = segment_anything_sam(SIZE, seed=3)
    matrix = torch.load(base_file, weights_only=True)[MATRIX]
    sam.load_state_dict({**sam.state_dict(), MATRIX: matrix})
    network, report = brought(kind, copied(sam), base=base_file if with_base else None, normalisation="unit")
    with torch.no_grad():
        expected = torch.cat([plain_masks(sam, sam.image_encoder(one[None]))[:, :1] for one in slices()])
        torch.testing.assert_close(network(slices())[:, 1:], expected, **CLOSE)
    assert sorted(accounted(report)) == sorted(sam.state_dict())
    assert network.about["full_tuning"] is with_base
    assert (network.base_sha256 is not None) is with_base


@pytest.mark.parametrize("wrapped", ["published", "one GPU", "several GPUs"])
def test_medsam_enlarges_probabilities(brought, wrapped):
    """The published code: the sigmoid of the low-resolution mask, enlarged, above a half."""
    sam = segment_anything_sam(SIZE, seed=3)
    content = copied(sam)
    if wrapped == "several GPUs":
        content = {f"module.{key}": tensor for key, tensor in content.items()}
    if wrapped != "published":
        content = {"model": content, "optimizer": {"state": {}, "param_groups": []}, "epoch": 4}
    network, report = brought("medsam", content, base=None)
    box = torch.tensor([[10.0, 12.0, 50.0, 41.0]])  # x0, y0, x1, y1
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
        coarse, _ = sam.mask_decoder(
            sam.image_encoder(slices(1)), sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
        expected = F.interpolate(coarse.sigmoid(), (SIZE, SIZE), mode="bilinear", align_corners=False) > 0.5
        edges = (torch.tensor([edge]) for edge in (12.0, 10.0, 41.0, 50.0))
        answer = network.decode_prompted(network.embed(slices(1)), Prompts(boxes=BoxPrompts(*edges)))
        automatic = network(slices(1))
    mask = answer.logits[:, :1] > 0
    assert torch.equal(mask, expected)
    assert 0 < expected.sum() < expected.numel()
    logits_first = F.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False) > 0
    assert not torch.equal(mask, logits_first)
    assert automatic.isfinite().all()
    assert automatic[:, 0].abs().max() == 0
    assert network.about["enlarged"] == "probabilities"
    assert len(report.used) == len(sam.state_dict())


def test_probabilities_are_enlarged_for_one_organ_alone():
    with pytest.raises(ValueError, match="enlarged probabilities: is for one organ by SAM's own masks"):
        Segmenter(1, image_size=SIZE, enlarged="probabilities")
    with pytest.raises(ValueError, match="enlarged 'masks' is unknown; choose one of logits, probabilities"):
        Segmenter(1, image_size=SIZE, enlarged="masks")


def test_intensities_are_normalised_as_the_authors_do(base, brought):
    state = copied(base)
    assert brought("sam", state, base=None)[0].about["normalisation"] == "sam"
    assert brought("medsam", state, base=None)[0].about["normalisation"] == "unit"
    assert brought("medsam", state, base=None, normalisation="sam")[0].about["normalisation"] == "sam"


def test_slices_are_laid_out_as_the_authors_do():
    """LiteMedSAM, a TinyViT of patches of 4, is a MedSAM by whatever name it is imported."""
    vit = {"backbone": "vit_b", "patch_size": 16}
    layouts = {kind: usual_layout(kind, vit) for kind in FORMATS}
    asked = dict.fromkeys(("medical-sam-adapter", "sam-adapter"))
    assert layouts == {"sam": "ras", "medsam": "file", "samed": "file", **asked}
    assert usual_layout("sam", {"backbone": "vit_t", "patch_size": 4}) == "file"
    assert usual_layout("sam", {"backbone": "vit_t", "patch_size": 16}) == "ras"


def test_at_another_size_positions_are_resized_and_told(base, brought):
    network, report = brought("medsam", copied(base), base=None, image_size=96)
    assert len(report.resized) == 1 + 2 * 4
    grid = base.image_encoder.pos_embed.permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (12, 12), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert torch.equal(network.sam.image_encoder.pos_embed, expected)


def test_half_precision_is_read(base, brought):
    file = {key: tensor.half() for key, tensor in samed_file(base, classes=1, rank=1).items()}
    network, _ = brought("samed", file, image_size=SIZE)
    update = network.sam.image_encoder.blocks[0].attn.qkv.updates["q"].a.weight
    assert torch.equal(update, file["w_a_000"].float())


def test_importing_leaves_the_global_generator_alone(base, brought):
    file = samed_file(base, classes=1, rank=1)
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    brought("samed", file, image_size=SIZE)
    assert torch.equal(torch.random.get_rng_state(), before)


# One organ by SAM's own masks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 2, "mask_tokens": 4}, "for one organ; with 2 set it to null"),
        ({"num_classes": 1, "mask_tokens": 1}, "mask_tokens 1: 2 or more"),
        ({"num_classes": 1, "mask_tokens": 4, "prompts": "trained"}, "by its own masks; set prompts to null"),
    ],
)
def test_mask_tokens_that_cannot_work_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Segmenter(image_size=SIZE, **options)


def test_a_network_by_sams_masks_trains_its_first_token_alone():
    network = Segmenter(1, image_size=SIZE, mask_tokens=4)
    F.cross_entropy(network(slices(1)), torch.ones(1, SIZE, SIZE, dtype=torch.long)).backward()
    mlps = network.sam.mask_decoder.output_hypernetworks_mlps
    assert mlps[0].layers[0].weight.grad.any()
    assert all(mlp.layers[0].weight.grad is None for mlp in mlps[1:])


# What is refused


def _other_base(state):
    state[MATRIX] = state[MATRIX] + 0.1


def _stranger(state):
    state["w_c_000"] = torch.zeros(1)


def _misshapen(state):
    state["w_b_003"] = torch.zeros(192, 2)


def _without(key):
    return lambda state: state.pop(key)


def _not_a_number(state):
    state["w_b_003"][0, 0] = float("nan")


def _whole_numbers(state):
    state["w_b_003"] = state["w_b_003"].long()


def _more_updates(state):
    state["w_a_008"] = state["w_a_000"]


def _claims_classes(state):
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(300, 256)


def _flat(state):
    state["w_a_000"] = torch.zeros(())


def _huge_rank(state):
    state["w_a_000"] = torch.zeros(500, 192)


def _narrow(state):
    state["w_a_000"] = torch.zeros(5, 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_other_base, f"{MATRIX} is not the base's: made on other base weights; give those with --base"),
        (_stranger, r"keys that have no place, 1: w_c_\*"),
        (_misshapen, r"w_b_003 is \(192, 2\), the network needs \(192, 5\)"),
        (_without("w_b_003"), "lacks image_encoder.blocks.1.attn.qkv.updates.v.b.weight"),
        (_without("w_a_000"), "no w_a_000 in it; is it of this format"),
        (_without("mask_decoder.iou_token.weight"), "lacks mask_decoder.iou_token.weight"),
        (_without(MATRIX), f"lacks {MATRIX}"),
        (_not_a_number, "w_b_003: no numbers, or NaN or infinity among them"),
        (_whole_numbers, "w_b_003: no numbers"),
        (_more_updates, "9 updates w_a_"),
        (_claims_classes, "300 mask tokens, 4 networks for them"),
        (_flat, "w_a_000 is .*, which has not 2 dimensions"),
        (_huge_rank, "w_a_000 is 500 x 192: no bottleneck of 192 channels"),
        (_narrow, "w_a_000 is 5 x 1: no bottleneck of 192 channels"),
    ],
)
def test_a_faulty_samed_file_is_refused(base, brought, fault, words):
    file = samed_file(base, classes=3, rank=5)
    fault(file)
    with pytest.raises(InputError, match=f"published.pth: {words}"):
        brought("samed", file, image_size=SIZE)


@pytest.mark.parametrize("kind", ["samed", "sam-adapter"])
def test_what_holds_no_whole_sam_needs_a_base(base, brought, kind):
    with pytest.raises(InputError, match="give the SAM that it was made on with --base"):
        brought(kind, samed_file(base, classes=1, rank=1), base=None)


def test_an_adapter_on_another_encoder_is_refused(base, brought):
    file = medical_file(base)
    file["state_dict"]["image_encoder.neck.0.weight"] += 0.1
    with pytest.raises(InputError, match=r"image_encoder.neck.0.weight is not the base's: made on other base weights"):
        brought("medical-sam-adapter", file, thd=False)
    network, report = brought("medical-sam-adapter", file, base=None, thd=False)
    assert "image_encoder.neck.0.weight" in report.used
    assert network.base_sha256 is None


def test_a_base_at_fault_is_told_under_its_own_name(base, brought, tmp_path):
    torch.save({**copied(base), "stranger": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"^--base other\.pth: .*unknown keys"):
        brought("samed", samed_file(base, classes=1, rank=1), base=tmp_path / "other.pth", image_size=SIZE)


def test_an_encoder_without_a_place_here_is_told_by_its_family(base, brought, tmp_path):
    state = {"image_encoder.trunk.pos_embed": torch.ones(1), "mask_decoder.mask_tokens.weight": torch.ones(4, 256)}
    with pytest.raises(InputError, match=r"published.pth: its image encoder is a Hiera, .* import it as sam"):
        brought("medsam", state, base=None)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"--base other.pth: .*is a Hiera, .* the network's is a ViT"):
        brought("samed", samed_file(base, classes=1, rank=1), base=tmp_path / "other.pth", image_size=SIZE)


def test_a_whole_mobilesam_is_imported(brought):
    network, report = brought("sam", build_sam("vit_t", image_size=64).state_dict(), base=None, image_size=64)
    assert network.about["backbone"] == "vit_t"
    assert network.about["patch_size"] == 16
    assert network.about["normalisation"] == "sam"
    assert report.ignored == {}
    assert "image_encoder.layers.0.blocks.0.conv1.bn.num_batches_tracked" in report.used


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("medical-sam-adapter", lambda base: {**medical_file(base), "scheduler": 1}, "no place, 1: scheduler"),
        ("medical-sam-adapter", copied, "no adapters in it; a full SAM without them is imported as sam"),
        ("sam", medical_file, "no state dict of tensors"),
        ("sam", lambda base: medical_file(base)["state_dict"], "keys that have no place"),
        ("samed", copied, "no w_a_000"),
        ("sam-adapter", copied, "no image_encoder.prompt_generator.embedding_generator.weight"),
        ("sam", lambda base: samed_file(base, classes=1, rank=1), "no image_encoder.pos_embed"),
    ],
)
def test_another_format_is_refused(base, brought, kind, content, words):
    with pytest.raises(InputError, match=words):
        brought(kind, content(base))


def test_an_image_size_that_patches_do_not_fill_is_told(base, brought):
    with pytest.raises(InputError, match=r"published.pth: image_size 60 is not a multiple"):
        brought("samed", samed_file(base, classes=1, rank=1), image_size=60)


@pytest.mark.parametrize("size", [0, -64])
def test_no_image_size_is_told(base, brought, size):
    with pytest.raises(InputError, match=f"--image-size {size}: at least a patch"):
        brought("samed", samed_file(base, classes=1, rank=1), image_size=size)


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        (
            "image_encoder.blocks.0.Space_Adapter.D_fc1.weight",
            torch.zeros(9, 0),
            "9 x 0: no bottleneck of 192 channels",
        ),
        ("image_encoder.blocks.0.Space_Adapter.D_fc1.weight", torch.zeros(10**6, 1), "no bottleneck of 192 channels"),
        ("image_encoder.patch_embed.proj.weight", torch.zeros(192, 3, 0, 0), "on 8 x 8 patches is not one of SAM's"),
        ("image_encoder.pos_embed", torch.zeros(1, 0, 0, 192), "on 0 x 0 patches is not one of SAM's"),
        ("image_encoder.blocks.0.attn.rel_pos_h", None, "7 tables of relative positions in 4 blocks"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_built(base, brought, key, tensor, words):
    file = medical_file(base)
    file["state_dict"][key] = tensor
    if tensor is None:
        del file["state_dict"][key]
    with pytest.raises(InputError, match=words):
        brought("medical-sam-adapter", file, thd=False)


def test_an_empty_table_is_refused(base, brought):
    state = {**copied(base), "image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(0, 32)}
    with pytest.raises(InputError, match="rel_pos_h: no numbers"):
        brought("sam", state, base=None)


# The report


def test_the_report_by_hand():
    report = KeyReport(["w_a_000", "w_a_001", "neck.0.bias"], [], {"epoch": "records", "model": "records"}, {"b": "c"})
    assert report.lines() == [
        "used, 3: w_a_* (2), neck.*.bias",
        "ignored, 2: epoch, model: records",
        "missing, 1: b: c",
    ]
    assert fold(["blocks.1.norm1.weight", "blocks.2.norm1.weight"]) == "2: blocks.*.norm1.weight (2)"
