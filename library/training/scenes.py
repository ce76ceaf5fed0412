"""The inputs of a step: pictures, noise, noise levels and prompts, all determined by the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from library.chance import generator_for
from library.config.settings import NoiseSettings
from library.data.latents import Latents
from library.data.pictures import PictureOrder
from library.data.texts import TextLibrary
from library.dual_branch_scheduler import Scene
from library.flow import draw_sigma
from library.models.interface import PromptBatch
from library.predictions import BASE, CLASS, COMPLETE, NULL, REPLAY, REPLAY_COMPLETE, REPLAYED, TARGET
from library.prepare.replay import Replay
from library.prompts import NULL_PROMPT, PromptTriple
from library.training.processes import ALONE, Processes

IN_CONTEXT = frozenset({COMPLETE, BASE})
"""The prompts of a reference picture that describe what is in it."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the scenes of a run are drawn from, in every stage.

    Args:
        replay: the pretrained model's own pictures, if any.
        processes: each draws every scene in full and takes its share of the rows, so that the shares fit together.
        without_encoders: how often a picture is seen without each text encoder; empty: never.
        in_context: adds the places of context vectors to the prompts of reference pictures, given a batch, its texts
            and the rows that show the concept.
    """

    seed: int
    noise: NoiseSettings
    order: PictureOrder
    latents: Latents
    texts: TextLibrary
    replay: Replay | None = None
    processes: Processes = ALONE
    without_encoders: Sequence[float] = ()
    in_context: Callable[[PromptBatch, Sequence[str], Sequence[bool]], PromptBatch] | None = None


class SceneMaker:
    """Makes the scenes of a stage.

    Args:
        stage: its name, so that the stages don't see the same noise.
        wanted: which prompts the stage's predictions read.
    """

    def __init__(self, stage: str, wanted: Iterable[str], sources: Sources) -> None:
        self.stage = stage
        self.wanted = frozenset(wanted)
        self.seed = sources.seed
        self.noise = sources.noise
        self.processes = sources.processes
        self.order = sources.order
        self.latents = sources.latents
        self.texts = sources.texts
        self._replay = sources.replay
        self.in_context = sources.in_context
        self._rates = torch.tensor(sources.without_encoders)

    def rows(self, number: int) -> int:
        """How many pictures batch `number` has, across all processes."""
        return len(self.order.batch(number))

    def reference(self, number: int) -> Scene:
        """The user's pictures of batch `number`."""
        draws = self.order.batch(number)
        generator = generator_for(self.seed, self.stage, number)
        image = torch.stack([self.latents.draw(draw, generator) for draw in draws])
        concepts = [draw.picture.concept.name for draw in draws]
        texts = {name: [_text_of(draw.prompts, name) for draw in draws] for name in self.wanted - REPLAYED}
        prompts = {
            name: PromptBatch.of([self.texts[text] for text in of_row], concepts) for name, of_row in texts.items()
        }
        shows = torch.tensor([draw.prompts.complete != draw.prompts.base for draw in draws])
        if self.in_context:
            prompts |= {
                name: self.in_context(prompts[name], texts[name], shows.tolist()) for name in IN_CONTEXT & self.wanted
            }
        prompts = self._with_some_encoders(prompts, "reference", number)
        scene = self._scene(image, prompts, generator)
        anchored = torch.tensor(
            [draw.picture.concept.kind == "subject" or draw.picture.subset.is_reg for draw in draws]
        )
        scene = replace(
            scene,
            emphasis=self.latents.emphasis(draws),
            shows_concept=None if shows.all() else shows,
            anchored=None if anchored.all() else anchored,
        )
        return scene.part(self.processes.share(len(draws)))

    def shown(self, number: int) -> list[str]:
        """The picture files of batch `number`."""
        return [str(draw.picture.path) for draw in self.order.batch(number)]

    def replay(self, number: int) -> Scene | None:
        """The same number of the pretrained model's own pictures, or None if the stage uses none."""
        if self._replay is None or not self.wanted & REPLAYED:
            return None
        draws = self.order.batch(number)
        generator = generator_for(self.seed, self.stage, "replay", number)
        chosen = torch.randint(len(self._replay.latents), (len(draws),), generator=generator)
        concepts = [self._replay.concepts[row] for row in chosen]
        texts = {name: [_text_of(self._replay.triples[row], name) for row in chosen] for name in self.wanted & REPLAYED}
        prompts = {
            name: PromptBatch.of([self.texts[text] for text in of_row], concepts) for name, of_row in texts.items()
        }
        prompts = self._with_some_encoders(prompts, REPLAY, number)
        scene = self._scene(self._replay.latents[chosen], prompts, generator)
        if self._replay.regions is not None:
            scene = replace(scene, region=self._replay.regions[chosen])
        return scene.part(self.processes.share(len(draws)))

    def _with_some_encoders(self, prompts: dict[str, PromptBatch], which: str, number: int) -> dict[str, PromptBatch]:
        """Drops the same randomly drawn encoders from all prompts of a picture, so that no difference mixes them."""
        if not self._rates.any():
            return prompts
        count = len(next(iter(prompts.values())).concepts)
        generator = generator_for(self.seed, self.stage, "encoder dropout", which, number)
        dropped = torch.rand(count, len(self._rates), generator=generator) < self._rates
        return {name: self.texts.model.without_encoders(batch, dropped) for name, batch in prompts.items()}

    def _scene(self, image: Tensor, prompts: dict[str, PromptBatch], generator: torch.Generator) -> Scene:
        noise, levels = torch.randn(image.shape, generator=generator), self.noise
        sigma = draw_sigma(
            len(image),
            levels.weighting_scheme,
            generator,
            logit_mean=levels.logit_mean,
            logit_std=levels.logit_std,
            mode_scale=levels.mode_scale,
            shift=levels.training_shift,
            least=levels.min_timestep / 1000,
            most=levels.max_timestep / 1000,
        )
        return Scene(image, noise, sigma, prompts)


def _text_of(prompts: PromptTriple, name: str) -> str:
    """The text of a prompt, by the name that predictions use."""
    texts = {
        COMPLETE: prompts.complete,
        BASE: prompts.base,
        TARGET: prompts.target,
        CLASS: prompts.class_only,
        NULL: NULL_PROMPT,
        REPLAY: prompts.base,
        REPLAY_COMPLETE: prompts.complete,
    }
    return texts[name]
