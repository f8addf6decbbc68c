"""Training to answer prompts: what is drawn, the loss by hand, and a plain training left as it was."""

import pytest
import torch
from ignite.engine import Events
from small_study import workflow_of

from ragsam.api.train import train_run
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights
from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PromptedMasks, Prompts, boxes_of
from ragsam.networks.segmenter import Embedded
from ragsam.prompting.prompted_volume import coarse_logits
from ragsam.runs.templates import make_run
from ragsam.training import simulated_prompts as prompt_simulation
from ragsam.training.losses import PartialDiceCELoss, Target
from ragsam.training.prompted_training import (
    Answered,
    PromptDrawing,
    PromptedInferer,
    PromptedLoss,
    object_loss,
    prepare_prompted_slices,
    true_overlap,
)
from ragsam.training.simulated_prompts import GROUPS, KINDS, DrawnPrompts, draw_prompts, rough_drafts
from ragsam.transforms.voxel_prompts import MASK_LOGIT

SIDE, COARSE = 32, (16, 16)
SHORT = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "validate_every": 1}


def labels(count=6):
    """Return labels [B, 1, S, S]: organ 1 above, organ 2 below; the last but one has organ 1 alone, the last none."""
    label = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.int64)
    for n in range(count - 1):
        label[n, 0, 3 : 10 + n, 4:20] = 1
        label[n, 0, 20:28, 10 : 25 - n] = 2
    label[count - 2][label[count - 2] == 2] = 0
    return label


def drawn(monkeypatch, kind, label=None, annotated=None, seed=0):
    monkeypatch.setattr(prompt_simulation, "KINDS", {kind: 1.0})
    torch.manual_seed(seed)
    label = labels() if label is None else label
    annotated = torch.ones(len(label), 3, dtype=torch.bool) if annotated is None else annotated
    found = draw_prompts(label, annotated, COARSE)
    return found[0] if found else None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "following"])
def test_an_organ_is_drawn_in_every_slice_that_has_one(monkeypatch, kind):
    label, seen = labels(), set()
    for seed in range(8):
        found = drawn(monkeypatch, kind, label, seed=seed)
        assert found.rows.tolist() == [0, 1, 2, 3, 4]
        for row, one in zip(found.rows, found.objects, strict=True):
            organ = int(label[row][one].unique())  # one organ, and all of it
            assert torch.equal(one, label[row] == organ)
            seen.add(organ)
        assert found.ambiguous == (kind == "click")
    assert seen == {1, 2}


def test_an_organ_that_is_not_annotated_is_never_asked_for(monkeypatch):
    label, annotated = labels(), torch.ones(6, 3, dtype=torch.bool)
    annotated[:3, 1] = False
    annotated[4] = torch.tensor([True, False, True])
    for kind in KINDS:
        for seed in range(4):
            found = drawn(monkeypatch, kind, label, annotated, seed)
            assert 4 not in found.rows[found.objects.flatten(1).any(1)].tolist()
            for row, one in zip(found.rows, found.objects, strict=True):
                assert row > 2 or not (label[row][one] == 1).any()


def test_a_step_has_several_kinds_each_for_other_slices():
    label, annotated = labels(12), torch.ones(12, 3, dtype=torch.bool)
    for seed in range(20):
        torch.manual_seed(seed)
        groups = draw_prompts(label, annotated, COARSE)
        assert len(groups) == GROUPS
        rows = torch.cat([group.rows for group in groups]).tolist()
        assert len(rows) == len(set(rows))
        assert set(rows) >= set(range(11))  # all that have an organ


def test_a_batch_without_organs_has_no_prompts(monkeypatch):
    assert drawn(monkeypatch, "click", torch.zeros(2, 1, SIDE, SIDE, dtype=torch.int64)) is None


def at(objects, points):
    """Return whether each click [N, P] lies in its object."""
    places = (points.row.long() * SIDE + points.column.long()).long()
    return objects.flatten(1).gather(1, places)


@pytest.mark.parametrize("kind", ["click", "clicks", "correction"])
def test_clicks_say_truly_whether_they_are_inside(monkeypatch, kind):
    kinds = set()
    for seed in range(8):
        found = drawn(monkeypatch, kind, seed=seed)
        points = found.prompts.points
        assert torch.equal(points.kind == INSIDE, at(found.objects, points))
        kinds |= set(points.kind.flatten().tolist())
        if kind != "correction":
            assert (points.kind[:, 0] == INSIDE).all()
    assert kinds == ({INSIDE} if kind == "click" else {INSIDE, OUTSIDE})


def test_correcting_clicks_lie_where_the_draft_is_wrong(monkeypatch):
    drafts = []
    monkeypatch.setattr(
        prompt_simulation, "rough_drafts", lambda masks: drafts.append(rough_drafts(masks)) or drafts[-1]
    )
    for seed in range(5):
        found = drawn(monkeypatch, "correction", seed=seed)
        wrong = (drafts[-1] > 0) != found.objects
        assert at(wrong, found.prompts.points)[wrong.flatten(1).any(1)].all()


def test_some_followed_objects_have_ended(monkeypatch):
    label, ended, kept = labels(), 0, 0
    for seed in range(12):
        found = drawn(monkeypatch, "following", label, seed=seed)
        assert found.prompts.points is None
        assert found.prompts.masks.shape == (len(found.rows), 1, *COARSE)
        for row, one in zip(found.rows.tolist(), found.objects, strict=True):
            ended += not one.any()
            kept += bool(one.any())
            assert one.any() or row >= 4  # only those slices lack an organ
    assert ended > 3
    assert kept > 20


def test_boxes_by_hand():
    masks = torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    masks[0, 0, 2, 3] = masks[1, 0, 0, 7] = masks[1, 0, 5, 1] = True
    found = boxes_of(masks)
    sides = torch.stack([found.top, found.left, found.bottom, found.right], 1)
    assert sides.tolist() == [[2, 3, 2, 3], [0, 1, 5, 7]]


def test_drafts_are_rough_but_about_the_object():
    torch.manual_seed(0)
    objects = (labels() == 1)[:4]
    overlap = torch.cat([true_overlap(rough_drafts(objects) > 0, objects) for _ in range(20)])
    assert 0.4 < overlap.median() < 0.9
    assert overlap.max() > 0.9
    dot = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    dot[0, 0, 5, 5] = True
    assert all((rough_drafts(dot) > 0).any() for _ in range(20))


def test_drawing_goes_by_torchs_global_generator(monkeypatch):
    for kind in set(KINDS) - {"refinement"}:
        first, again, other = (drawn(monkeypatch, kind, seed=seed) for seed in (1, 1, 2))
        for name in ("points", "boxes", "masks"):
            one, same, another = (getattr(found.prompts, name) for found in (first, again, other))
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, same)
                assert one.shape != another.shape or not torch.equal(one, another)
            elif one is not None:
                assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(same).values(), strict=True))


def test_the_networks_own_result_is_corrected_where_it_is_wrong(monkeypatch):
    label = labels()
    found = drawn(monkeypatch, "refinement", label)
    assert found.prompts is None
    logits = 10 * torch.nn.functional.one_hot(label[:, 0].roll(2, 1), 3).movedim(-1, 1).float()  # two pixels too low
    asked = []

    class Network:
        sam = Segmenter(2, image_size=SIDE, prompts="trained").sam

        def embed(self, image, embedding=None):
            return Embedded(image, None)

        def decode(self, embedded):
            return logits

        def decode_prompted(self, embedded, prompts):
            asked.append((embedded.embedding, prompts))
            return PromptedMasks(*torch.zeros(3, 1))

    answered = PromptedInferer()(torch.rand(6, 1, 2, 2), Network(), drawn=[found])
    ((embedding, prompts),) = asked
    assert len(embedding) == len(found.rows)
    result = logits.argmax(1)[found.rows] == found.organs[:, None, None]
    wrong = result[:, None] != found.objects
    assert at(wrong, prompts.points).all()
    assert torch.equal(prompts.points.kind == INSIDE, at(found.objects, prompts.points))
    drafts = torch.where(result, MASK_LOGIT, -MASK_LOGIT)[:, None]
    assert torch.equal(prompts.masks, coarse_logits(drafts, COARSE))
    assert answered.groups[0][0].prompts is prompts


# The loss


def masks_of(*probabilities, quality):
    """Return masks of one object of two pixels: probabilities [M][2]."""
    logits = torch.tensor(probabilities).logit()[None, :, None]
    return PromptedMasks(logits, logits, torch.tensor([quality]))


def object_of(*pixels, ambiguous=False):
    prompts = Prompts(boxes=BoxPrompts(*torch.zeros(4, 1)))
    return DrawnPrompts(torch.tensor([0]), torch.tensor([[[pixels]]]), torch.tensor([1]), prompts, ambiguous)


def test_loss_by_hand():
    """Pixels of chance 0.8 and 0.4, the first being the object: the mask is right, and thought to be 0.7 right."""
    masks = masks_of([0.8, 0.4], *[[0.1, 0.9]] * 3, quality=[0.7, 0.0, 0.0, 0.0])
    entropy = -(torch.tensor(0.8).log() + torch.tensor(0.6).log()) / 2
    dice = 1 - (2 * 0.8 + 1) / (0.8 + 0.4 + 1 + 1)
    expected = entropy + dice + (0.7 - 1.0) ** 2
    assert float(object_loss(masks, object_of(True, False))) == pytest.approx(float(expected), abs=1e-6)


def test_a_lone_click_is_held_to_the_best_of_three_and_every_quality_to_its_own_mask():
    masks = masks_of([0.1, 0.9], [0.2, 0.9], [0.8, 0.4], [0.9, 0.9], quality=[9.0, 0.0, 1.0, 0.5])
    entropy = -(torch.tensor(0.8).log() + torch.tensor(0.6).log()) / 2
    expected = entropy + 1 - (2 * 0.8 + 1) / (0.8 + 0.4 + 1 + 1)  # IoU 0, 1 and 1/2: no quality is wrong
    assert float(object_loss(masks, object_of(True, False, ambiguous=True))) == pytest.approx(float(expected), abs=1e-6)


def test_an_object_that_has_ended_is_held_to_nothing():
    nothing = object_of(False, False)
    good = object_loss(masks_of([0.01, 0.01], *[[0.5, 0.5]] * 3, quality=[1.0, 0, 0, 0]), nothing)
    bad = object_loss(masks_of([0.9, 0.9], *[[0.5, 0.5]] * 3, quality=[0.0, 0, 0, 0]), nothing)
    assert good < 0.1 < 1 < bad
    assert true_overlap(torch.zeros(1, 1, 1, 2), nothing.objects).item() == 1


def test_without_prompts_inferer_and_loss_are_the_plain_ones():
    torch.manual_seed(0)
    network = Segmenter(2, image_size=SIDE, prompts="trained").eval()
    image, target = torch.rand(6, 3, SIDE, SIDE), Target(labels(), torch.ones(6, 3, dtype=torch.bool))
    classes = PartialDiceCELoss()
    with torch.no_grad():
        plain = network(image)
        assert torch.equal(PromptedInferer()(image, network, drawn=(), supports=None), plain)
        assert torch.equal(PromptedLoss(classes)(plain, target), classes(plain, target))
        found = draw_prompts(target.label, target.annotated, COARSE)
        answered = PromptedInferer()(image, network, drawn=found, supports=None)
        assert torch.equal(answered.logits, plain)
        loss = PromptedLoss(classes, weight=0.5)(answered, target)
        asked, masks = zip(*answered.groups, strict=True)
        means = sum(
            len(one.rows) * object_loss(*pair) for one, pair in zip(asked, zip(masks, asked, strict=True), strict=True)
        )
        torch.testing.assert_close(loss, classes(plain, target) + 0.5 * means / 5)  # 5 of the slices have an organ


def test_the_encoder_runs_once_and_everything_that_answers_learns():
    torch.manual_seed(0)
    network = Segmenter(2, image_size=SIDE, prompts="trained")
    runs = []
    network.sam.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    found = draw_prompts(labels(), torch.ones(6, 3, dtype=torch.bool), COARSE)
    answered = PromptedInferer()(torch.rand(6, 3, SIDE, SIDE), network, drawn=found)
    assert isinstance(answered, Answered)
    assert len(runs) == 1
    sum(object_loss(masks, drawn) for drawn, masks in answered.groups).backward()
    for part in (network.prompt_head, network.sam.image_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


# In a run


def prepared(study, folder, **options):
    return workflow_of(make_run("sam_lora", study, folder, {**SHORT, **options}))


@pytest.mark.parametrize("prompts", [None, "trained"])
def test_prompts_are_drawn_only_where_the_network_trains_to_answer_them(study, tmp_path, prompts):
    workflow = prepared(study, tmp_path / "run", prompts=prompts, fusion="label_prior")
    assert any(isinstance(item, PromptDrawing) for item in workflow.train_handlers) == (prompts == "trained")
    seen = []
    workflow.trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append((engine.state.batch.get("drawn"), engine.state.output["pred"])),
    )
    workflow.run()
    assert len(seen) == 3
    for asked, prediction in seen:
        assert bool(asked) == bool(prediction.groups) == (prompts == "trained")
        assert prediction.plain is not None  # with a fusion that learns, what it is without is learnt too


def test_a_run_that_trains_to_answer_prompts_is_the_same_again(study, tmp_path):
    options = {**SHORT, "prompts": "trained"}
    runs = [train_run("sam_lora", study, tmp_path / name, options) for name in ("first", "again")]
    first, again = (load_weights(run / "models" / "model.safetensors") for run in runs)
    assert any(key.startswith("prompt_head.") for key in first[0])
    assert all(torch.equal(first[0][key], again[0][key]) for key in first[0])
    assert first[1]["prompts"] == "trained"


def test_prepared_batch_carries_the_drawn_prompts():
    label, annotated = labels(), torch.ones(6, 3, dtype=torch.bool)
    batch = {"image": torch.rand(6, 3, SIDE, SIDE), "label": label, "annotated": annotated}
    assert prepare_prompted_slices(batch)[3] == {"supports": None, "drawn": ()}
    found = draw_prompts(label, annotated, COARSE)
    image, target, args, options = prepare_prompted_slices({**batch, "drawn": found}, "cpu")
    assert all(torch.equal(a.objects, b.objects) for a, b in zip(options["drawn"], found, strict=True))
    assert torch.equal(target.label, label)
    assert image.shape == (6, 3, SIDE, SIDE)
    assert args == ()
