"""The part of the position table that the current picture sizes need.

SD 3.5 Medium's table has a vector for each of 384 x 384 places, 0.42 GiB in 16 bits; a picture uses the middle of it,
64 x 64 places at 1024 x 1024 pixels. The table stays on the CPU. Its middle goes to the device and grows with the
largest picture seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.models.embeddings import PatchEmbed


class PositionTable:
    """Replaces `cropped_pos_embed` of a diffusers `PatchEmbed`, with the same values.

    Args:
        embed: the patch embedding; its own table shrinks.
        device: where the crops go.
    """

    def __init__(self, embed: PatchEmbed, device: torch.device) -> None:
        self._embed: Any = embed  # its buffers and methods get other values here than in diffusers
        self._device = device
        self._side = int(embed.pos_embed_max_size)
        assert embed.pos_embed is not None, "SD3 has a table"
        self._table: Tensor = embed.pos_embed.reshape(1, self._side, self._side, -1)
        self._set(1)
        embed.cropped_pos_embed = self.crop  # type: ignore[method-assign]  # replaced on purpose

    def crop(self, height: int, width: int) -> Tensor:
        """The vectors of a picture's places, (1, places, width of the model).

        Args:
            height, width: of the latents.
        """
        rows, columns = height // self._embed.patch_size, width // self._embed.patch_size
        if max(rows, columns) > self._held:
            self._set(max(rows, columns))
        top, left = (self._held - rows) // 2, (self._held - columns) // 2
        middle: Tensor = self._embed.pos_embed.reshape(1, self._held, self._held, -1)
        return middle[:, top : top + rows, left : left + columns].reshape(1, rows * columns, -1)

    def _set(self, side: int) -> None:
        """Keeps the middle `side` x `side` places, or one more, so that the margin is the same on both sides."""
        margin = (self._side - side) // 2
        self._held = self._side - 2 * margin
        end = margin + self._held
        middle = self._table[:, margin:end, margin:end].reshape(1, self._held**2, -1)
        self._embed.pos_embed = middle.contiguous().clone().to(self._device)
