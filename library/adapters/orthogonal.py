"""A LoRA whose directions start orthogonal, with its start subtracted: T-LoRA's Ortho-LoRA."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from library.adapters.linear import NOTHING_DROPPED, Dropout, Facts, Gate, Layer, LowRank, add_gradient, shape_of
from library.errors import ConfigError


class OrthogonalLowRank(LowRank):
    """A LoRA with orthonormal directions: x -> scale * (up S down - its start)(x)   (T-LoRA's Ortho-LoRA).

    Directions and sizes start as the last singular vectors and values of a random matrix. All three learn. Their start
    is subtracted, so that a fresh adapter changes nothing. A plain LoRA starts with `up` = 0 and uses few of its
    ranks; here no rank repeats another.

    Args:
        generator: draws both directions, on the CPU.

    Raises:
        ConfigError: the layer is too small for that many directions.
    """

    first_down: Tensor
    first_up: Tensor
    first_sizes: Tensor
    sizes: nn.Parameter

    def __init__(
        self,
        base: Layer,
        rank: int,
        alpha: float,
        dropout: Dropout = NOTHING_DROPPED,
        generator: torch.Generator | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(base, rank, alpha, dropout, generator, gate)
        outputs, inputs = shape_of(base)
        if rank > min(outputs, inputs):
            raise ConfigError(
                f"network_dim is {rank}, but a layer of {outputs} x {inputs} has no {rank} orthogonal directions.",
                f"Set network_dim to {min(outputs, inputs)} or less.",
            )
        # Singular vectors of a Gaussian matrix are random directions, independent of its singular values, so QR draws
        # them as its SVD would. The values hardly differ from draw to draw.
        up, down = (torch.linalg.qr(torch.randn(many, rank, generator=generator))[0] for many in (outputs, inputs))
        begun = {"down": down.T.contiguous(), "up": up, "sizes": smallest_singular_values(outputs, inputs, rank)}
        for name, half in begun.items():
            there = half.to(base.weight.device)
            setattr(self, name, nn.Parameter(there.clone()))
            self.register_buffer(f"first_{name}", there.clone())

    def forward(self, x: Tensor, thinned: bool = False, facts: Facts | None = None) -> Tensor:
        """(..., in) -> (..., out), in the precision of x; see `LowRank.forward`."""
        down = torch.cat([self.down, self.first_down]).to(x.dtype)
        now, begun = nn.functional.linear(x, down).chunk(2, dim=-1)
        share = self._kept(torch.ones_like(now), thinned, facts)
        low = torch.cat([now * share * self.sizes.to(x.dtype), -begun * share * self.first_sizes.to(x.dtype)], dim=-1)
        return nn.functional.linear(low, torch.cat([self.up, self.first_up], dim=1).to(x.dtype)) * self.scale

    def change(self) -> Tensor:
        """The update of the layer's weight, (out, in), where all of it acts."""
        return self.scale * (self.up * self.sizes @ self.down - self.first_up * self.first_sizes @ self.first_down)

    @torch.no_grad()
    def as_plain(self) -> tuple[Tensor, Tensor, float]:
        """A plain LoRA of twice the rank: the adapter minus its start.

        Both are much longer than their difference, which a file in half precision would round away. So the file holds
        the difference's own singular directions, up to as many as the layer has.
        """
        up = torch.cat([self.up * self.sizes, -self.first_up * self.first_sizes], dim=1)
        (left, small_up), (right, small_down) = map(
            torch.linalg.qr, (up.double(), torch.cat([self.down, self.first_down]).double().T)
        )
        u, lengths, vh = torch.linalg.svd(small_up @ small_down.T, full_matrices=False)
        roots = lengths.sqrt()
        return (
            (roots.unsqueeze(1) * vh @ right.T).float(),
            (left @ u * roots).float(),
            self.alpha * len(roots) / self.rank,
        )

    @torch.no_grad()
    def norm(self) -> Tensor:
        """||change||_F, (), float32."""
        return self.change().float().norm()

    @torch.no_grad()
    def add_gradient_of(self, gradient: Tensor) -> None:
        """Passes a gradient of `change`, (out, in), on to the gradients of directions and sizes."""
        gradient, sizes = self.scale * gradient.float(), self.sizes.float()
        from_down, from_up = gradient @ self.down.float().T, self.up.float().T @ gradient
        add_gradient(self.up, from_down * sizes)
        add_gradient(self.down, sizes.unsqueeze(1) * from_up)
        add_gradient(self.sizes, (self.up.float() * from_down).sum(0))


@lru_cache
def smallest_singular_values(outputs: int, inputs: int, count: int) -> Tensor:
    """The last singular values of a matrix of normal numbers with standard deviation 1 / count, largest first."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.svdvals(torch.randn(outputs, inputs, generator=generator) / count)[-count:]
