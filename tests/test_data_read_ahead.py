"""The loader that reads ahead: the same batches, the next one meanwhile, and errors where they belong."""

import threading

import pytest
from monai.data import DataLoader, Dataset

from ragsam.data.read_ahead import ReadAheadLoader
from ragsam.errors import InputError


class Watched(Dataset):
    """Numbers; remembers which were read, and by which threads."""

    def __init__(self, faulty=None):
        super().__init__(list(range(5)))
        self.faulty, self.read, self.threads, self.second = faulty, [], set(), threading.Event()

    def __getitem__(self, index):
        if index == self.faulty:
            raise InputError(f"case {index}: damaged")
        self.read.append(index)
        self.threads.add(threading.current_thread().name)
        if index == 1:
            self.second.set()
        return index


def test_the_next_is_read_while_one_is_worked_on_and_no_more():
    data = Watched()
    batches = iter(ReadAheadLoader(data, batch_size=1, num_workers=0))
    assert next(batches).tolist() == [0]
    assert data.second.wait(30)  # read, though nobody asked for it
    assert data.read == [0, 1]
    assert [batch.tolist() for batch in batches] == [[1], [2], [3], [4]]
    assert len(data.threads) == 1
    assert threading.main_thread().name not in data.threads


def test_it_yields_what_monais_own_does_again_and_again():
    loaders = [kind(Watched(), batch_size=2, num_workers=0) for kind in (ReadAheadLoader, DataLoader)]
    assert len(loaders[0]) == 3
    for _ in range(2):
        ours, theirs = ([batch.tolist() for batch in loader] for loader in loaders)
        assert ours == theirs == [[0, 1], [2, 3], [4]]


def test_an_error_comes_after_the_batches_before_it_with_its_own_type():
    batches = iter(ReadAheadLoader(Watched(faulty=3), batch_size=1, num_workers=0))
    assert [next(batches).item() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="case 3: damaged"):
        next(batches)


def test_bad_input_is_left_out_where_that_is_asked_for():
    loader = ReadAheadLoader(Watched(faulty=3), skip_faulty=True, batch_size=1, num_workers=0)
    assert [batch.item() for batch in loader] == [0, 1, 2, 4]


def test_the_first_batch_may_be_loaded_before():
    data = Watched(faulty=0)
    loader = ReadAheadLoader(data, skip_faulty=True, batch_size=1, num_workers=0)
    assert loader.start()
    assert data.read[0] == 1
    assert [batch.item() for batch in loader] == [1, 2, 3, 4]
    assert data.read == [1, 2, 3, 4]
    nothing = ReadAheadLoader(Watched(faulty=0), skip_faulty=True, sampler=[0], batch_size=1, num_workers=0)
    assert not nothing.start()
