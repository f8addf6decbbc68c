"""Cases that annotate only some organs, from the datalist to the gradient, the score, the bank and the report."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from small_study import QUICK, workflow_of, write_study
from test_slices import CARD, case_of, make, write_case

from ragsam.data.annotation import annotated_classes
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist, write_datalist
from ragsam.data.volumes import VolumeDataset
from ragsam.evaluation.score_cases import CasePair, evaluate_cases
from ragsam.networks.supports import Supports, label_prior
from ragsam.retrieval import Bank, Retriever
from ragsam.runs.templates import make_run
from ragsam.training.organ_dice import OrganDice
from ragsam.training.prompted_training import Answered
from ragsam.transforms import augmentation, preprocessing

SHARED = Path(__file__).parents[2] / "shared" / "data" / "openkbp_hn_ct"
needs_openkbp = pytest.mark.skipif(not SHARED.is_dir(), reason="the head-and-neck set is not in ../shared/data")
#: Organ of the card, column of the manifest.
OPENKBP = {
    "brainstem": "Brainstem_ml",
    "spinal_cord": "SpinalCord_ml",
    "right_parotid": "RightParotid_ml",
    "left_parotid": "LeftParotid_ml",
    "esophagus": "Esophagus_ml",
    "larynx": "Larynx_ml",
    "mandible": "Mandible_ml",
}


def with_annotated(case, *organs):
    return Case(case.case, case.patient, case.image, case.label, organs)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Two cases of the card liver, spleen; the second has and annotates the spleen alone."""
    folder = tmp_path_factory.mktemp("partial")
    write_case(folder, "a", (12, 12, 4), "RAS", (1, 2))
    write_case(folder, "b", (12, 12, 4), "RAS", (1, 3))
    return [case_of(folder, "a", "1"), with_annotated(case_of(folder, "b", "2"), "spleen")]


def test_the_mask_by_hand(cases):
    assert annotated_classes(cases[0], CARD).tolist() == [True, True, True]
    assert annotated_classes(cases[1], CARD).tolist() == [True, False, True]
    assert annotated_classes(with_annotated(cases[0]), CARD).tolist() == [True, False, False]


@pytest.mark.parametrize("augmented", [False, True])
def test_slices_say_what_their_case_annotates(cases, augmented):
    dataset = make(cases, augmentation=augmentation() if augmented else None).set_random_state(0)
    for index, key in enumerate(dataset.keys):
        expected = [True, key.case == 0, True]
        assert dataset[index]["annotated"].tolist() == expected
        assert dataset[index]["annotated"].dtype == torch.bool


def test_a_mirrored_slice_swaps_what_is_annotated_too(cases):
    """With liver and spleen as a pair, a mirrored slice of the second case annotates the liver, and only that."""
    chain = augmentation(affine=0, contrast=0, intensity=0, noise=0, mirror=True, left_right=[(1, 2)])
    dataset = make(cases[1:], augmentation=chain).set_random_state(0)
    seen = set()
    for _ in range(20):
        item = dataset[1]
        (organ,) = set(item["label"].unique().tolist()) - {0}
        assert item["annotated"].tolist() == [True, organ == 1, organ == 2]
        seen.add(organ)
    assert seen == {1, 2}


def test_volumes_say_what_their_case_annotates(cases):
    items = list(VolumeDataset(cases, preprocessing(), card=CARD, labels=True))
    assert [item["annotated"].tolist() for item in items] == [[True] * 3, [True, False, True]]


def organ_dice(*volumes):
    """OrganDice of (prediction, reference, annotated) volumes, through an engine as the evaluator is one."""
    metric = OrganDice(2, lambda output: ([output["pred"]], [output["label"]]))
    engine = Engine(lambda _, batch: {"pred": batch[0]["pred"], "label": batch[0]["label"]})
    metric.attach(engine, "dice")
    keys = ("pred", "label", "annotated")
    engine.run([[{k: torch.tensor(v) for k, v in zip(keys, volume, strict=True)}] for volume in volumes])
    return engine.state.metrics["dice"]


def test_organ_dice_leaves_out_what_is_not_annotated():
    """Organ 1 is right in both; organ 2 is wrong in the first, where it is not annotated, and half right after."""
    first = ([[[[1, 2, 2, 0]]]], [[[[1, 0, 0, 0]]]], [True, True, False])
    second = ([[[[1, 2, 0, 0]]]], [[[[1, 2, 2, 2]]]], [True, True, True])
    assert organ_dice(first, second) == pytest.approx((1 + 0.5) / 2)
    everything = (*first[:2], [True] * 3)
    assert organ_dice(everything, second) == pytest.approx((1 + 0.25) / 2)


def prepared(datalist, folder, **options):
    """A training workflow, ready to run."""
    return workflow_of(make_run("sam_lora", datalist, folder, {**QUICK, **options}))


def watch_gradients(trainer):
    """Keep, for every step, the gradient of the logits by sample and class, and what the samples annotate."""
    steps = []

    @trainer.on(IterationEvents.FORWARD_COMPLETED)
    def keep(engine):
        for logits in logits_of(engine.state.output["pred"]):
            logits.retain_grad()

    @trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def note(engine):
        for logits in logits_of(engine.state.output["pred"]):
            steps.append((logits.grad.abs().amax((2, 3)), engine.state.batch["annotated"].clone()))

    return steps


def logits_of(pred):
    """With retrieval a step has two: those with supports, and those without."""
    return (pred.logits, pred.plain) if isinstance(pred, Answered) else (pred,)


def assert_silent_where_not_annotated(steps):
    assert steps
    for gradient, annotated in steps:
        assert torch.isfinite(gradient).all()
        assert (gradient[~annotated] == 0).all()
        assert (gradient[annotated] > 0).any()


@pytest.fixture(scope="module")
def partial_study(tmp_path_factory):
    """The small study, where only patient Anna's cases annotate the posterior organ, whose label the others lack."""
    path = write_study(tmp_path_factory.mktemp("partial_study"))
    data = load_datalist(path)
    sections = dict(data.sections)
    for section, cases in sections.items():
        sections[section] = tuple(case if case.patient == "patient-anna" else anterior_only(case) for case in cases)
    write_datalist(path, data.card, sections)
    return path


def anterior_only(case):
    label = nib.load(case.label)
    array = np.asarray(label.dataobj).copy()
    array[array == 2] = 0
    nib.save(nib.Nifti1Image(array, label.affine), case.label)
    return with_annotated(case, "anterior")


def test_training_sends_no_gradient_to_what_is_not_annotated(partial_study, tmp_path):
    workflow = prepared(partial_study, tmp_path / "run", epochs=1, steps_per_epoch=6, fusion="label_prior")
    steps = watch_gradients(workflow.trainer)
    workflow.run()
    assert len(steps) == 2 * 6
    assert_silent_where_not_annotated(steps)
    assert 0 < sum(int((~annotated).sum()) for _, annotated in steps[::2]) < 6 * 4
    bank = workflow.parser.get_parsed_content("retriever").bank
    assert (~bank.annotated).any(1).sum() == 3 * 6
    assert bank.annotated[:, 1].all()


def test_a_class_that_no_one_annotates_does_not_train_its_own_weights(partial_study, tmp_path):
    """The mask token's network of the posterior organ gets a gradient of exactly zero in such a batch."""
    workflow = prepared(partial_study, tmp_path / "run", epochs=1, steps_per_epoch=1, retrieval=False)
    get = workflow.parser.get_parsed_content
    network, loss, dataset = get("network"), get("loss"), get("train#dataset")
    prepare = workflow.trainer.prepare_batch
    items = [dataset[i] for i, key in enumerate(dataset.keys) if dataset.cases[key.case].annotated == ("anterior",)]
    batch = {name: torch.stack([item[name] for item in items[:4]]) for name in ("image", "label", "annotated")}
    image, target, _, _ = prepare(batch, "cpu")
    loss(network(image), target).backward()
    heads = network.sam.mask_decoder.output_hypernetworks_mlps
    sums = [sum(p.grad.abs().sum().item() for p in head.parameters()) for head in heads]
    assert sums[2] == 0
    assert min(sums[:2]) > 0


# The bank and its vote.


def partial_batch(patient, annotated):
    return {
        "descriptor": np.eye(4, dtype=np.float32)[[patient]],
        "label": np.full((1, 2, 2), patient, np.uint8),
        "patient": [f"p{patient}"],
        "case": [f"c{patient}"],
        "slice": [0],
        "height": [0.0],
        "annotated": torch.tensor([annotated]),
    }


def test_a_bank_keeps_what_its_slices_annotate(tmp_path):
    masks = [[True, True, True], [True, False, True]]
    bank = Bank.collect([partial_batch(i, mask) for i, mask in enumerate(masks)], {})
    bank.save(tmp_path / "bank")
    opened = Bank.open(tmp_path / "bank")
    assert opened.annotated.tolist() == bank.annotated.tolist() == masks
    retriever = Retriever(descriptor="thumbnail", neighbours=2, carry=False)
    retriever.attach(opened)
    found = retriever.search(np.eye(4, dtype=np.float32)[[1]], [set()])
    supports, _ = retriever.supports(found, torch.zeros(1, 3, 4, 4))
    assert supports.annotated.tolist() == [[masks[1], masks[0]]]
    assert supports.labels[0, :, 0, 0].tolist() == [1, 0]


def test_a_bank_where_all_is_annotated_keeps_nothing(tmp_path):
    bank = Bank.collect([partial_batch(i, [True] * 3) for i in range(2)], {})
    bank.save(tmp_path / "bank")
    assert Bank.open(tmp_path / "bank").annotated is bank.annotated is None


def vote(labels, weights, annotated):
    supports = Supports(torch.tensor(labels, dtype=torch.uint8)[None, :, None, None], torch.tensor([weights]))
    supports.annotated = torch.tensor([annotated])
    return label_prior(supports, 3)[0, :, 0, 0].tolist()


def test_a_neighbour_does_not_vote_background_for_what_it_does_not_annotate():
    """The first neighbour, trusted 0.75, does not annotate class 1 and shows background; the second shows class 1."""
    assert vote([0, 1], [0.75, 0.25], [[True, False, True], [True] * 3]) == pytest.approx([0, 1, 0])
    assert vote([0, 1], [0.75, 0.25], [[True] * 3, [True] * 3]) == pytest.approx([0.75, 0.25, 0])
    assert vote([0, 0], [0.75, 0.25], [[True, False, True], [True] * 3]) == pytest.approx([1, 0, 0])
    assert vote([2, 1], [0.75, 0.25], [[True, False, True], [True] * 3]) == pytest.approx([0, 1 / 1.75, 0.75 / 1.75])
    assert vote([0, 0], [0.75, 0.25], [[True, False, True]] * 2) == pytest.approx([1, 0, 0])
    assert vote([0, 1], [0.0, 0.0], [[True, False, True], [True] * 3]) == pytest.approx([0, 0, 0])


def test_with_everything_annotated_the_vote_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2, 3, 5, 6), generator=generator).to(torch.uint8)
    weights = torch.rand(2, 3, generator=generator)
    plain = label_prior(Supports(labels, weights), 4)
    told = label_prior(Supports(labels, weights, torch.ones(2, 3, 4, dtype=torch.bool)), 4)
    torch.testing.assert_close(told, plain)


# Real head-and-neck data: 0 ml in the manifest is an organ that was not contoured.


@pytest.fixture(scope="module")
def openkbp_cases():
    """Four cases of the manifest, two of which lack an organ."""
    with (SHARED / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (SHARED / "images" / f"{row['case']}.nii.gz").is_file()]
    made = []
    for row in rows:
        missing = [organ for organ, column in OPENKBP.items() if float(row[column]) == 0]
        organs = tuple(organ for organ in OPENKBP if organ not in missing) if missing else None
        paths = [SHARED / kind / f"{row['case']}.nii.gz" for kind in ("images", "labels")]
        made.append(Case(row["case"], row["source_patient"], *paths, organs))
    return [c for c in made if c.annotated][:2] + [c for c in made if c.annotated is None][:2]


@needs_openkbp
def test_what_the_manifest_lacks_is_not_annotated_in_the_report(openkbp_cases, tmp_path):
    """The reference as its own prediction; even a larynx found where none was contoured is no false positive."""
    card, pairs = load_card("openkbp_hn"), []
    for case in openkbp_cases[1:3]:
        label = nib.load(case.label)
        array = np.asarray(label.dataobj).astype(np.uint8)
        absent = [organ for organ in card.labels if case.annotated and organ not in case.annotated]
        for organ in absent:
            array[:3, :3, :3] = card.labels[organ]
        nib.save(nib.Nifti1Image(array, label.affine), tmp_path / f"{case.case}.nii.gz")
        prediction = tmp_path / f"{case.case}.nii.gz"
        pairs.append(CasePair(case.case, case.patient, case.label, prediction, annotated=case.annotated))
    metrics = evaluate_cases(pairs, card)
    assert metrics["faults"] == []
    for case, entry in zip(openkbp_cases[1:3], metrics["cases"], strict=True):
        statuses = {organ: scores["status"] for organ, scores in entry["organs"].items()}
        assert statuses == {
            organ: "ok" if case.annotated is None or organ in case.annotated else "not_annotated"
            for organ in card.labels
        }
    assert sum(metrics["false_positive"].values()) == 0
    assert metrics["summary"]["mean"]["dice"]["mean"] == pytest.approx(1)


@needs_openkbp
def test_an_epoch_on_head_and_neck_trains_with_partial_labels(openkbp_cases, tmp_path):
    sections = {"training": openkbp_cases[:3], "validation": openkbp_cases[3:]}
    write_datalist(tmp_path / "datalist.json", "openkbp_hn", sections)
    options = {"steps_per_epoch": 3, "image_size": 64, "fusion": "label_prior"}
    workflow = prepared(tmp_path / "datalist.json", tmp_path / "run", epochs=1, **options)
    steps = watch_gradients(workflow.trainer)
    scores = []
    workflow.evaluator.add_event_handler(Events.COMPLETED, lambda e: scores.append(e.state.metrics["val_mean_dice"]))
    workflow.run()
    assert len(steps) == 2 * 3
    assert_silent_where_not_annotated(steps)
    assert any((~annotated).any() for _, annotated in steps)
    assert len(scores) == 1
    assert (tmp_path / "run" / "models" / "model.safetensors").is_file()
