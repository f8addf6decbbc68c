"""Prototype tokens: what each class looks like in the slice itself, where the neighbours vote for it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.networks.two_way import attentions


class PrototypeTokens(nn.Module):
    """Gives each class token the class's prototype, and biases its attention towards what is like it.

    A class's prototype is the mean of the slice's own embedding, weighted by the neighbours' vote for the class: what
    the vote means here, in this slice's contrast, and as the encoder sees it now. It is added to the class's token
    through a zero-initialised layer; its similarity map is added to the attention of that token to the image, times a
    gain for each head that begins at zero.

    Args:
        transformer: of the mask decoder.

    Source: Zhang et al., "Personalize Segment Anything Model with One Shot", arXiv:2305.03048, made trainable and for
    several classes.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        dim = transformer.embedding_dim
        self.to_token = nn.Linear(dim, dim, bias=False)
        self.gain = nn.Parameter(self.to_token.weight.new_zeros(attentions(transformer), transformer.num_heads))
        nn.init.zeros_(self.to_token.weight)

    def forward(self, embedding: Tensor, vote: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to the classes' tokens and to their attention.

        Args:
            embedding: [B, C, h, w].
            vote: [B, K + 1, h, w], 0-1; a class without any vote gets nothing.

        Returns:
            [B, K + 1, C], and for each attention to the image [B, heads, K + 1, h w], all of them stacked.
        """
        vote, features = vote.flatten(2), embedding.flatten(2)
        mass = vote.sum(2, keepdim=True)
        prototype = vote @ features.transpose(1, 2) / mass.clamp_min(1e-6)
        similarity = F.normalize(prototype, dim=2) @ F.normalize(features, dim=1)
        return self.to_token(prototype), self.gain[:, None, :, None, None] * similarity[None, :, None]
