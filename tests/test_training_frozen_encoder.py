"""A frozen encoder: it moves no more, every copy of a slice is encoded once, and a training can go on from anywhere."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events
from small_study import workflow_of
from test_api_train import batches_of, prepared, retrieval_of
from test_training_checkpoints import StopError, assert_same_end

from ragsam.api.train import train_run
from ragsam.api.try_training import estimate_lines, try_training
from ragsam.data.fixed_copies import FixedCopies
from ragsam.errors import InputError
from ragsam.inference.bank_building import encode_alone
from ragsam.networks import Segmenter
from ragsam.runs.templates import make_run
from ragsam.training.frozen_encoder import FrozenEncoder

FROZEN = {"frozen_from": 1, "frozen_views": 2, "image_size": 32, "validate_every": 9}


def state_of(*modules):
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def handler_of(workflow):
    (handler,) = (item for item in workflow.train_handlers if isinstance(item, FrozenEncoder))
    return handler


def count_encodings(workflow, network):
    """Return the batch sizes of what the encoder is given, before the validation that ends the training."""
    sizes = []
    hook = network.sam.image_encoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    workflow.evaluator.add_event_handler(Events.STARTED, lambda _: hook.remove())
    return sizes


@pytest.fixture(scope="module")
def frozen(study, tmp_path_factory):
    """A training with a frozen encoder: its workflow, its batches, what was encoded, and the weights before."""
    workflow = prepared(study, tmp_path_factory.mktemp("frozen") / "run", epochs=2, steps_per_epoch=8, **FROZEN)
    network = handler_of(workflow).network
    before = {"encoding": state_of(*network.encoding_parts), "decoder": state_of(network.sam.mask_decoder)}
    sizes = count_encodings(workflow, network)
    return workflow, batches_of(workflow), sizes, before


def test_the_encoder_stays_to_the_bit_and_the_decoder_learns(frozen):
    workflow, _, _, before = frozen
    network = handler_of(workflow).network
    assert same(before["encoding"], state_of(*network.encoding_parts))
    assert not same(before["decoder"], state_of(network.sam.mask_decoder))


def test_each_copy_is_encoded_once(frozen):
    workflow, batches, sizes, _ = frozen
    copies = {copy for batch in batches for copy in batch["copy"].tolist()}
    assert 30 < len(copies) <= 60  # of 64 draws of 30 slices in two views
    assert sizes == [1] * len(copies)
    assert handler_of(workflow).encoded == len(copies)


def test_a_copy_that_comes_again_is_the_same_to_the_bit(frozen):
    _, batches, _, _ = frozen
    first, again = {}, 0
    for batch in batches:
        for index, copy in enumerate(batch["copy"].tolist()):
            item = {name: batch[name][index] for name in ("image", "label", "vote", "embedding")}
            again += copy in first
            for name, value in first.setdefault(copy, item).items():
                assert torch.equal(value, item[name])
    assert again > 3


def test_logits_of_a_kept_embedding_are_those_of_the_slice(frozen):
    workflow, batches, _, _ = frozen
    network, batch = handler_of(workflow).network.eval(), batches[-1]
    with torch.no_grad():
        direct = network(batch["image"], supports=batch["supports"])
        kept = network(batch["image"], supports=batch["supports"], embedding=batch["embedding"])
    assert 0 < (kept - direct).abs().max() < 2e-3 * direct.abs().max()  # float16 rounds to 5e-4 of the value


@pytest.mark.parametrize(
    ("options", "channels"),
    [({}, 3), ({"detail": False}, 3), ({"adapter": {"depth": True}}, 5)],
    ids=["scratch", "plain", "stacked"],
)
def test_what_an_embedding_depends_on_gets_no_gradient(options, channels):
    network, image = Segmenter(2, image_size=32, **options).train(), torch.rand(2, channels, 32, 32)
    embedding = encode_alone(network, image)
    direct, kept = network(image), network(image, embedding=embedding)
    torch.testing.assert_close(kept, direct, atol=1e-4, rtol=1e-4)
    kept.sum().backward()
    still = {parameter for part in network.encoding_parts for parameter in part.parameters()}
    assert all(parameter.grad is None for parameter in still)
    assert network.sam.mask_decoder.mask_tokens.weight.grad is not None
    assert network.training


def test_freezing_later_stops_momentum_and_decay_and_builds_the_bank_once_more(study, tmp_path):
    """Slices are prepared by another process: there and here a copy is the same."""
    options = {**FROZEN, "frozen_from": 2, "epochs": 3, "workers": 1, "descriptor": "embedding"}
    workflow = prepared(study, tmp_path / "run", **options)
    network, states, banks = handler_of(workflow).network, [], []
    retrieval_of(workflow).refresh_epochs = 2  # epochs 1 and 3

    def note(engine):
        states.append(state_of(*network.encoding_parts))
        banks.append(retrieval_of(workflow).retriever.bank)

    start = state_of(*network.encoding_parts)
    workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, note)
    batches = batches_of(workflow)
    assert not same(start, states[0])
    assert same(states[0], states[1])
    assert same(states[1], states[2])
    assert banks[0] is not banks[1]
    assert banks[1] is banks[2]
    assert ["copy" in batch for batch in batches] == [False] * 2 + [True] * 4
    copy, dataset = int(batches[-1]["copy"][0]), workflow.train_dataset
    item = next(item for item in iter(lambda: dataset[copy // 2], None) if item["copy"] == copy)
    assert torch.equal(item["image"], batches[-1]["image"][0])


def test_a_stopped_training_ends_in_the_same_weights(study, tmp_path):
    """The bank is one of embeddings; it stops in the epoch after the freeze, with kept votes and embeddings lost."""
    options = {
        **FROZEN,
        "frozen_from": 2,
        "epochs": 3,
        "steps_per_epoch": 2,
        "batch_size": 2,
        "descriptor": "embedding",
    }
    whole = train_run("sam_lora", study, tmp_path / "whole", options)
    run = make_run("sam_lora", study, tmp_path / "run", options)
    workflow = workflow_of(run)

    def stop(engine):
        raise StopError

    workflow.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), stop)  # epoch 3
    with pytest.raises(RuntimeError):
        workflow.run()
    train_run("sam_lora", study, run, options, resume=True)
    assert_same_end(run, whole)


def test_what_does_not_fit_is_encoded_again(caplog):
    caplog.set_level(logging.WARNING, logger="ragsam")
    network, slices = Segmenter(1, image_size=32).eval(), torch.rand(3, 3, 32, 32)
    handler = FrozenEncoder(network, None, first_epoch=1, views=1, limit_gb=2 * 256 * 4 * 4 * 2 / 2**30)
    engine = Engine(lambda *_: None)
    for _ in range(2):
        engine.state.batch = {"copy": torch.tensor([7, 8, 9]), "image": slices}
        handler.inject(engine)
        assert torch.equal(engine.state.batch["embedding"], encode_alone(network, slices).half().float())
    assert handler.encoded == 4
    assert [record.message for record in caplog.records] == [
        "train: embeddings of 2 slices are all that frozen_gb holds; the others are encoded again and again"
    ]


@pytest.mark.parametrize(("first", "views"), [(0, 4), ("soon", 4), (True, 4), (1, 0)])
def test_numbers_below_one_are_refused(first, views):
    with pytest.raises(InputError, match=r"frozen_(from|views): .* is not a whole number from 1 on"):
        FrozenEncoder(None, None, first_epoch=first, views=views).attach(Engine(lambda engine, batch: None))


def test_copies_have_seeds_of_their_own():
    copies, other = FixedCopies(3, 0), FixedCopies(3, 1)
    numbers = range(60)
    assert len({c.seed_of(number) for c in (copies, other) for number in numbers}) == 120
    assert FixedCopies(3, 0).seed_of(5) == copies.seed_of(5)


def test_by_default_nothing_is_fixed_or_kept(study, tmp_path):
    workflow = prepared(study, tmp_path / "run", steps_per_epoch=1)
    assert not any(isinstance(item, FrozenEncoder) for item in workflow.train_handlers)
    dataset = workflow.train_dataset
    assert dataset._copies is None
    dataset.set_random_state(0)
    assert not torch.equal(dataset[0]["image"], dataset[0]["image"])
    assert not {"copy", "embedding"} & set(batches_of(workflow)[0])


def test_what_encodes_how_often_by_hand():
    """Of 30 slices in 4 views all 120 embeddings fit, or half of them: then half of the draws are encoded anew."""
    handler = FrozenEncoder(Segmenter(1, image_size=32), range(30), first_epoch=1, views=4)
    assert handler.expect(500) == (500, 0)
    engine = Engine(lambda *_: None)
    engine.state.batch = {"copy": torch.tensor([7]), "image": torch.rand(1, 3, 32, 32)}
    handler.inject(engine)
    size = 256 * 4 * 4 * 2
    assert handler.expect(105) == (105, 105 * size)
    assert handler.expect(500) == (120, 120 * size)
    handler.limit_bytes = 60 * size
    assert handler.expect(500) == (60 + 250, 60 * size)
    assert handler.expect(1) == (1, size)


def test_a_check_tells_every_kind_of_step(study, tmp_path):
    options = {"epochs": 7, "steps_per_epoch": 5, "batch_size": 2, "image_size": 32}
    found = try_training("sam_lora", study, tmp_path / "run", {**options, "frozen_from": 4})
    assert [(stage.first_epoch, stage.steps) for stage in found.stages] == [(1, 15), (4, 20)]
    assert found.encodings == 40
    assert found.encode_s > 0
    assert all(stage.step_s > 0 for stage in found.stages)
    assert found.stages[0].ready_s > found.stages[1].ready_s  # the bank
    lines = estimate_lines(found)
    assert [line.split(":")[0] for line in lines if line.startswith("from epoch")] == [
        "from epoch 4 on",
    ]
    assert any(line.endswith(" for 40 slices at most") for line in lines)
