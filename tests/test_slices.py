"""Slices on the fly, from small NIfTI files made here: what an item is, what is kept in memory, what is drawn."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, get_track_meta, set_track_meta
from monai.utils import set_determinism

from ragsam.data.cards.load import Card, Organ
from ragsam.data.datalist import Case
from ragsam.data.slices import SliceDataset
from ragsam.data.volume_cache import VolumeCache
from ragsam.errors import InputError
from ragsam.transforms import augmentation, preprocessing
from ragsam.transforms.slicing import pad_to_window

WINDOW = (-100.0, 300.0)
CARD = Card(
    name="two",
    title="Two organs",
    modality="CT",
    organs=(Organ("liver", 1, (200, 0, 0), 1.0), Organ("spleen", 2, (0, 0, 200), 1.0)),
    window=WINDOW,
    orientation="RAS",
    left_right=(),
    licence="",
    source="",
    citation="",
)
#: case: (patient, shape as stored, stored directions, slices with organs)
STUDY = {
    "a": ("1", (20, 24, 6), "RAS", (1, 2, 3)),
    "b": ("2", (18, 16, 10), "LPS", (0, 4)),
    "c": ("3", (12, 30, 20), "RAS", (3, 4, 5, 6, 7, 8)),
    "d": ("3", (16, 16, 4), "LPS", (1, 2)),
    "e": ("4", (22, 22, 1), "RAS", (0,)),
}
SLICES = sum(shape[2] for _, shape, _, _ in STUDY.values())


def write_case(folder, name, shape, codes, marked, *, organ=(slice(3, 8), slice(2, 6))):
    """Write a volume whose every slice differs; `codes` LPS stores the same anatomy from left to right and back."""
    draw = np.random.default_rng(sum(map(ord, name)))
    image = draw.integers(-150, 350, shape).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    for z in marked:
        label[(*organ, z)] = 1 + z % 2
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    if codes == "LPS":
        image, label = image[::-1, ::-1], label[::-1, ::-1]
        affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(image), affine), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(label), affine), folder / f"{name}_label.nii.gz")


def case_of(folder, name, patient):
    return Case(name, patient, folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    for name, (_, shape, codes, marked) in STUDY.items():
        write_case(folder, name, shape, codes, marked)
    return folder


@pytest.fixture(scope="module")
def cases(folder):
    return [case_of(folder, name, entry[0]) for name, entry in STUDY.items()]


@pytest.fixture
def determinism():
    """Let a test seed everything, and give the global states back."""
    state = torch.random.get_rng_state()
    yield set_determinism
    set_determinism(None)
    torch.use_deterministic_algorithms(False)
    torch.random.set_rng_state(state)


def make(cases, *, image_size=32, **options):
    return SliceDataset(cases, CARD, preprocessing(window=WINDOW), image_size=image_size, **options)


def by_hand(case, z, image_size, *, context_slices=1):
    """One item worked out from the files by nibabel and numpy alone."""
    image, label = (nib.as_closest_canonical(nib.load(path)).get_fdata() for path in (case.image, case.label))
    image = np.clip((image - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1).astype(np.float32).astype(np.float16)
    last = image.shape[2] - 1
    indices = [max(z - 1, 0), z, min(z + 1, last)] if context_slices else [z] * 3
    before = [(image_size - side) // 2 for side in image.shape[:2]]
    place = tuple(slice(b, b + side) for b, side in zip(before, image.shape[:2], strict=True))
    item, mark = np.zeros((3, image_size, image_size), np.float32), np.zeros((1, image_size, image_size), np.int64)
    for channel, index in enumerate(indices):
        item[channel][place] = image[:, :, index]
    mark[0][place] = label[:, :, z]
    return item, mark


def nbytes(pair):
    return sum(part.nbytes for part in pair)


@pytest.mark.parametrize("spacing_mm", [None, (1.5, 2.0)])
def test_a_label_stored_with_its_axes_in_another_order_gives_the_same_items(folder, tmp_path, spacing_mm):
    case = case_of(folder, "a", "1")
    label = nib.load(case.label)
    nib.save(label.as_reoriented([[2, -1], [0, 1], [1, -1]]), tmp_path / "label.nii.gz")
    turned = replace(case, label=tmp_path / "label.nii.gz")
    chain = preprocessing(window=WINDOW, spacing_mm=spacing_mm)
    one, other = (SliceDataset([each], CARD, chain, image_size=32) for each in (case, turned))
    assert len(one) == len(other) == 6
    for index in range(6):
        for kind in ("image", "label"):
            assert torch.equal(one[index][kind], other[index][kind])
    assert one[2]["label"].any()


def test_there_is_an_item_for_every_slice_of_every_volume(cases):
    dataset = make(cases)
    assert len(dataset) == SLICES
    assert Counter(key.case for key in dataset.keys) == {i: e[1][2] for i, e in enumerate(STUDY.values())}


@pytest.mark.parametrize("augmented", [False, True])
def test_an_item_has_the_promised_shape_and_types(cases, augmented):
    dataset = make(cases, augmentation=augmentation() if augmented else None).set_random_state(0)
    for index in range(len(dataset)):
        item = dataset[index]
        assert list(item) == ["image", "label", "annotated", "patient", "case", "slice", "height"]
        assert type(item["image"]) is type(item["label"]) is torch.Tensor
        assert (item["image"].shape, item["image"].dtype) == ((3, 32, 32), torch.float32)
        assert (item["label"].shape, item["label"].dtype) == ((1, 32, 32), torch.int64)
        assert 0 <= item["image"].min() <= item["image"].max() <= 1
        assert set(item["label"].unique().tolist()) <= {0, 1, 2}
        assert item["patient"] == STUDY[item["case"]][0]
        count = STUDY[item["case"]][1][2]
        assert item["height"] == (item["slice"] / (count - 1) if count > 1 else 0.5)


@pytest.mark.parametrize("context_slices", [1, 0])
def test_random_access_equals_the_files_worked_out_by_hand(cases, context_slices):
    dataset = make(cases, context_slices=context_slices)
    for index in np.random.default_rng(0).permutation(len(dataset)):
        item = dataset[int(index)]
        case = next(case for case in cases if case.case == item["case"])
        image, label = by_hand(case, item["slice"], 32, context_slices=context_slices)
        # Half precision may round a value at its very edge to the neighbour: one step of 2**-11.
        np.testing.assert_allclose(item["image"].numpy(), image, atol=2**-11)
        np.testing.assert_array_equal(item["label"].numpy(), label)


def test_flipped_files_of_one_anatomy_give_one_item(tmp_path):
    for codes in ("RAS", "LPS"):
        (tmp_path / codes).mkdir()
        write_case(tmp_path / codes, "same", (14, 12, 3), codes, (1,))
    ras, lps = (make([case_of(tmp_path / codes, "same", "1")]) for codes in ("RAS", "LPS"))
    for index in range(3):
        assert torch.equal(ras[index]["image"], lps[index]["image"])
        assert torch.equal(ras[index]["label"], lps[index]["label"])


def test_labels_say_where_organs_are(cases):
    dataset = make(cases)
    for index, key in enumerate(dataset.keys):
        assert bool(key.organs) == (key.slice in STUDY[cases[key.case].case][3])
        assert set(key.organs) >= set(dataset[index]["label"].unique().tolist()) - {0}
        assert bool(key.organs) == bool(dataset[index]["label"].any())


def test_the_cache_keeps_its_bound_and_reloads_equal_data(cases):
    whole, small = make(cases), make(cases, cache_gb=2 * 12 * 30 * 20 * 3 / 2**30)
    limit, held = 2 * 12 * 30 * 20 * 3, set()
    for index in np.random.default_rng(0).permutation(np.repeat(np.arange(SLICES), 3)):
        item, again = small[int(index)], whole[int(index)]
        assert torch.equal(item["image"], again["image"])
        assert torch.equal(item["label"], again["label"])
        kept = list(small.volumes._kept.values())
        assert sum(map(nbytes, kept)) == small.volumes.bytes <= limit
        held.add(len(kept))
    assert max(held) >= 2
    assert len(whole.volumes._kept) == len(cases)


def volumes(sizes, limit_bytes):
    """A cache of volumes of so many slices of 4 x 4 (48 bytes each), and the list of what it loads."""
    loaded = []

    def load(index):
        loaded.append(index)
        return torch.full((4, 4, sizes[index]), index / 10), torch.full((4, 4, sizes[index]), float(index))

    return VolumeCache(load, limit_bytes), loaded


def test_the_least_recently_used_volume_is_dropped_first():
    cache, loaded = volumes([1, 1, 1], 2 * 48)
    for index in (0, 1, 0, 2, 0, 1):
        assert cache[index][1].unique().tolist() == [index]
    assert loaded == [0, 1, 2, 1]
    assert cache.bytes == 2 * 48


def test_a_volume_above_the_bound_is_held_alone():
    cache, loaded = volumes([1, 5, 1], 3 * 48)
    for index in (0, 2, 1, 1, 0):
        assert cache[index][0].shape[-1] == [1, 5, 1][index]
    assert loaded == [0, 2, 1, 0]
    assert cache.bytes == 48
    nothing, loaded = volumes([1, 1], 0)
    for index in (0, 0, 1):
        assert nothing[index][0].shape == (4, 4, 1)
        assert len(nothing._kept) == 1
    assert loaded == [0, 1]


def test_a_kept_volume_is_half_precision_with_slices_in_one_piece():
    cache, _ = volumes([3], 1000)
    image, label = cache[0]
    assert (image.dtype, label.dtype) == (torch.float16, torch.uint8)
    assert image[..., 1].is_contiguous()
    assert label[..., 1].is_contiguous()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A volume of 48 x 48 slices with an organ of 4 x 4 pixels in a corner of all but the first two."""
    folder = tmp_path_factory.mktemp("large")
    write_case(folder, "large", (48, 48, 8), "RAS", range(2, 8), organ=(slice(40, 44), slice(2, 6)))
    return [case_of(folder, "large", "1")]


def test_crops_of_larger_slices_look_for_organs(large):
    """Two of three crops are laid around a labelled pixel; of the others, by chance, few show one."""
    dataset = make(large, image_size=16, augmentation=augmentation(scale=0.0, shift_pixels=0.0)).set_random_state(0)
    assert len(dataset) == 8
    items = [dataset[z] for z in range(2, 8) for _ in range(60)]
    assert all(item["image"].shape == (3, 16, 16) for item in items)
    share = np.mean([bool(item["label"].any()) for item in items])
    assert 0.58 < share < 0.85
    assert not any(dataset[z]["label"].any() for z in (0, 1) for _ in range(5))


def test_larger_slices_are_covered_by_windows_where_nothing_is_augmented(large):
    dataset = make(large, image_size=16)
    windows = {(key.window[0].start, key.window[1].start) for key in dataset.keys}
    assert windows == {(a, b) for a in (0, 12, 24, 32) for b in (0, 12, 24, 32)}
    assert len(dataset) == 8 * 16
    image, _ = by_hand(large[0], 5, 48)
    for index, key in enumerate(dataset.keys):
        if key.slice == 5:
            np.testing.assert_allclose(dataset[index]["image"].numpy(), image[(slice(None), *key.window)], atol=2**-11)


def test_a_slice_larger_on_one_side_is_cut_there_and_padded_on_the_other(tmp_path):
    write_case(tmp_path, "long", (10, 40, 3), "RAS", (1,))
    case = [case_of(tmp_path, "long", "1")]
    for item in (make(case, image_size=16)[0], make(case, image_size=16, augmentation=augmentation())[1]):
        assert item["image"].shape == (3, 16, 16)
        assert item["label"].shape == (1, 16, 16)


def test_plain_is_unaugmented_and_shares_the_cache(cases):
    dataset = make(cases, augmentation=augmentation())
    plain, never = dataset.plain(), make(cases)
    assert plain.volumes is dataset.volumes
    assert dataset.augmentation is not None
    assert len(plain) == len(never) == len(dataset)
    changed = 0
    for index in range(len(plain)):
        assert torch.equal(plain[index]["image"], never[index]["image"])
        assert torch.equal(plain[index]["label"], never[index]["label"])
        changed += not torch.equal(dataset[index]["image"], plain[index]["image"])
    assert changed > SLICES / 2


def test_plain_covers_larger_slices_by_windows(large):
    dataset = make(large, image_size=16, augmentation=augmentation())
    assert len(dataset) == 8
    assert len(dataset.plain()) == 8 * 16
    assert len(dataset) == 8


def test_a_loader_of_the_plain_slices_leaves_the_training_draws_alone(large):
    """MONAI's loader seeds the data set that it is given; a bank built in mid-training must not repeat old crops."""

    def drawn(*, interrupted):
        dataset = make(large, image_size=16, augmentation=augmentation()).set_random_state(0)
        first = dataset[3]["image"]
        if interrupted:
            DataLoader(dataset.plain(), generator=torch.Generator().manual_seed(0))
        return first, dataset[3]["image"]

    for a, b in zip(drawn(interrupted=True), drawn(interrupted=False), strict=True):
        assert torch.equal(a, b)


def drawn_keys(dataset, samples, **options):
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        return [dataset.keys[index] for index in dataset.sampler(samples, **options)]
    finally:
        torch.random.set_rng_state(state)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Three patients of 4, 12 and 30 slices (the last in two cases), each with some slices without organs."""
    folder = tmp_path_factory.mktemp("uneven")
    for name, depth, marked in (("a", 4, (1, 2)), ("b", 12, (3,)), ("c", 10, range(8)), ("d", 20, range(2, 20))):
        write_case(folder, name, (8, 8, depth), "RAS", marked)
    return [case_of(folder, name, patient) for name, patient in (("a", "1"), ("b", "2"), ("c", "3"), ("d", "3"))]


@pytest.mark.parametrize("share", [0.15, 0.5, 0.0])
def test_slices_without_organs_are_drawn_at_their_share_and_patients_evenly(uneven, share):
    dataset = make(uneven)
    keys = drawn_keys(dataset, 12000, background_share=share)
    assert len(keys) == 12000
    assert np.mean([not bool(key.organs) for key in keys]) == pytest.approx(share, abs=0.015)
    patients = Counter(dataset.cases[key.case].patient for key in keys)
    for patient in ("1", "2", "3"):
        assert patients[patient] / 12000 == pytest.approx(1 / 3, abs=0.02)
    assert {(key.case, key.slice) for key in keys} >= {(key.case, key.slice) for key in dataset.keys if key.organs}


def test_an_organ_in_few_slices_is_drawn_as_often_as_one_in_many(tmp_path):
    """Patient 1 has organ 1 in slices 0 to 7 and organ 2 in slice 7; patient 2 has organ 1 alone; slice 8 is empty."""
    for name, second in (("a", (7,)), ("b", ())):
        label = np.zeros((8, 8, 9), np.uint8)
        label[2:4, 2:4, :8] = 1
        label[5:7, 5:7, list(second)] = 2
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 9), np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / f"{name}_label.nii.gz")
    dataset = make([case_of(tmp_path, name, patient) for name, patient in (("a", "1"), ("b", "2"))])
    shares = {}
    for balanced in (True, False):
        keys = drawn_keys(dataset, 12000, background_share=0.2, class_balanced=balanced)
        shares[balanced] = {
            place: count / 12000 for place, count in Counter((key.case, key.slice) for key in keys).items()
        }
    # Of patient 1's half, 0.8 is for organs: one half of it for each, organ 1's over its eight slices.
    assert shares[True][0, 7] == pytest.approx(0.5 * (0.4 + 0.4 / 8), abs=0.015)
    assert shares[True][0, 0] == pytest.approx(0.5 * 0.4 / 8, abs=0.006)
    assert shares[False][0, 7] == pytest.approx(0.5 * 0.8 / 8, abs=0.01)
    for found in shares.values():
        assert found[1, 7] == pytest.approx(0.5 * 0.8 / 8, abs=0.01)
        assert found[0, 8] == pytest.approx(0.5 * 0.2, abs=0.015)


def test_a_patient_without_empty_slices_is_drawn_as_often_as_the_others(tmp_path):
    """Patient 1 has organs in each slice, patient 3 in none."""
    for name, marked in (("a", range(5)), ("b", (2,)), ("c", ())):
        write_case(tmp_path, name, (8, 8, 5), "RAS", marked)
    dataset = make([case_of(tmp_path, name, patient) for name, patient in (("a", "1"), ("b", "2"), ("c", "3"))])
    keys = drawn_keys(dataset, 12000)
    patients = Counter(dataset.cases[key.case].patient for key in keys)
    assert all(patients[patient] / 12000 == pytest.approx(1 / 3, abs=0.02) for patient in "123")
    second = [bool(key.organs) for key in keys if key.case == 1]
    assert np.mean(second) == pytest.approx(0.85, abs=0.02)


def batches(cases, seed, *, image_size):
    """Two epochs, as a bundle makes them: everything is built after the seed is set."""
    set_determinism(seed)
    dataset = make(cases, image_size=image_size, augmentation=augmentation())
    loader = DataLoader(dataset, batch_size=4, sampler=dataset.sampler(8), num_workers=0)
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize("image_size", [32, 12])
def test_one_seed_gives_one_sequence_of_batches(cases, determinism, image_size):
    """With 12 pixels the slices are larger than the window, so that crops are drawn too."""
    first, second, other = (batches(cases, seed, image_size=image_size) for seed in (3, 3, 4))
    assert len(first) == len(second) == 4
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
        assert a["case"] == b["case"]
        assert a["image"].shape == (4, 3, image_size, image_size)
        assert a["label"].shape == (4, 1, image_size, image_size)
        assert a["height"].shape == a["slice"].shape == (4,)
    assert not any(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0]["image"], first[2]["image"])


def test_a_slice_is_augmented_anew_each_time(cases):
    dataset = make(cases, augmentation=augmentation()).set_random_state(0)
    shown = [dataset[2]["image"] for _ in range(6)]
    assert len({tuple(image.flatten().tolist()) for image in shown}) >= 5


@pytest.mark.parametrize("tracking", [True, False])
def test_the_tracking_of_metadata_is_left_as_it_was(cases, tracking):
    dataset = make(cases, augmentation=augmentation())
    set_track_meta(tracking)
    try:
        dataset[0]
        assert get_track_meta() == tracking
    finally:
        set_track_meta(True)


def test_no_case_is_told():
    with pytest.raises(InputError, match="no case to take slices from"):
        make([])


def test_a_case_without_label_is_told(cases):
    with pytest.raises(InputError, match="x: no label"):
        make([cases[0], Case("x", "9", cases[1].image)])


def test_a_faulty_file_is_told_before_anything_else(cases, tmp_path):
    with pytest.raises(InputError, match="x: no such file"):
        make([*cases, Case("x", "9", tmp_path / "no.nii.gz", cases[0].label)])
    labels = nib.Nifti1Image(np.full((20, 24, 6), 7, np.uint8), nib.load(cases[0].label).affine)
    nib.save(labels, tmp_path / "seven.nii.gz")
    with pytest.raises(InputError, match="label 7 is not on card two"):
        make([Case("x", "9", cases[0].image, tmp_path / "seven.nii.gz")])


def test_nothing_is_written_beside_the_data(folder, cases):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*")}

    before = state()
    dataset = make(cases, augmentation=augmentation(), cache_gb=0.0)
    for index in range(0, len(dataset), 3):
        dataset[index]
    dataset.plain()[0]
    assert state() == before


def test_padding_of_items_is_even_on_both_sides(cases):
    """Case d is 16 x 16 in a window of 21: two pixels before, three after."""
    item = make(cases[3:4], image_size=21, context_slices=0)[1]
    inner = item["label"][:, 2:18, 2:18]
    assert torch.equal(pad_to_window(inner, 21), item["label"])
    assert item["image"][0, 2:18, 2:18].any()
    assert not item["image"][0, :2].any()
    assert not item["image"][0, 18:].any()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that are read")
@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_a_training_reads_each_file_once_before_its_first_step(tmp_path, cache_gb):
    draw = np.random.default_rng(0)
    cases = []
    for name in "ab":
        image = draw.integers(-150, 350, (128, 128, 96), np.int16)
        label = draw.integers(0, 3, image.shape, np.uint8)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / f"{name}_label.nii.gz")
        cases.append(case_of(tmp_path, name, name))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    make(cases[:1])  # whatever is imported on the way is read here

    def bytes_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    dataset = make(cases, image_size=128, cache_gb=cache_gb, augmentation=augmentation())
    dataset.plain()
    dataset.sampler(8)
    assert size <= bytes_read() - before < 1.5 * size
    assert dataset.volumes.reads == 2


def test_a_volume_is_the_same_from_its_check_and_from_its_file(cases):
    kept, forgotten = make(cases), make(cases, cache_gb=0.0)
    for index in (0, SLICES - 1, 7, 20):
        for name in ("image", "label"):
            assert torch.equal(kept[index][name], forgotten[index][name])
    assert (kept.volumes.reads, forgotten.volumes.reads) == (5, 5 + 4)
