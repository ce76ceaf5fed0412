"""How the one frozen base is kept in memory: in how many bits, and which blocks are swapped or recomputed.

All branches share these weights, so every choice here applies to both predictions of a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from library.config.model_settings import ModelSettings
from library.errors import ModelError
from library.models.memory.live_memory import held_by
from library.models.memory.quantised import Quantization, quantise
from library.models.memory.swap import BlockSwap
from library.transfer import moved

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

ALWAYS_RESIDENT = 2
"""Blocks at the end of the transformer that are never swapped."""
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


@dataclass(frozen=True)
class Residence:
    """How the base should be kept.

    Args:
        quantization: of the linear layers inside the blocks.
        blocks_to_swap: number of blocks, counted from the first, that live in the computer's memory.
        recomputed: number of blocks, counted from the first, that the backward pass recomputes; None: all.
        xformers: use xformers for attention; if it can't work, PyTorch's own attention.
        sdpa: whether PyTorch's own attention may replace it.
        sdpa_backend: the preferred kernel of PyTorch's own attention, or "auto".
        compiled: compile feed-forward layers with torch.compile.
        vae_tiling: decode pictures in tiles.
        offloaded: keep the inputs of recomputed blocks in the computer's memory.
    """

    quantization: Quantization = "none"
    blocks_to_swap: int = 0
    recomputed: int | None = None
    xformers: bool = False
    sdpa: bool = True
    sdpa_backend: str = "auto"
    compiled: bool = False
    vae_tiling: bool = False
    offloaded: bool = False

    @classmethod
    def of(cls, settings: ModelSettings) -> Residence:
        """As the settings say. "auto" and "all" mean all blocks, until the forecast recomputes fewer for "auto"."""
        blocks = settings.checkpointed_blocks
        return cls(
            quantization=settings.quantization,
            blocks_to_swap=settings.blocks_to_swap,
            recomputed=(blocks if isinstance(blocks, int) else None) if settings.gradient_checkpointing else 0,
            xformers=settings.xformers,
            sdpa=settings.sdpa,
            sdpa_backend=settings.sdpa_backend,
            compiled=settings.torch_compile,
            vae_tiling=settings.vae_tiling,
            offloaded=settings.cpu_offload_checkpointing,
        )


class ResidentBase:
    """A diffusers transformer on the device where it computes.

    Args:
        transformer: frozen, on the CPU or on the meta device.
        blocks: its blocks, in the order in which they run.
        device: where it computes.
        feed_forward: names of the parts of a block that may be compiled: adapters and concept vectors don't
            change them.

    Attributes:
        weights: for each block, the tensors that are swapped.

    Raises:
        ModelError: more blocks to swap than can be swapped, or nf4 without bitsandbytes.
    """

    def __init__(
        self,
        transformer: nn.Module,
        blocks: Sequence[nn.Module],
        device: torch.device,
        residence: Residence,
        feed_forward: Collection[str] = (),
    ) -> None:
        self.transformer = transformer
        self.device = device
        self.residence = residence
        self.blocks = list(blocks)
        self.feed_forward = frozenset(feed_forward)
        self.notices: list[str] = []
        self.swap: BlockSwap | None = None
        self.swapped = self.bytes_offloaded = 0
        self._check_swap(residence.blocks_to_swap)
        if residence.quantization != "none":
            for block in self.blocks:
                quantise(block, residence.quantization, device)
        self.weights = [held_by(block) for block in self.blocks]
        self.swap_blocks(residence.blocks_to_swap)
        moved(transformer, device)
        self.recompute(residence.recomputed)
        self._backend = self._choose_attention()
        if residence.compiled:
            self._compile()

    # Memory

    @property
    def held(self) -> list[torch.Tensor]:
        """What stays on the device: the transformer's tensors, and both places for swapped blocks."""
        places = [] if self.swap is None else self.swap.places
        return [*places, *held_by(self.transformer)]

    def swap_blocks(self, count: int) -> None:
        """Moves the first `count` blocks to the computer's memory, from now on. Works only once."""
        self._check_swap(count)
        if count:
            self.swap = BlockSwap(self.blocks[:count], self.weights[:count], self.device)
            self.swapped = count

    def recompute(self, count: int | None) -> None:
        """Recomputes the first `count` blocks in the backward pass; None: all. Swapped blocks are always recomputed."""
        count = len(self.blocks) if count is None else count
        self.recomputed = frozenset(self.blocks[: max(count, self.swapped)])

    def offloading(self) -> AbstractContextManager[Any]:
        """Inside, what the backward pass needs is kept in the computer's memory, if `offloaded` is set."""
        if not self.residence.offloaded:
            return nullcontext()
        if self.device.type == "meta":
            return torch.autograd.graph.saved_tensors_hooks(self._count_away, self._count_back)
        return torch.autograd.graph.save_on_cpu(pin_memory=self.device.type == "cuda")

    def _count_away(self, tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
        self.bytes_offloaded += tensor.nbytes
        return tensor.shape, tensor.dtype

    def _count_back(self, kept: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
        back = torch.empty(kept[0], dtype=kept[1], device=self.device)
        self.bytes_offloaded += back.nbytes
        return back

    def _check_swap(self, count: int) -> None:
        most = max(0, len(self.blocks) - ALWAYS_RESIDENT)
        if count > most:
            raise ModelError(
                f"blocks_to_swap is {count}; of this model's {len(self.blocks)} blocks, {most} can be swapped.",
                f"Set blocks_to_swap = {most} or fewer.",
            )

    # Speed

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Inside, attention uses the chosen kernel; other kernels remain allowed for what it can't do."""
        if self._backend is None:
            yield
            return
        others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        ranked = [self._backend, *(one for one in others if one is not self._backend)]
        with sdpa_kernel(ranked, set_priority=True):
            yield

    def contexts_with(self, kept: Callable[[], Contexts]) -> Callable[[], Contexts]:
        """`context_fn` for `torch.utils.checkpoint`: `kept`'s contexts, and the same attention when it recomputes."""

        @contextmanager
        def both(again: AbstractContextManager[None]) -> Iterator[None]:
            with again, self.attending():
                yield

        def contexts() -> Contexts:
            first, again = kept()
            return first, again if self._backend is None else both(again)

        return contexts

    def _choose_attention(self) -> SDPBackend | None:
        wanted = self.residence
        if wanted.xformers:
            try:
                cast("ModelMixin", self.transformer).enable_xformers_memory_efficient_attention()
                return None
            except Exception as error:  # xformers raises many kinds of errors; each means that it can't work
                reason = str(error).strip().splitlines()[0]
                if not wanted.sdpa:
                    raise ModelError(
                        f"xformers can't be used ({reason}), and sdpa = false forbids PyTorch's own attention.",
                        "Set sdpa = true.",
                    ) from error
                self.notices.append(f"xformers can't be used ({reason}); PyTorch's own attention is used.")
        if wanted.sdpa_backend == "auto":
            return None
        if not _can_attend(BACKENDS[wanted.sdpa_backend], self.device):
            self.notices.append(
                f'sdpa_backend "{wanted.sdpa_backend}" can\'t be used on this device; PyTorch chooses one '
                "automatically."
            )
            return None
        return BACKENDS[wanted.sdpa_backend]

    def _compile(self) -> None:
        """Compiles only the feed-forward layers: adapters and concept vectors change the others."""
        try:
            with torch.no_grad():
                torch.compile(_gelu_twice)(torch.ones(8, device=self.device))
        except Exception as error:  # no compiler, no Triton, an unsupported Python: each raises its own error
            reason = str(error).strip().splitlines()[0]
            self.notices.append(f"torch_compile can't be used ({reason}); the run continues without it.")
            return
        for block in self.blocks:
            for name, part in block.named_children():
                if name in self.feed_forward:
                    part.compile()


def _gelu_twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * nn.functional.gelu(x)


def _can_attend(backend: SDPBackend, device: torch.device) -> bool:
    """Whether a kernel supports this model's kind of attention; tries it on a small input."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    query = torch.zeros(1, 1, 64, 64, device=device, dtype=dtype)
    try:
        with sdpa_kernel(backend):
            nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError:
        return False
    return True
