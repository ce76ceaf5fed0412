"""After saving, every LoRA file is read back by the rules of the UIs, and must do what the student does.

Two measures. The update of every layer, by the UI's rules, against the student's own: exact but for the precision of
the file. And the velocity of a pass with these updates against a pass with the student's adapters, its concept
embeddings aside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.adapters.uis.apply import factors, length, patched, read_file
from library.adapters.uis.loaders import UiReading
from library.chance import generator_for
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.models.interface import PromptBatch
from library.parts.branching import is_saved_as_it_is
from library.parts.parts import SAVED_ADAPTER, STUDENT_ADAPTER, Attached

MOST_PATCHES = 16
"""Most patches along a side of the picture that velocities are compared on: it is small, because nobody looks at it."""
SIGMA = 0.7
UPDATE_MARGIN = 0.01
"""How far a layer's update may be off, relative to it: rounding both matrices to bf16 costs at most 0.004."""
LEAST_UPDATE = 1e-3
"""Updates smaller than this share of the largest one are compared with that: they drown in the file's precision."""
EFFECT_MARGIN = 0.05
"""How far the velocity may be off, as a share of what the LoRA changes."""
NOISE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""How far two ways to compute one velocity may be apart in each precision, as a share of it."""

PRECISIONS = {torch.float32: "float32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Checked:
    """The result for one file.

    Args:
        uis: those that load it whole.
        failed: UIs that it was written for but that don't, with the reason.
        matched, keys: of the UI that uses most.
        difference, effect: of the velocity: from the student's, and from the student's to the pretrained model's.
        precision: in which velocities were computed.
    """

    path: Path
    uis: tuple[str, ...]
    failed: Mapping[str, str]
    matched: int
    keys: int
    difference: float
    effect: float
    precision: torch.dtype

    @property
    def line(self) -> str:
        """One line for the user."""
        uis = ", ".join(self.uis) or "no UI"
        text = (
            f"{self.path.name}: loads in {uis}; {self.matched} of {self.keys} keys; velocity differs by at most "
            f"{self.difference:.1e}, while the LoRA changes it by {self.effect:.1e}"
        )
        if not self.failed:
            if self.difference <= EFFECT_MARGIN * self.effect:
                return text
            return (
                f"{text}. Its weights are the student's; the difference is the rounding of "
                f"{PRECISIONS[self.precision]}."
            )
        failures = "; ".join(f"{ui}: {why}" for ui, why in self.failed.items())
        return f"WARNING: {text}. It should also load in {', '.join(self.failed)} ({failures}). The file is kept."


class ReloadCheck:
    """Reads the student's LoRA files back. Takes two passes, and one more per file.

    Args:
        parts: with the student on the network.
        prompt: a prepared text.
    """

    @torch.no_grad()
    def __init__(self, parts: Attached, prompt: str) -> None:
        self.parts = parts
        self.loaders = parts.model.family.loaders
        self.shape = self.loaders.shape_of(parts.model.transformer)
        saved = STUDENT_ADAPTER if is_saved_as_it_is(parts.settings) else SAVED_ADAPTER
        weights = parts.network.weights(saved)
        self.updates = {layer: (one.up * (one.alpha / one.rank), one.down) for layer, one in weights.items()}
        self.largest = max(length(*one) for one in self.updates.values())
        side = min(parts.model.size_multiple * MOST_PATCHES, parts.model.most_pixels)
        generator = generator_for(parts.settings.optimizer.seed, "reload")
        self._x_t = torch.randn(1, *parts.model.latent_shape(side, side), generator=generator)
        self._prompts = [PromptBatch.of([parts.texts[prompt]], [None])]
        self.expected = self._velocity(Branch({}, {}, default=saved))
        self.before = self._velocity(PRETRAINED_BRANCH)

    @torch.no_grad()
    def of(self, path: Path, layout: str) -> Checked:
        """Reads one file by the rules of every UI.

        Args:
            layout: what it was saved in.
        """
        file, metadata = read_file(path)
        readings = self.loaders.readings(file, metadata, self.shape)
        failures: dict[str, str | None] = {}
        passes: list[tuple[UiReading, str | None, float]] = []
        for ui, reading in readings.items():
            failures[ui] = self._left(reading)
            if failures[ui] is None:
                known = next((one for one in passes if one[0].patches == reading.patches), None)
                if known is None:
                    known = (reading, *self._compared(reading, file))
                    passes.append(known)
                failures[ui] = known[1]
        promised = (*self.loaders.promised[layout], *self.loaders.also(layout, self.shape))
        return Checked(
            path=path,
            uis=tuple(ui for ui, failure in failures.items() if failure is None),
            failed={ui: failure for ui in promised if (failure := failures[ui])},
            matched=max((len(reading.matched) for reading in readings.values()), default=0),
            keys=len(file),
            difference=max((difference for _, _, difference in passes), default=math.nan),
            effect=float((self.expected - self.before).abs().max()),
            precision=self.parts.model.dtype,
        )

    def _velocity(self, branch: Branch) -> Tensor:
        return self.parts.velocity(branch, self._x_t, torch.tensor([SIGMA]), self._prompts)

    def _left(self, reading: UiReading) -> str | None:
        """Why a UI does not load the whole file; None if it does."""
        if reading.refused:
            return reading.refused
        if reading.unmatched:
            return f"{len(reading.unmatched)} unknown keys, such as {reading.unmatched[0]}"
        missing = sorted(set(self.updates) - set(reading.patches))
        return f"{len(missing)} unchanged layers, such as {missing[0]}" if missing else None

    def _compared(self, reading: UiReading, file: Mapping[str, Tensor]) -> tuple[str | None, float]:
        """Why a UI's updates are not the student's, None if they are; and the largest difference of the velocity."""
        with patched(self.parts.model.transformer, reading, file):
            found = self._velocity(PRETRAINED_BRANCH)
        difference = float((found - self.expected).abs().max())
        for layer, patches in reading.patches.items():
            up, down = factors(patches, file)
            meant_up, meant_down = self.updates.get(layer, (up[:, :0], down[:0]))
            wrong = length(torch.cat([up, -meant_up], dim=1), torch.cat([down, meant_down]))
            size = max(length(meant_up, meant_down), LEAST_UPDATE * self.largest)
            if not wrong <= UPDATE_MARGIN * size:
                return f"the update of {layer} differs by {wrong:.1e}; its length is {size:.1e}", difference
        wrong, effect = float((found - self.expected).norm()), float((self.expected - self.before).norm())
        if not wrong <= EFFECT_MARGIN * effect + NOISE[self.parts.model.dtype] * float(self.expected.norm()):
            return f"its velocity differs by {wrong:.1e}, while the LoRA changes it by {effect:.1e}", difference
        return None, difference
