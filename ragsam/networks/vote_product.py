"""The product of two opinions: a network's own, trained without neighbours, and the vote of the neighbours.

A network that trains with the vote of its own training patients learns less from the picture, and trusts the vote as
little as its few training slices need it. So here nothing is learnt of the vote: it multiplies the network's
probabilities, raised to a power. The power grows with the number of patients that can vote, and is weighed by what
validation patients show, see `ragsam.training.vote_weight`.

Source: a product of experts, Hinton, Neural Computation 14, 2002 (doi 10.1162/089976602760128018), whose experts are
not trained together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.networks.inference_mode import is_plain_inference
from ragsam.networks.supports import Supports, label_prior, resize_prior, vote_shares, votes_found

#: What is added to every share of the vote, and to every probability of the network: neither is ever sure. A network
#: that has not learnt an organ yet denies it everywhere, and no vote would outweigh that.
VOTE_DOUBT = 0.02
NETWORK_DOUBT = 0.01
#: As many neighbours as that doubt is meant for. Each of fewer gives less of what the others would have said: it is as
#: if half a neighbour more had voted for every class.
MANY = 24
#: The power of the vote of a single patient's slices, and that of the number of patients by which it grows.
POWER = 0.75
GROWTH = 1 / 3


class VoteProduct(nn.Module):
    """Multiplies the classes' probabilities by the neighbours' vote. It has no parameters.

    Args:
        num_classes: with background (K + 1).

    Attributes:
        weight: scalar, of the vote; 0, and so no effect, until a training sets it. Kept with the weights.
        patients: scalar, how many can vote where the supports do not tell: those of the training. Kept too.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("patients", torch.ones(()))

    def start(self, patients: int) -> None:
        """Give the vote a weight of 1, where so many patients can vote."""
        self.weight.fill_(1.0)
        self.patients.fill_(patients)

    def forward(self, logits: Tensor, supports: Supports) -> Tensor:
        """Return logits [B, K + 1, H, W] with the vote; as they are where nobody votes, or no vote can be trusted."""
        if is_plain_inference(logits) and len(logits) > 1:  # in this order: an export must not look at its length
            return torch.cat([self(*one) for one in zip(logits.split(1), supports.each(), strict=True)])
        evidence = self.evidence(supports, tuple(logits.shape[-2:]))
        heeded = self.weight * votes_found(supports, evidence) > 0
        if supports.trust is not None:
            heeded = heeded & (self._trust(supports)[1:] > 0).any().to(heeded.device)
        return torch.where(heeded, multiplied(logits, self.weight * evidence), logits)

    def evidence(self, supports: Supports, size: tuple[int, int]) -> Tensor:
        """Return the logarithm of the vote's power [B, K + 1, H, W], at a weight of 1, for slices of this size.

        A class that no neighbour annotates is as likely, beside the others, as the background that it is in; one that
        cannot be trusted is the more so, the less it can.
        """
        vote = resize_prior(label_prior(supports, self.num_classes).float(), size)
        doubt = VOTE_DOUBT
        if supports.neighbours is not None:
            doubt = VOTE_DOUBT * MANY / supports.neighbours.clamp_min(1).float()[:, None, None, None]
        odds = (vote_shares(vote, supports.boost) + doubt).log()
        if supports.annotated is not None:
            known = (supports.annotated & (supports.weights > 0)[..., None]).any(1)[..., None, None]
            odds = torch.where(known, odds, odds[:, :1])
        if supports.trust is not None:
            odds = odds[:, :1].lerp(odds, self._trust(supports).to(odds)[:, None, None])
        patients = self.patients
        if supports.patients is not None:
            patients = odds.new_tensor(supports.patients)
        return POWER * patients**GROWTH * odds

    def _trust(self, supports: Supports) -> Tensor:
        return F.pad(supports.trust, (0, self.num_classes - len(supports.trust)), value=1.0)


def multiplied(logits: Tensor, evidence: Tensor) -> Tensor:
    """Return logits [B, K + 1, H, W] whose probabilities are multiplied by what `evidence` is the logarithm of."""
    own = (logits.float().softmax(1) + NETWORK_DOUBT).log()
    return (own + evidence).to(logits.dtype)
