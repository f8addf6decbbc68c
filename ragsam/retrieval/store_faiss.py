"""Vector stores of FAISS: exact, a graph (HNSW), and compressed lists (IVF-PQ) whose finds are ranked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class FaissStore:
    """What the stores share: batches by mask, queries that are not finite, and what an index leaves short.

    Args:
        vectors: [N, D], unit length; kept as they are, as float32, to rank and to complete what an index finds.
    """

    #: An index is not asked where more rows than these are left out, since near ones may be hidden behind them,
    most_left_out: float = np.inf
    #: nor where no more than these may be found, since comparing with all of them is as quick.
    few = 0

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.index = self.build(self.vectors)

    def build(self, vectors: np.ndarray) -> Any:
        """Return the index of some vectors, or None if they are too few for one."""
        raise NotImplementedError

    def find(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Ask the index; rows that it does not find are -1."""
        raise NotImplementedError

    def search(
        self, queries: np.ndarray, k: int, allowed: Sequence[np.ndarray | None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorStore`."""
        queries = np.ascontiguousarray(queries, np.float32)
        cosines = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        masks = [None] * len(queries) if allowed is None else list(allowed)
        sound = np.isfinite(queries).all(1)
        for mask in {id(mask): mask for mask in masks}.values():
            group = np.flatnonzero([own is mask for own in masks] & sound)
            if len(group):
                cosines[group], rows[group] = self._search_group(queries[group], k, mask)
        return cosines, rows

    def _search_group(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        total = len(self.vectors) if mask is None else int(np.count_nonzero(mask))
        wanted = min(k, total)
        cosines = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        if not wanted:
            return cosines, rows
        if self.index is None or total <= self.few or len(self.vectors) - total > self.most_left_out:
            short = np.arange(len(queries))
        else:
            cosines[:, :wanted], rows[:, :wanted] = self.find(queries, wanted, mask)
            short = np.flatnonzero((rows[:, :wanted] < 0).any(1))
        if len(short):
            cosines[short, :wanted], rows[short, :wanted] = self.compare_all(queries[short], wanted, mask)
        return cosines, rows

    def compare_all(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest without an index: exact, and as slow as reading all that may be found, once for 16."""
        chosen = None if mask is None else np.flatnonzero(mask)
        if chosen is not None and 4 * len(chosen) < len(mask):
            cosines, rows = _nearest(queries, self.vectors[chosen], k, None)
            return cosines, chosen[rows]
        return _nearest(queries, self.vectors, k, mask)


class ExactStore(FaissStore):
    """Compares with every vector; on a GPU where FAISS has one."""

    #: A GPU's index returns no more neighbours than these.
    gpu_limit = 2048

    def build(self, vectors: np.ndarray) -> Any:
        """See `FaissStore`."""
        import faiss  # heavy, and not needed where retrieval is off

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        self.on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        if self.on_gpu:
            self._resources = faiss.StandardGpuResources()
            return faiss.index_cpu_to_gpu(self._resources, 0, index)
        return index

    def find(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """See `FaissStore`."""
        if not self.on_gpu:
            return self.index.search(queries, k, params=_selecting("SearchParameters", mask))
        # No selectors there: fetch as many more as are left out.
        fetched = k if mask is None else k + len(mask) - int(np.count_nonzero(mask))
        if fetched > self.gpu_limit:
            return self.compare_all(queries, k, mask)
        cosines, rows = self.index.search(queries, fetched)
        if mask is not None:
            cosines[~mask[rows]] = -np.inf
            cosines, rows = _ordered(cosines, rows)
        return cosines[:, :k], rows[:, :k]


class HnswStore(FaissStore):
    """A graph of near vectors: fast, at a few hundred bytes a vector more, and slow to build.

    The search keeps so many candidates, and as many more as there are rows left out: these stand in its way.
    """

    links = 32
    build_candidates = 80
    candidates = 512
    most_left_out = 2048
    few = 10_000

    def build(self, vectors: np.ndarray) -> Any:
        """See `FaissStore`."""
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_candidates
        index.add(vectors)
        return index

    def find(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """See `FaissStore`."""
        left_out = 0 if mask is None else len(mask) - int(np.count_nonzero(mask))
        candidates = max(self.candidates, 2 * k) + left_out
        return self.index.search(queries, k, params=_selecting("SearchParametersHNSW", mask, efSearch=candidates))


class IvfPqStore(FaissStore):
    """Lists of compressed vectors: small and quick to search; what it finds is ranked by the vectors themselves.

    Of fewer vectors than `fewest` it makes no index, and compares with all.
    """

    fewest = few = 10_000
    code_width = 2  # dimensions a byte
    probes = 192
    ranked_again = 96  # times k

    def build(self, vectors: np.ndarray) -> Any:
        """See `FaissStore`."""
        if len(vectors) < self.fewest:
            return None
        import faiss

        count, width = vectors.shape
        codes = -(-width // self.code_width)
        lists = int(4 * count**0.5)
        self.padding = codes * self.code_width - width
        quantizer = faiss.IndexFlatIP(width + self.padding)
        index = faiss.IndexIVFPQ(quantizer, width + self.padding, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = 64
        index.cp.niter = 8
        draw = np.random.default_rng(0).permutation(count)[: 64 * lists]
        index.train(self._padded(vectors[np.sort(draw)]))
        for start in range(0, count, 65536):
            index.add(self._padded(vectors[start : start + 65536]))
        return index

    def _padded(self, vectors: np.ndarray) -> np.ndarray:
        """Codes are of equally many dimensions each: zeros fill up the last."""
        return np.pad(vectors, ((0, 0), (0, self.padding)))

    def find(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """See `FaissStore`."""
        fetched = min(k * self.ranked_again, len(self.vectors))
        chosen = _selecting("SearchParametersIVF", mask, nprobe=min(self.probes, self.index.nlist))
        rows = self.index.search(self._padded(queries), fetched, params=chosen)[1]
        cosines = np.einsum("bkd,bd->bk", self.vectors[rows], queries)
        cosines[rows < 0] = -np.inf
        cosines, rows = _ordered(cosines, rows)
        return cosines[:, :k], rows[:, :k]


def _selecting(kind: str, mask: np.ndarray | None, **options: Any) -> Any:
    """Return FAISS's search parameters of a kind, which let only the rows of a mask [N] through."""
    import faiss

    if mask is not None:
        options["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    return getattr(faiss, kind)(**options)


def _nearest(
    queries: np.ndarray, vectors: np.ndarray, k: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    cosines, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 16):
        every = queries[start : start + 16] @ vectors.T
        if mask is not None:
            every[:, ~mask] = -np.inf
        best = np.argpartition(-every, k - 1, axis=1)[:, :k]
        cosines[start : start + 16], rows[start : start + 16] = _ordered(np.take_along_axis(every, best, 1), best)
    return cosines, rows


def _ordered(cosines: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows [B, n] by their cosine, best first, equal ones by their number."""
    order = np.lexsort((rows, -cosines), axis=1)
    return np.take_along_axis(cosines, order, 1), np.take_along_axis(rows, order, 1)
