"""How often volumes are read: once an epoch, however little of them the cache holds; and what workers do."""

from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import SequentialSampler, WeightedRandomSampler

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.sampling import VolumeWindowSampler
from ragsam.data.slices import SliceDataset
from ragsam.transforms import augmentation, preprocessing

SHAPE = (10, 8, 6)
KEPT = 3 * 10 * 8 * 6  # bytes of a volume in the cache


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Eight patients, a volume each."""
    folder, made = tmp_path_factory.mktemp("volumes"), []
    for index in range(8):
        draw = np.random.default_rng(index)
        image, label = draw.normal(size=SHAPE).astype(np.float32), np.zeros(SHAPE, np.uint8)
        label[2:6, 2:6, 1:4] = 1 + index % 2
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{index}_{kind}.nii")
        made.append(Case(f"c{index}", f"p{index}", folder / f"{index}_image.nii", folder / f"{index}_label.nii"))
    return made


def make(cases, volumes, *, augmented=True):
    """A dataset whose cache holds so many volumes."""
    return SliceDataset(
        cases,
        load_card("hippocampus"),
        preprocessing(),
        image_size=16,
        augmentation=augmentation() if augmented else None,
        cache_gb=volumes * KEPT / 2**30,
    )


@pytest.mark.parametrize("volumes", [0, 1, 3, 7.5])
def test_a_volume_is_read_at_most_once_an_epoch(cases, volumes):
    dataset = make(cases, volumes)
    loader = DataLoader(dataset, batch_size=16, sampler=dataset.sampler(64), num_workers=0)
    for _ in range(2):
        before = dataset.volumes.reads
        drawn = Counter(case for batch in loader for case in batch["case"])
        assert dataset.volumes.reads - before <= len(drawn) <= 8
        assert dataset.volumes.bytes <= max(volumes * KEPT, KEPT)


def test_what_all_fits_is_drawn_as_ever_and_read_once_for_all(cases):
    dataset = make(cases, 8)
    assert dataset.volumes.reads == 8
    sampler = dataset.sampler(100)
    assert isinstance(sampler, WeightedRandomSampler)
    for _ in DataLoader(dataset, batch_size=16, sampler=sampler, num_workers=0):
        pass
    assert dataset.volumes.reads == 8


def test_windows_hold_what_fits_and_change_nothing_of_what_is_drawn():
    """Volumes of 4, 4, 4 and 20 bytes, 8 at a time: two small ones together, the third and the large one alone."""
    volume_of = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    sampler = VolumeWindowSampler(SequentialSampler(volume_of), volume_of, {0: 4, 1: 4, 2: 4, 3: 20}, 8)
    assert len(sampler) == 9
    orders = set()
    for _ in range(60):
        order = list(sampler)
        assert sorted(order) == list(range(9))
        runs = [volume_of[index] for index in order]
        assert len(set(runs[runs.index(3) : runs.index(3) + 3])) == 1
        first = {volume: runs.index(volume) for volume in range(4)}
        last = {volume: 8 - runs[::-1].index(volume) for volume in range(4)}
        open_at = [sum(first[v] <= place <= last[v] for v in range(4)) for place in range(9)]
        assert max(open_at) <= 2
        orders.add(tuple(order))
    assert len(orders) > 20


def test_a_seed_gives_one_order(cases):
    dataset = make(cases, 2)
    sampler = dataset.sampler(50)
    assert isinstance(sampler, VolumeWindowSampler)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(list(sampler))
    assert orders[0] == orders[1] != orders[2]


def shown(loader):
    """The items of an epoch by (case, slice)."""
    items = {}
    for batch in loader:
        for index, key in enumerate(zip(batch["case"], batch["slice"].tolist(), strict=True)):
            items[key] = (batch["image"][index], batch["label"][index])
    return items


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_show_the_same_slices(cases, method, workers):
    """With a cache of one volume, in processes forked from this one or started afresh."""
    dataset = make(cases[:3], 1, augmented=False)
    loader = TorchLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=method)
    ours, theirs = shown(TorchLoader(dataset, batch_size=4)), shown(loader)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 18
    for key, (image, label) in ours.items():
        assert torch.equal(image, theirs[key][0])
        assert torch.equal(label, theirs[key][1])


@pytest.mark.parametrize("loader_class", [DataLoader, TorchLoader])
def test_each_worker_draws_for_itself_and_a_seed_repeats_it(cases, loader_class):
    """One slice over and over: no two of it are alike, in one worker or in two, in one epoch or in the next."""
    dataset = make(cases[:1], 1)

    def epochs(seed):
        generator = torch.Generator().manual_seed(seed)
        loader = loader_class(dataset, batch_size=2, sampler=[2] * 8, num_workers=2, generator=generator)
        return [batch["image"] for _ in range(2) for batch in loader]

    first, again = torch.cat(epochs(0)), torch.cat(epochs(0))
    assert torch.equal(first, again)
    assert len({tuple(image.flatten().tolist()) for image in first}) >= 15


def test_a_pickled_dataset_leaves_its_volumes_behind(cases):
    import pickle

    dataset = make(cases, 8)
    content = pickle.dumps(dataset)
    assert dataset.volumes.bytes == 8 * KEPT
    copy = pickle.loads(content)
    assert copy.volumes.bytes == 0
    assert torch.equal(copy.plain()[7]["image"], dataset.plain()[7]["image"])
