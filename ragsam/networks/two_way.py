"""The mask decoder's transformer: SAM's, or EfficientSAM's, as Medical-SAM-Adapter has it from 2024-01 on.

Sources: SAM (arXiv:2304.02643), EfficientSAM (arXiv:2312.00863).
"""

from __future__ import annotations

from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor, nn

#: By the name of an option: the activation in the MLPs of EfficientSAM's transformer.
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class EfficientBlock(TwoWayAttentionBlock):
    """A layer of EfficientSAM's two-way transformer, of SAM's parts under SAM's names.

    Its self-attention has a skip in the first layer too, and in the others the tokens' positions are in its value and
    its skip; SAM's replaces the tokens in the first layer, and has positions in query and key alone.
    """

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens [B, T, C] and image [B, h w, C] after the layer; arguments as in SAM's."""
        if not self.skip_first_layer_pe:
            queries = queries + query_pe
        queries = self.norm1(queries + self.self_attn(q=queries, k=queries, v=queries))
        placed = keys + key_pe
        found = self.cross_attn_token_to_image(q=queries + query_pe, k=placed, v=keys)
        queries = self.norm2(queries + found)
        queries = self.norm3(queries + self.mlp(queries))
        found = self.cross_attn_image_to_token(q=placed, k=queries + query_pe, v=queries)
        return queries, self.norm4(keys + found)


def two_way_transformer(dim: int, mlp_dim: int, efficient: str | None = None) -> TwoWayTransformer:
    """Build the transformer of a mask decoder: two layers of 8 heads.

    Args:
        dim: channels of tokens and image.
        mlp_dim: channels inside the MLPs.
        efficient: EfficientSAM's, with an activation of `ACTIVATIONS`; None: SAM's.

    Raises:
        ValueError: another activation.
    """
    if efficient is None:
        return TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp_dim, num_heads=8)
    if efficient not in ACTIVATIONS:
        raise ValueError(f"efficient_decoder {efficient!r}: choose one of {', '.join(ACTIVATIONS)}, or null for SAM's")
    activation = ACTIVATIONS[efficient]
    transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp_dim, num_heads=8, activation=activation)
    layers = [EfficientBlock(dim, 8, mlp_dim, activation, skip_first_layer_pe=first) for first in (True, False)]
    transformer.layers = nn.ModuleList(layers)
    return transformer
