"""The protocols: how an organ of a case is scored, which organs they are for, and their rules in words.

| protocol | scores | missed | false positive | absent |
|---|---|---|---|---|
| clinical | all, mm | 0; the image's diagonal | as missed | no score |
| btcv | all but NSD, mm | 0; the image's diagonal | as missed | no score |
| flare22-2022, -2024, -fixed | Dice, NSD | 0 | 0 | 1 |
| samed | Dice; HD95 in voxels | 0; 0 | 1; 0 | 0; 0 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragsam.metrics import btcv, clinical, flare22, samed
from ragsam.metrics.scoring import ALL_METRICS, LOWER_IS_BETTER, METRICS

__all__ = ["ALL_METRICS", "LOWER_IS_BETTER", "METRICS", "PROTOCOLS", "Protocol"]

_SHARED_RULES = (
    "Not annotated: the case's reference does not cover the organ; no score.",
    "A prediction that is missing, unreadable or of another geometry: the reference's organs count as missed.",
    "Means are by patient: volumes of one patient are averaged first. The mean over organs is the mean of their means.",
    "Intervals: 95 %, bootstrap of patients (BCa, 9999 resamples, fixed seed); none for fewer than 3 patients.",
)


@dataclass(frozen=True)
class Protocol:
    """A set of rules.

    Attributes:
        metrics: what it scores; every other metric is null.
        score: scores one organ of one case; see `ragsam.metrics.clinical.score_organ`.
        own_rules: what is special to it, in words.
        organs: the organs it is for; None for any.
        required: the organs that must be on the card.
        tolerances_mm: its own, by organ; the card's stand for the others.
        by_zooms: whether it measures by the header's voxel sizes, not by the affine.
        counts_unreferenced: whether an organ that no reference has counts in the mean over organs.
        caveat: what a reader must know before looking at a figure.
    """

    metrics: tuple[str, ...]
    score: Callable[..., dict[str, Any]]
    own_rules: tuple[str, ...]
    organs: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    by_zooms: bool = False
    counts_unreferenced: bool = False
    caveat: str | None = None

    @property
    def rules(self) -> tuple[str, ...]:
        """All rules in words, a line each."""
        return (*self.own_rules, *_SHARED_RULES)

    def misfit(self, organs: Sequence[str]) -> str | None:
        """Return why the protocol is not for a card of these organs, None if it is."""
        if self.organs is None:
            return None
        unknown = sorted(set(organs) - set(self.organs))
        if unknown:
            return f"{unknown[0]} is not one of its organs"
        lacking = sorted(set(self.required) - set(organs))
        if lacking:
            return f"it needs all of its {len(self.organs)} organs, and {lacking[0]} is not on the card"
        return None


_FLARE22 = {
    "metrics": flare22.SCORED,
    "organs": tuple(flare22.TOLERANCES_MM),
    "tolerances_mm": flare22.TOLERANCES_MM,
    "by_zooms": True,
    "counts_unreferenced": True,
}
_FLARE22_2022 = Protocol(score=flare22.score_2022, own_rules=flare22.RULES["2022"], **_FLARE22)
PROTOCOLS = {
    "clinical": Protocol(ALL_METRICS, clinical.score_organ, clinical.RULES),
    "btcv": Protocol(btcv.SCORED, btcv.score_organ, btcv.RULES, btcv.ORGANS, required=btcv.ORGANS),
    "flare22": _FLARE22_2022,
    "flare22-2022": _FLARE22_2022,
    "flare22-2024": Protocol(score=flare22.score_2024, own_rules=flare22.RULES["2024"], **_FLARE22),
    "flare22-fixed": Protocol(score=flare22.score_fixed, own_rules=flare22.RULES["fixed"], **_FLARE22),
    "samed": Protocol(samed.SCORED, samed.score_organ, samed.RULES, counts_unreferenced=True, caveat=samed.CAVEAT),
}
