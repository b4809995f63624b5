"""MDTv2, a masked diffusion transformer, as a model of diffusers.

Gao et al., "MDTv2: Masked Diffusion Transformer is a Strong Image Synthesizer",
https://arxiv.org/abs/2303.14389. Written from the paper; with the weights of the authors' code
(:mod:`shd_vit.hosts.diffusers.mdt_weights`) it computes what that computes.

B batch, N tokens, n tokens kept, H heads, E width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import (
    LabelEmbedding,
    TimestepEmbedding,
    Timesteps,
    get_2d_sincos_pos_embed,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from shd_vit.errors import ConfigError

SIZES: dict[str, dict[str, int]] = dict(
    S=dict(num_layers=12, num_attention_heads=6, attention_head_dim=64, decoder_layers=6),
    B=dict(num_layers=12, num_attention_heads=12, attention_head_dim=64, decoder_layers=6),
    XL=dict(num_layers=28, num_attention_heads=16, attention_head_dim=72, decoder_layers=4),
)


class MDTv2Model(ModelMixin, ConfigMixin):
    """An encoder on the tokens that are kept, a side block that fills in the rest, a decoder.

    Called with ``kept``, it is trained to guess the tokens that are left out; without, all tokens
    go through encoder and decoder, and the side block is not run. Labels are dropped by the caller,
    who gives ``num_embeds_ada_norm``, the null class, in their place.

    Args:
        num_attention_heads: Heads H.
        attention_head_dim: Width of a head; E is H times that.
        num_layers: Of encoder and decoder together, without the side block.
        decoder_layers: Of the decoder; the encoder's layers are an even number, half of which feed
            the other half by long skips. The paper's are 6 for S/2 and 4 for XL/2; of B/2 none is
            published, and 6 is the S/2's.
        in_channels: Of the noisy latents or images.
        out_channels: 2 * in_channels where the variance is learned, as in the paper.
        sample_size: Side of the input.
        patch_size: Side of a patch.
        num_embeds_ada_norm: Number of classes, not counting the null class.
        mlp_ratio: Width of the MLPs over E.

    Raises:
        ConfigError: If layers or patches do not come out even.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        num_layers: int = 28,
        decoder_layers: int = 4,
        in_channels: int = 4,
        out_channels: int | None = 8,
        sample_size: int = 32,
        patch_size: int = 2,
        num_embeds_ada_norm: int = 1000,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        half, is_odd = divmod(num_layers - decoder_layers, 2)
        if is_odd or half < 1 or decoder_layers < 1:
            raise ConfigError(
                f'num_layers={num_layers} less decoder_layers={decoder_layers} must be an even '
                'number of encoder layers, 2 or more, and decoder_layers 1 or more'
            )
        if sample_size % patch_size:
            raise ConfigError(f'sample_size={sample_size} must be a multiple of {patch_size=}')
        self.out_channels = out_channels or in_channels
        self.grid = sample_size // patch_size
        width = num_attention_heads * attention_head_dim
        self.patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.position = nn.Parameter(torch.empty(1, self.grid**2, width))
        self.decoder_position = nn.Parameter(torch.empty(1, self.grid**2, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.frequencies = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(256, width)
        self.label = LabelEmbedding(num_embeds_ada_norm, width, dropout_prob=0.1)
        self.label.dropout_prob = 0.0  # it had to be above 0 for a null class
        self.register_buffer('relative', relative_index(self.grid), persistent=False)

        def blocks(count: int, has_skip: bool = False) -> nn.ModuleList:
            block = (num_attention_heads, self.grid, width, int(width * mlp_ratio), has_skip)
            return nn.ModuleList(MDTBlock(*block) for _ in range(count))

        self.encoder_in = blocks(half)
        self.encoder_out = blocks(half, has_skip=True)
        self.side = blocks(1)
        self.decoder = blocks(decoder_layers, has_skip=True)
        self.norm = AdaptiveNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch_size**2 * self.out_channels)
        self.gradient_checkpointing = False
        self._initialise()

    @property
    def token_segments(self) -> tuple[tuple[str, None], ...]:
        """Patches alone: there is no class token."""
        return (('patches', None),)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor,
        kept: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The noise in ``hidden_states``, and where it is learned, the variance's share.

        Args:
            hidden_states: (B, C, h, w), noisy.
            timestep: (B,), or one for all.
            class_labels: (B,) from 0; ``num_embeds_ada_norm`` for none.
            kept: (B, n) numbers of the tokens that the encoder sees, no two of a sample the same;
                None for all. From :func:`draw_kept`, once for teacher and student.
            return_dict: False gives a tuple.

        Returns:
            ``sample`` (B, out_channels, h, w).
        """
        steps = self.frequencies(torch.as_tensor(timestep, device=hidden_states.device).reshape(-1))
        c_BE = F.silu(self.time(steps.to(self.dtype)) + self.label(class_labels))
        x_BNE = self.patches(hidden_states).flatten(2).transpose(1, 2) + self.position
        embedded_BNE = x_BNE

        relative = self.relative
        if kept is not None:
            x_BNE = x_BNE.take_along_dim(kept[..., None], dim=1)
            relative = relative[kept[:, :, None], kept[:, None, :]]
        skips = []
        for block in self.encoder_in:
            x_BNE = self._run(block, x_BNE, c_BE, relative)
            skips.append(x_BNE)
        for block in self.encoder_out:
            x_BNE = self._run(block, x_BNE, c_BE, relative, skips.pop())
        if kept is not None:
            x_BNE = self._interpolate(x_BNE, c_BE, kept)
        else:
            x_BNE = x_BNE + self.decoder_position
        for block in self.decoder:
            x_BNE = self._run(block, x_BNE, c_BE, self.relative, embedded_BNE)

        x_BNE = self.head(self.norm(x_BNE, *self.modulation(c_BE).chunk(2, dim=-1)))
        sample = self._assemble(x_BNE)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _run(self, block: nn.Module, *args: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def _interpolate(self, x_BnE: Tensor, c_BE: Tensor, kept: Tensor) -> Tensor:
        """All N tokens of n: the side block's where they were left out, the encoder's elsewhere."""
        index = kept[..., None].expand_as(x_BnE)
        blank = self.mask_token.to(x_BnE.dtype).expand(len(kept), self.grid**2, -1)
        x_BNE = blank.scatter(1, index, x_BnE) + self.decoder_position
        guessed = x_BNE
        for block in self.side:
            guessed = self._run(block, guessed, c_BE, self.relative)
        is_kept = torch.zeros(x_BNE.shape[:2], dtype=torch.bool, device=kept.device)
        is_kept = is_kept.scatter(1, kept, True)
        return torch.where(is_kept[..., None], x_BNE, guessed)

    def _assemble(self, x_BNE: Tensor) -> Tensor:
        """(B, N, patch * patch * C) patches to (B, C, h, w)."""
        patch = self.patches.kernel_size
        x = x_BNE.unflatten(2, (*patch, self.out_channels)).unflatten(1, (self.grid, self.grid))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _initialise(self) -> None:
        """Blocks that pass on their input and a head that gives 0, as DiT's adaLN-Zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        position = get_2d_sincos_pos_embed(self.position.shape[-1], self.grid, base_size=self.grid)
        for parameter in (self.position, self.decoder_position):
            parameter.data.copy_(position)
        embedders = self.label.embedding_table, self.time.linear_1, self.time.linear_2
        for weight in (*(m.weight for m in embedders), self.mask_token):
            nn.init.normal_(weight, std=0.02)
        blocks = [m.modulation for m in self.modules() if isinstance(m, MDTBlock)]
        for linear in (*blocks, self.modulation, self.head):
            nn.init.zeros_(linear.weight)


class MDTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by time and class (adaLN-Zero)."""

    def __init__(self, heads: int, grid: int, width: int, hidden: int, has_skip: bool) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(width)
        self.attn = RelativeAttention(width, heads, grid)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate='tanh'), nn.Linear(hidden, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        self.merge = nn.Linear(2 * width, width) if has_skip else None

    def forward(
        self, x_BNE: Tensor, c_BE: Tensor, relative: Tensor, skip_BNE: Tensor | None = None
    ) -> Tensor:
        """Tokens after the block; see :class:`RelativeAttention` for ``relative``."""
        if self.merge is not None and skip_BNE is not None:
            x_BNE = self.merge(torch.cat([x_BNE, skip_BNE], dim=-1))
        shift_a, scale_a, gate_a, shift, scale, gate = self.modulation(c_BE).chunk(6, dim=-1)
        x_BNE = x_BNE + gate_a[:, None] * self.attn(self.norm(x_BNE, shift_a, scale_a), relative)
        return x_BNE + gate[:, None] * self.mlp(self.norm(x_BNE, shift, scale))


class AdaptiveNorm(nn.LayerNorm):
    """LayerNorm without weights of its own: scale and shift come from time and class."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x_BNE: Tensor, shift_BE: Tensor, scale_BE: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, E)"""
        return super().forward(x_BNE) * (1 + scale_BE[:, None]) + shift_BE[:, None]


class RelativeAttention(nn.Module):
    """Self-attention with a learned bias for each offset between patches and head."""

    def __init__(self, width: int, num_heads: int, grid: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty((2 * grid - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def bias(self, relative: Tensor) -> Tensor:
        """(H, N, N) of indices (N, N), or (B, H, n, n) of (B, n, n)."""
        return F.embedding(relative, self.table).movedim(-1, -3)

    def forward(self, x_BNE: Tensor, relative: Tensor) -> Tensor:
        """(B, N, E); ``relative`` are the rows of ``table`` for each query and key."""
        q, k, v = self.qkv(x_BNE).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias(relative).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))


def relative_index(grid: int) -> Tensor:
    """(N, N): which of the (2 * grid - 1)^2 offsets lies between a query and a key."""
    place = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))
    offset = place[:, None] - place[None] + grid - 1
    return offset[..., 0] * (2 * grid - 1) + offset[..., 1]


def draw_kept(
    batch: int,
    tokens: int,
    ratio: tuple[float, float] = (0.3, 0.5),
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """(B, n) numbers of the tokens that are kept: other ones in each sample, n for the batch.

    Args:
        batch: Samples B.
        tokens: Tokens N of each.
        ratio: Bounds between which the share that is left out is drawn, evenly.
        generator: Of that draw, on ``device``.
        device: Of the result.

    Raises:
        ConfigError: If the bounds are not in order and within [0, 1).
    """
    low, high = ratio
    if not 0 <= low <= high < 1:
        raise ConfigError(f'mask ratio {ratio} must be two numbers in order, from 0 to below 1')
    share = low + (high - low) * torch.rand((), generator=generator, device=device).item()
    order = torch.rand(batch, tokens, generator=generator, device=device).argsort(dim=1)
    return order[:, : max(1, int(tokens * (1 - share)))]
