"""The vector store: nearest descriptors by cosine."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class VectorStore(Protocol):
    """What a retriever needs of a store.

    Contract: `search` returns, for unit queries [B, D], the cosines and row numbers [B, k] of the nearest of the
    unit vectors given at construction, best first. Where there are fewer than k, and for a query that is not finite,
    the row is -1, which is never to be used as an index.
    """

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines [B, k], float32, and rows [B, k], int64."""
        ...


class FaissStore:
    """Exact search by FAISS.

    Args:
        vectors: [N, D], float32, unit length.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss  # heavy, and not needed where retrieval is off

        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorStore`."""
        queries = np.ascontiguousarray(queries, np.float32)
        cosines, rows = self._index.search(queries, k)
        rows[~np.isfinite(queries).all(1)] = -1
        return cosines, rows
