"""Puts concept vectors into the text stream of SD3's blocks while a conditioning is sampled.

The vectors are attached to the conditioning by a ComfyUI hook: conditionings with different hooks run separately. The
hook brings a wrapper of the model call. Only there, when ComfyUI has put all options together, are the blocks' patches
set, each around whatever patch is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.hooks
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .concept_file import LoadedConcept
from .trigger_positions import TriggerToken

KEY = "purecc"
SAME = 1e-2
"""Relative distance up to which a context's states are taken for the prompt's own; they are copies, at most rounded."""


@dataclass(frozen=True, eq=False)
class Placement:
    """One concept's vectors in one prompt."""

    positions: Tensor
    """(n,) indices in the context."""
    vectors: Tensor
    """(blocks or 1, n, width), float32."""
    strengths: Tensor
    """(n, 1): 1 is the vector itself, 0 the prompt's own state, between them a mixture."""
    _copies: dict = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: Sequence[TriggerToken], concept: LoadedConcept) -> Placement:
        """Places a concept's vectors at tokens of a prompt, of which there must be at least one."""
        return cls(
            torch.tensor([token.position for token in tokens]),
            concept.vectors[:, [token.vector for token in tokens]],
            torch.tensor([[token.weight * concept.strength] for token in tokens]),
        )

    def like(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, vectors and strengths on a tensor's device and in its precision."""
        key = (text.device, text.dtype)
        if key not in self._copies:
            self._copies[key] = (self.positions.to(text.device), self.vectors.to(text), self.strengths.to(text))
        return self._copies[key]


class ConceptInjection:
    """A wrapper of the model call that replaces states of the text stream, in the rows of one prompt.

    Hooks alone don't tell a prompt's rows: where a region is given, ComfyUI copies the positive's hooks to the
    negative, and ConditioningZeroOut keeps them. So rows are known by their states at the trigger.

    Args:
        placements: of each concept in the prompt.
        context: (1, tokens, any width), the prompt as the text encoders gave it.
    """

    def __init__(self, placements: Sequence[Placement], context: Tensor) -> None:
        self.placements = tuple(placements)
        self.positions = torch.cat([placement.positions for placement in placements])
        self.states = context[:, self.positions.to(context.device)].float().flatten(1).cpu()

    def __call__(
        self,
        executor: Callable,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Tensor:
        blocks = getattr(executor.class_obj.diffusion_model, "joint_blocks", None)
        if blocks is None:
            raise ValueError(
                "Prompts with PureCC concepts only work with SD 3.5. Connect the model they were trained on."
            )
        options = self.with_patches(transformer_options or {}, c_crossattn, len(blocks))
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def with_patches(self, transformer_options: dict, context: Tensor, blocks: int) -> dict:
        """The options of a model call with a patch in each block that gets vectors; the given ones don't change.

        Args:
            context: (rows, tokens, any width) as it comes from the text encoders.

        Raises:
            ValueError: the model has a different number of blocks from the one that the vectors were made for.
        """
        for placement in self.placements:
            if len(placement.vectors) not in (1, blocks):
                raise ValueError(
                    f"The concept has vectors for {len(placement.vectors)} blocks, but the model has {blocks} blocks. "
                    "It was trained on another model."
                )
        rows = self.own_rows(context)
        if rows is None:
            return transformer_options
        patched = dict(transformer_options)
        replaced = dict(patched.get("patches_replace", {}))
        slots = dict(replaced.get("dit", {}))
        for block in range(max(len(placement.vectors) for placement in self.placements)):
            slot = ("double_block", block)
            slots[slot] = self._patch(block, rows, slots.get(slot))
        patched["patches_replace"] = {**replaced, "dit": slots}
        return patched

    def own_rows(self, context: Tensor) -> Tensor | None:
        """(rows,) of 0 and 1: which rows of a context (rows, tokens, width) are of the prompt; None: it can't be."""
        own = self.states.to(context.device)
        if context.shape[1] <= int(self.positions.max()) or context.shape[2] * len(self.positions) != own.shape[1]:
            return None
        states = context[:, self.positions.to(context.device)].float().flatten(1)
        return ((states - own).norm(dim=1) <= SAME * own.norm()).float()

    def _patch(self, block: int, rows: Tensor, earlier: Callable | None) -> Callable:
        def patch(args: dict, extra: dict) -> dict:
            args = {**args, "txt": self._replaced(args["txt"], block, rows)}
            return earlier(args, extra) if earlier else extra["original_block"](args)

        return patch

    def _replaced(self, text: Tensor, block: int, rows: Tensor) -> Tensor:
        """The text stream (rows, tokens, width) with the block's vectors, in a tensor of its own."""
        text = text.clone()
        for placement in self.placements:
            if block >= len(placement.vectors):
                continue
            positions, vectors, strengths = placement.like(text)
            if vectors.shape[-1] != text.shape[-1]:
                raise ValueError(
                    f"The concept's vectors have width {vectors.shape[-1]}, but the model's text stream has width "
                    f"{text.shape[-1]}. It was trained on another model."
                )
            own = text[:, positions]
            text[:, positions] = torch.lerp(
                own, vectors[block].expand_as(own), strengths * rows.to(text)[:, None, None]
            )
        return text


def bind(conditioning: list, placements: Sequence[Placement]) -> list:
    """The conditioning with its concept vectors; unchanged if there are none."""
    if not placements:
        return conditioning
    bound = []
    for entry in conditioning:
        wrappers = {"wrappers": {WrappersMP.APPLY_MODEL: {KEY: [ConceptInjection(placements, entry[0])]}}}
        group = comfy.hooks.HookGroup()
        group.add(comfy.hooks.TransformerOptionsHook(wrappers, hook_scope=comfy.hooks.EnumHookScope.HookedOnly))
        bound += comfy.hooks.set_hooks_for_conditioning([entry], group)
    return bound
