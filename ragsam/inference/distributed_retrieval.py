"""Retrieval on whole volumes that several processes share out: one trace of all of them."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch.distributed as dist
from ignite.engine import Engine

from ragsam.inference.volume_retrieval import VolumeRetrieval


class GatheredRetrieval(VolumeRetrieval):
    """What `VolumeRetrieval` is; at the end the first process writes what was found in all of them."""

    def finish(self, engine: Engine) -> None:
        """Put the cases of all processes together, and write them in the first one."""
        if idist.get_world_size() > 1:
            shares: list[dict[str, Any]] = [{}] * idist.get_world_size()
            dist.all_gather_object(shares, self.cases)
            self.cases = {case: entry for share in shares for case, entry in share.items()}
        if idist.get_rank() > 0:
            self.trace_path = None
        super().finish(engine)
