"""Swin Transformer, with the arithmetic of Mask2Former's own copy.

Source: Liu et al., ICCV 2021. Published checkpoints need maps padded to the window *before* they
are rolled, and windows shifted in every stage, however small its map; timm does both differently.
Each output has a norm (``norm0`` … ``norm3``). Under autocast the patches and the residual stream
keep the parameters' dtype, for accuracy.

Legend: B batch, H W map size, C channels, N tokens per window, M heads, nW windows per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.runtime.chunking import in_strips
from mask2kan.runtime.precision import as_products, full_precision

NUM_STAGES = 4
# The reference says -100, but exp(-100) is a denormal number, which slows a CPU down many times;
# exp(-1000) is 0 and adds the same nothing to a sum.
MASKED = -1000.0


class WindowAttention(nn.Module):
    """Attention inside each window, biased by the relative position of two tokens.

    Args:
        dim: C.
        num_heads: M.
        window_size: tokens along a window's side.
        shift: of the windows against the map; 0 or half a window.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.reset_constants()
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def reset_constants(self) -> None:
        """Compute what no checkpoint holds."""
        index = relative_position_index(self.window_size)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, shift_mask: Tensor) -> Tensor:
        """(B, H, W, C) to the same; ``shift_mask`` is (nW, N, N), used where windows shift."""
        batch, height, width, channels = x.shape
        window = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = x.view(batch, rows, window, columns, window, channels).transpose(2, 3)
        windows = windows.reshape(-1, window * window, channels)
        windows = self._attend_in_strips(windows, shift_mask if self.shift else None)
        x = windows.view(batch, rows, columns, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, rows * window, columns * window, channels)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        # Cropped before the projection: tokens that only pad the map need none.
        return cast(Tensor, self.proj(x[:, :height, :width]))

    def _attend_in_strips(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """(B·nW, N, C) windows to the same; ``mask`` (nW, N, N) is added to their scores."""
        tokens, channels = windows.shape[1:]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.unflatten(0, (tokens, tokens)).permute(2, 0, 1)  # (M, N, N)
        widest = tokens * (3 * channels + self.num_heads * tokens)
        if mask is None:
            return in_strips(lambda strip: self._attend(strip, bias[None]), windows, widest=widest)
        batch = len(windows) // len(mask)
        # Bias and mask are added up per strip: (B·nW, M, N, N) at once would be the largest
        # temporary of the backbone.
        return in_strips(
            lambda strip, masks: self._attend(strip, bias + masks[:, None]),
            windows,
            mask.repeat(batch, 1, 1),
            widest=widest,
        )

    def _attend(self, windows: Tensor, bias: Tensor) -> Tensor:
        """(n, N, C) windows to the same; ``bias`` is (n or 1, M, N, N)."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        merged = attended.transpose(1, 2)
        # Contiguous as it comes, but not once an exporter has decomposed the attention.
        return (merged.clone() if torch.compiler.is_exporting() else merged).flatten(2)


def relative_position_index(window_size: int) -> Tensor:
    """Index the bias table's rows by pairs of tokens: (N, N)."""
    axis = torch.arange(window_size)
    position = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)  # (2, N)
    offset = position[:, :, None] - position[:, None, :] + window_size - 1
    return offset[0] * (2 * window_size - 1) + offset[1]


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        rows = tokens.flatten(0, -2)
        return in_strips(self._mlp, rows, widest=self.fc1.out_features).view_as(tokens)

    def _mlp(self, rows: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(rows))))


def _drop_path(rate: float) -> nn.Module:
    if not rate:
        return nn.Identity()
    from timm.layers.drop import DropPath  # timm takes seconds to import

    return DropPath(rate)


class SwinBlock(nn.Module):
    """Window attention and an MLP, each with a norm before it and a residual around both."""

    def __init__(
        self, dim: int, num_heads: int, window_size: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = _drop_path(drop_path)

    def forward(self, x: Tensor, shift_mask: Tensor) -> Tensor:
        """(B, H, W, C) to the same; ``shift_mask`` is (nW, N, N)."""
        x = x + self.drop_path(self.attn(as_products(self.norm1(x)), shift_mask))
        return cast(Tensor, x + self.drop_path(self.mlp(self.norm2(x))))


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Return (nW, N, N): MASKED between tokens that only the roll made neighbours, else 0."""

    def regions(length: int) -> Tensor:
        """Number the three stretches that the roll keeps apart: (padded length,)."""
        padded = length + -length % window
        position = torch.arange(padded, device=device)
        return (position >= padded - window).long() + (position >= padded - window // 2).long()

    region = regions(height)[:, None] * 3 + regions(width)[None, :]
    rows, columns = region.shape[0] // window, region.shape[1] // window
    region = region.view(rows, window, columns, window).transpose(1, 2).flatten(2).flatten(0, 1)
    return (region[:, :, None] != region[:, None, :]) * MASKED


class PatchMerging(nn.Module):
    """Halve the map: concatenate the four tokens of a square, norm and project."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # The checkpoints' order of the four: down the first column, then down the second.
        squares = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged = self.reduction(self.norm(torch.cat(squares, dim=-1)))
        return cast(Tensor, merged.to(x.dtype))


class Stage(nn.Module):
    """Blocks at one resolution, and the patch merging after them."""

    def __init__(
        self, dim: int, num_heads: int, window_size: int, drop_paths: list[float], last: bool
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window_size, window_size // 2 * (index % 2), drop_path)
            for index, drop_path in enumerate(drop_paths)
        )
        self.downsample = nn.Identity() if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) to this stage's map and the next stage's input."""
        mask = shift_mask(x.shape[1], x.shape[2], self.window_size, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x)


class PatchEmbed(nn.Module):
    """Embed 4x4 patches and norm them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H/4, W/4, C)."""
        with full_precision(images):
            return cast(Tensor, self.norm(self.proj(images).permute(0, 2, 3, 1)))


class SwinTransformer(nn.Module):
    """Four stages, each with a normed output map.

    Args:
        embed_dim: C of the first stage; it doubles with each stage.
        depths: blocks per stage.
        num_heads: per stage.
        window_size: tokens along a window's side.
        drop_path: stochastic depth of the last block, rising from 0 at the first.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = [embed_dim * 2**stage for stage in range(NUM_STAGES)]
        self.patch_embed = PatchEmbed(embed_dim)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.layers = nn.ModuleList(
            Stage(
                self.channels[stage],
                num_heads[stage],
                window_size,
                [next(rates) for _ in range(depths[stage])],
                last=stage == NUM_STAGES - 1,
            )
            for stage in range(NUM_STAGES)
        )
        self.norm0, self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(channels) for channels in self.channels
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 32, to four (B, C_l, H_l, W_l) maps."""
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        x = self.patch_embed(images)
        maps = []
        for stage, norm in zip(self.layers, norms, strict=True):
            out, x = stage(x)
            maps.append(norm(out).permute(0, 3, 1, 2))
        return maps
