"""SAM's two-way transformer with a bias on the attention of tokens to the image."""

from __future__ import annotations

from torch import Tensor, nn


def attentions(transformer: nn.Module) -> int:
    """Return how often tokens attend to the image: once a layer, and once at the end."""
    return len(transformer.layers) + 1


def attend(transformer: nn.Module, embedding: Tensor, position: Tensor, tokens: Tensor, bias: Tensor | None) -> tuple:
    """Run segment-anything's `TwoWayTransformer`, with a bias where there is one.

    Args:
        embedding, position: [B, C, h, w].
        tokens: [B, T, C].
        bias: [attentions, B, heads, T, h w], added to the attention of tokens to the image before its softmax. Zeros
            change no bit.

    Returns:
        Tokens [B, T, C], and the image [B, h w, C].

    Source: Kirillov et al., "Segment Anything", arXiv:2304.02643, appendix A.
    """
    if bias is None:
        return transformer(embedding, position, tokens)
    queries, keys = tokens, embedding.flatten(2).transpose(1, 2)
    position = position.flatten(2).transpose(1, 2)
    for layer, added in zip(transformer.layers, bias, strict=False):
        placed = queries if layer.skip_first_layer_pe else queries + tokens
        update = layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(update if layer.skip_first_layer_pe else queries + update)
        update = _biased(layer.cross_attn_token_to_image, queries + tokens, keys + position, keys, added)
        queries = layer.norm2(queries + update)
        queries = layer.norm3(queries + layer.mlp(queries))
        update = layer.cross_attn_image_to_token(q=keys + position, k=queries + tokens, v=queries)
        keys = layer.norm4(keys + update)
    update = _biased(transformer.final_attn_token_to_image, queries + tokens, keys + position, keys, bias[-1])
    return transformer.norm_final_attn(queries + update), keys


def _biased(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend by a segment-anything `Attention`, written out as it is there, so that zeros change no bit."""
    query, key, value = (
        layer(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for layer, x in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5 + bias
    return attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
