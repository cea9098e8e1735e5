"""The masked-attention transformer decoder of Mask2Former, and Mask2Anomaly's global variant.

In each layer the queries attend to one level of the pixel decoder's output, inside (foreground) or
outside (background) their own masks, then to each other. After every layer, ``class_embed`` reads
their classes and ``mask_embed`` their masks.

Sources: Cheng et al., CVPR 2022, section 3.2; Rai et al., ICCV 2023 (global masked attention:
foreground and background attention summed, then residual and norm).

Departure: a mask is linear in ``mask_features``, so attention masks come from features resized once
per level, not from masks resized after each layer. The same numbers.

Legend: B batch, Q queries, C channels, S positions of one level, K classes, h w mask size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.heads import build_mask_embed, shared_weights
from mask2kan.modeling.pixel_decoder import NUM_LEVELS, Features
from mask2kan.modeling.position_encoding import sine_position_encoding
from mask2kan.runtime.precision import (
    as_parameters,
    as_products,
    full_precision,
    full_precision_on_cpu,
)


class LayerOutput(TypedDict):
    """The queries after one layer, with their classes and masks."""

    pred_logits: Tensor  # (B, Q, K+1), the last is "no object"
    pred_masks: Tensor  # (B, Q, h, w), logits at a quarter of the padded image
    queries: Tensor  # (B, Q, C), normed: what class_embed and mask_embed read


class DecoderOutput(LayerOutput):
    """The output of the last layer, and of those before it (for deep supervision)."""

    aux_outputs: list[LayerOutput]


class Attention(nn.Module):
    """Multi-head attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C) queries from (B, S, C) keys and values, where (B, Q, S) ``allowed`` is True."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        attended = _attend(q, k, v, None if allowed is None else allowed[:, None])
        return cast(Tensor, self.out_proj(attended.transpose(1, 2).flatten(2)))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention; in training on a CPU written out.

    PyTorch's own runs hundreds of small parallel loops, whose threads wait where CPUs are shared.
    """
    if query.device.type != "cpu" or not query.requires_grad:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    return torch.matmul(scores.softmax(-1), value)


class MaskedAttention(nn.Module):
    """Cross-attention inside the predicted mask (Mask2Former)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.foreground = Attention(channels, num_heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor) -> Tensor:
        """(B, Q, C) from keys and values (B, S, C) and the queries' own masks (B, Q, S)."""
        return cast(Tensor, self.foreground(query, key, value, _open_empty_rows(mask_logits >= 0)))


class GlobalMaskedAttention(MaskedAttention):
    """Cross-attention inside and outside the predicted mask, summed (Mask2Anomaly)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__(channels, num_heads)
        self.background = Attention(channels, num_heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor) -> Tensor:
        """(B, Q, C) from keys and values (B, S, C) and the queries' own masks (B, Q, S)."""
        inside = super().forward(query, key, value, mask_logits)
        # a logit of exactly 0 is on both sides, as published
        outside: Tensor = self.background(query, key, value, _open_empty_rows(mask_logits <= 0))
        return outside + inside


def _open_empty_rows(allowed: Tensor) -> Tensor:
    """Let a query whose mask is empty attend everywhere; softmax over nothing would be NaN."""
    return allowed | ~allowed.any(dim=-1, keepdim=True)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each with residual and norm after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, heads = config.hidden_dim, config.num_heads
        attention = {"foreground": MaskedAttention, "global": GlobalMaskedAttention}
        self.cross_attn = attention[config.masked_attention](channels, heads)
        self.cross_attn_norm = nn.LayerNorm(channels)
        self.self_attn = Attention(channels, heads)
        self.self_attn_norm = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.decoder_feedforward_dim)
        self.linear2 = nn.Linear(config.decoder_feedforward_dim, channels)
        self.ffn_norm = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, queries: Tensor, query_embed: Tensor, key: Tensor, value: Tensor, mask_logits: Tensor
    ) -> Tensor:
        """Update the queries: (B, Q, C) to the same.

        Args:
            queries: (B, Q, C).
            query_embed: (Q, C), added wherever queries are compared.
            key: (B, S, C), one level with position encoding.
            value: (B, S, C), the same without.
            mask_logits: (B, Q, S), the queries' masks at that level.
        """
        attended = self.cross_attn(queries + query_embed, key, value, mask_logits)
        queries = self.cross_attn_norm(queries + attended)
        with_pos = queries + query_embed
        queries = self.self_attn_norm(queries + self.self_attn(with_pos, with_pos, queries))
        ffn_output = self.linear2(F.relu(self.linear1(queries)))
        return cast(Tensor, self.ffn_norm(queries + ffn_output))


class TransformerDecoder(nn.Module):
    """Learnable queries, refined against the three levels in turn, read out after every layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.hidden_dim
        self.query_feat = nn.Embedding(config.num_queries, channels)
        self.query_embed = nn.Embedding(config.num_queries, channels)
        self.level_embed = nn.Embedding(NUM_LEVELS, channels)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.class_embed = nn.Linear(channels, config.num_classes + 1)
        self.mask_embed = build_mask_embed(config)

    def forward(self, features: Features, *, with_aux: bool = True) -> DecoderOutput:
        """Decode the queries.

        ``with_aux``: also predict from the learnable queries and from every layer but the last.
        """
        with full_precision_on_cpu(features.mask_features):
            features = self._in_own_dtype(features)
            *earlier, last = self.refine(features)
            return {
                **self._predict(*last, features.mask_features),
                "aux_outputs": [
                    self._predict(*state, features.mask_features)
                    for state in (earlier if with_aux else ())
                ],
            }

    def refine(self, features: Features) -> list[tuple[Tensor, Tensor]]:
        """Run the layers, each on one level: 1/32, 1/16, 1/8 of the image, and again.

        Returns:
            Normed queries (B, Q, C) and their mask embeddings (B, Q, C): of the learnable queries,
            then after every layer.
        """
        with full_precision_on_cpu(features.mask_features):
            mask_features, levels = self._in_own_dtype(features)
            keys, values = self._memory(levels)
            # Per level (B, C, S_l); detached, since no gradient flows through attention masks.
            detached = mask_features.detach()
            resized = [
                F.interpolate(detached, level.shape[-2:], mode="bilinear").flatten(2)
                for level in levels
            ]
            # The head runs after every layer; a KAN's edge weights are prepared once.
            prepared = shared_weights(self.mask_embed)
            queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
            states = [self._read_out(queries, prepared)]
            for index, layer in enumerate(self.layers):
                level = index % NUM_LEVELS
                mask_logits = states[-1][1].detach() @ resized[level]
                queries = layer(
                    queries, self.query_embed.weight, keys[level], values[level], mask_logits
                )
                states.append(self._read_out(queries, prepared))
            return states

    def _in_own_dtype(self, features: Features) -> Features:
        """In the parameters' dtype; the trunk may have run under autocast, this part does not."""
        weight = self.query_feat.weight
        return Features(
            as_parameters(features.mask_features, weight),
            [as_parameters(level, weight) for level in features.levels],
        )

    def _memory(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return keys and values (B, S, C) of every level; only keys carry the position."""
        values = [
            level.flatten(2).transpose(1, 2) + self.level_embed.weight[index]
            for index, level in enumerate(levels)
        ]
        keys = [
            value
            + sine_position_encoding(level.shape[2], level.shape[3], level.shape[1], level.device)
            for value, level in zip(values, levels, strict=True)
        ]
        return [as_products(key) for key in keys], [as_products(value) for value in values]

    def _read_out(
        self, queries: Tensor, prepared: Mapping[str, list[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return normed queries (B, Q, C) and their mask embeddings (B, Q, C)."""
        # A hundred vectors: full precision costs nothing, and both heads get the same.
        with full_precision(queries):
            decoded = self.decoder_norm(queries.to(self.query_feat.weight.dtype))
            return decoded, self.mask_embed(decoded, **prepared)

    def _predict(self, decoded: Tensor, embeddings: Tensor, mask_features: Tensor) -> LayerOutput:
        with full_precision(decoded):
            pred_logits = self.class_embed(decoded)
        return {
            "pred_logits": pred_logits,
            "pred_masks": torch.einsum("bqc,bchw->bqhw", embeddings, mask_features),
            "queries": decoded,
        }
