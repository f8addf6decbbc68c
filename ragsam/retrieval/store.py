"""The vector store: nearest descriptors by cosine, among the rows that a query may find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ragsam.errors import InputError
from ragsam.retrieval.store_faiss import ExactStore, HnswStore, IvfPqStore

STORES = {"exact": ExactStore, "hnsw": HnswStore, "ivfpq": IvfPqStore}
#: Up to so many vectors `auto` takes a store; measured in docs/evidence/bank-search.md.
LARGEST = {"exact": 20_000, "hnsw": 500_000}


class VectorStore(Protocol):
    """What a retriever needs of a store of unit vectors, given at construction.

    Contract of `search`: for each query the rows of the nearest vectors that it may find and their cosines, best
    first. Where there are fewer than k, and for a query that is not finite, the row is -1, which is never to be used
    as an index, and the cosine -inf. A row that a query may not find never comes back, and takes no other's place.
    An exact store finds the nearest; another may miss some, but returns min(k, rows that may be found) of them.
    """

    def search(
        self, queries: np.ndarray, k: int, allowed: Sequence[np.ndarray | None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search for a batch.

        Args:
            queries: [B, D], unit length.
            k: neighbours a query.
            allowed: for each query a mask [N], bool, of the rows that it may find; None: all. Queries that share a
                mask should share the array.

        Returns:
            Cosines [B, k], float32, and rows [B, k], int64.
        """
        ...


def make_store(vectors: np.ndarray, kind: str = "auto") -> VectorStore:
    """Return a store of unit vectors [N, D].

    Args:
        kind: a name in `STORES`, or auto, which chooses by N.

    Raises:
        InputError: another kind.
    """
    if kind == "auto":
        kind = next((name for name, most in LARGEST.items() if len(vectors) <= most), "ivfpq")
    if kind not in STORES:
        raise InputError(f"store {kind!r} is unknown; choose auto or one of {', '.join(STORES)}")
    return STORES[kind](vectors)
