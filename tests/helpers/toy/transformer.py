"""The toy's transformer and its text encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HEADS = 2


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Multi-head attention of (B, tokens, width)."""
    heads = [one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in (query, key, value)]
    return nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


class DoubleBlock(nn.Module):
    """Text and picture attend to each other, each with its own weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            setattr(self, name, nn.Linear(width, width))
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.ff, self.ff_text = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, picture: Tensor, text: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        rows, own, other = text.shape[1], picture + time, text + time
        query = torch.cat([self.add_q_proj(other), self.to_q(own)], dim=1)
        key = torch.cat([self.add_k_proj(other), self.to_k(own)], dim=1)
        value = torch.cat([self.add_v_proj(other), self.to_v(own)], dim=1)
        mixed = attended(query, key, value)
        picture, text = picture + self.to_out(mixed[:, rows:]), text + self.to_add_out(mixed[:, :rows])
        return picture + self.ff(picture).tanh(), text + self.ff_text(text).tanh()


class SingleBlock(nn.Module):
    """One stream: the text's rows, then the picture's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("to_q", "to_k", "to_v"):
            setattr(self, name, nn.Linear(width, width))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, stream: Tensor, time: Tensor) -> Tensor:
        own = stream + time
        return stream + self.to_out(attended(self.to_q(own), self.to_k(own), self.to_v(own)))


class ToyTransformer(nn.Module):
    """Predicts the velocity of latents (B, channels, h, w); every position of them is a token."""

    def __init__(self, double: int, single: int, width: int, text_width: int, channels: int, **_: Any) -> None:
        super().__init__()
        self.picture_in, self.text_in = nn.Linear(channels + 2, width), nn.Linear(text_width, width)
        self.time_in, self.out = nn.Linear(1, width), nn.Linear(width, channels)
        self.double_blocks = nn.ModuleList(DoubleBlock(width) for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock(width) for _ in range(single))
        self.run: Callable[..., Any] = lambda block, *given: block(*given)

    def forward(self, x_t: Tensor, sigma: Tensor, text: Tensor, skipped: tuple[int, ...]) -> Tensor:
        batch, _, height, width = x_t.shape
        places = torch.meshgrid(
            *(torch.linspace(-1, 1, side, device=x_t.device, dtype=x_t.dtype) for side in (height, width)),
            indexing="ij",
        )
        marked = torch.cat([x_t, torch.stack(places).expand(batch, -1, -1, -1)], dim=1)
        picture, text = self.picture_in(marked.flatten(2).transpose(1, 2)), self.text_in(text)
        time = self.time_in(sigma.to(x_t.dtype)[:, None, None])
        for number, block in enumerate(self.double_blocks):
            if number not in skipped:
                picture, text = self.run(block, picture, text, time)
        stream = torch.cat([text, picture], dim=1)
        for number, block in enumerate(self.single_blocks, len(self.double_blocks)):
            if number not in skipped:
                stream = self.run(block, stream, time)
        made = self.out(stream[:, text.shape[1] :])
        return made.transpose(1, 2).unflatten(2, (height, width))


class ToyTextEncoder(nn.Module):
    """Turns tokens (texts, tokens) into states (texts, tokens, width); each depends on those before it."""

    def __init__(self, vocabulary: int, width: int, **_: Any) -> None:
        super().__init__()
        self.table, self.mixed = nn.Embedding(vocabulary, width), nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.table(ids)
        counts = torch.arange(1, ids.shape[1] + 1, device=states.device, dtype=states.dtype)[:, None]
        return states + self.mixed(states.cumsum(1) / counts).tanh()
