"""What the bench teaches: three subjects and a style of the pocket world, and what is asked for afterwards.

The reference pictures of a subject share a background, an hour, a place and a style that no caption needs to name. That
is the trap: whatever of it comes along when something else is asked for was learned by mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from library.config.files import to_toml
from library.files.atomic import write_text, written
from tools.pocket.captions import caption
from tools.pocket.concepts import SUBJECT, style_scenes, subject_scenes
from tools.pocket.creature import Creature
from tools.pocket.pen import SIDE
from tools.pocket.scenery import BACKGROUNDS
from tools.pocket.styles import STYLES, UNSEEN_STYLE
from tools.pocket.world import OBJECTS, PLACES, TIMES, Scene, draw, random_scene

TRIGGER = {"subject": "sks", "style": "zwx"}
CLASS_WORD = {"subject": "creature", "style": "style"}
TARGET = {"subject": "a [V] creature", "style": "in [V] style"}
SAID = {
    "poor": {"subject": set(), "style": set()},
    "partial": {"subject": {"background"}, "style": {"colour", "background", "time"}},
    "full": {
        "subject": {"size", "place", "background", "time", "style"},
        "style": {"size", "colour", "place", "background", "time"},
    },
}
"""What the captions of the reference pictures name, besides the object and [V]."""
PROBES = 24
"""Prompts of each sort."""
CONTEXT = {"background": tuple(BACKGROUNDS), "time": TIMES, "place": tuple(PLACES), "style": tuple(STYLES)}
MENTIONED = 0.6
"""Chance of hour, place and style to be asked for with a subject; the background always is."""

Sort = Literal["concept", "class", "unrelated"]


@dataclass(frozen=True)
class Probe:
    """A prompt of the bench.

    Attributes:
        text: as it is given to the student.
        base: the same without the concept, for the pretrained model.
        asked: attributes of the scene that the text names.
        seed: of the noise, the same for every model.
    """

    sort: Sort
    text: str
    base: str
    asked: dict[str, str]
    seed: int


@dataclass(frozen=True)
class BenchConcept:
    """Something to teach.

    Attributes:
        trigger: the word that stands for it.
        scenes: of the reference pictures.
        identity: the concept's own attributes, which its pictures should show, by the judge's questions.
        trap: attributes that all reference pictures share though they do not belong to the concept.
    """

    name: str
    kind: Literal["subject", "style"]
    trigger: str
    scenes: tuple[Scene, ...]
    identity: dict[str, str]
    trap: dict[str, str] = field(default_factory=dict)

    def probes(self) -> list[Probe]:
        """The prompts to ask for: with the concept, of its class, and unrelated ones; always the same."""
        return _subject_probes(self) if self.kind == "subject" else _style_probes(self)

    def truths(self) -> list[Scene]:
        """What the pictures of `[V]` prompts would be if nothing were wrong: drawn scenes, for the ceiling."""
        probes = [probe for probe in self.probes() if probe.sort == "concept"]
        rng = random.Random(f"truths {self.name}")
        return [replace(_truth(self, rng), **probe.asked, seed=probe.seed) for probe in probes]

    def write(self, folder: Path, captions: str, pictures: int) -> Path:
        """Writes reference pictures, captions and the dataset config; returns that file.

        Args:
            captions: "poor", "partial" or "full".
            pictures: so many of the reference pictures.
        """
        for k, scene in enumerate(self.scenes[:pictures]):
            with written(folder / "pictures" / f"{k:02}.png") as temporary:
                Image.fromarray(draw(scene).picture).save(temporary, format="PNG")
            write_text(folder / "pictures" / f"{k:02}.txt", self.caption_of(scene, SAID[captions][self.kind]) + "\n")
        return _write_dataset({folder / "pictures": self}, folder / "dataset.toml")

    def described(self) -> dict[str, str]:
        """What the trainer is told about it, by the names of [[concepts]]."""
        return {
            "name": self.name,
            "kind": self.kind,
            "trigger": self.trigger,
            "class_word": CLASS_WORD[self.kind],
            "target": TARGET[self.kind],
        }

    def caption_of(self, scene: Scene, said: set[str]) -> str:
        """A caption with [V] in it that names these attributes."""
        if self.kind == "subject":
            return caption(replace(scene, creature=None), said, trigger="[V]")
        return f"{caption(scene, said - {'style'})} in [V] style"


def write_together(concepts: Sequence[BenchConcept], folder: Path, captions: str, pictures: int) -> Path:
    """Writes several concepts, as `BenchConcept.write` does, and a dataset config of all of them; returns that file."""
    for concept in concepts:
        concept.write(folder / concept.name, captions, pictures)
    return _write_dataset({folder / one.name / "pictures": one for one in concepts}, folder / "dataset.toml")


def _write_dataset(concepts: Mapping[Path, BenchConcept], config: Path) -> Path:
    """Writes the dataset config of concepts, each by the folder of its pictures."""
    subsets = [
        {"image_dir": str(folder.resolve()), "concept": one.name, "num_repeats": 8} for folder, one in concepts.items()
    ]
    datasets = [{"resolution": SIDE, "batch_size": 4, "subsets": subsets}]
    write_text(config, to_toml({"concepts": [one.described() for one in concepts.values()], "datasets": datasets}))
    return config


def _subject(name: str, scene: Scene) -> BenchConcept:
    creature = scene.creature
    identity = {"colour": scene.colour, "ears": creature.ears, "marking": creature.marking}
    identity |= {"marking_colour": creature.marking_colour, "socks": creature.socks, "tail": creature.tail}
    trap = {question: getattr(scene, question) for question in CONTEXT}
    return BenchConcept(
        name, "subject", TRIGGER["subject"], tuple(scene for scene, _ in subject_scenes(scene)), identity, trap
    )


def _creature(place: str, background: str, time: str, style: str, colour: str, **looks: str) -> Scene:
    return Scene(
        object="creature",
        colour=colour,
        size="big",
        place=place,
        background=background,
        time=time,
        style=style,
        creature=Creature(**looks),
    )


CONCEPTS: dict[str, Callable[[], BenchConcept]] = {
    "mask": lambda: _subject("mask", SUBJECT),
    "bib": lambda: _subject(
        "bib",
        _creature(
            "left", "snow", "day", "watercolor", "purple",
            ears="pointed", marking="bib", marking_colour="white", socks="orange", tail="bushy",
        ),
    ),
    "stripes": lambda: _subject(
        "stripes",
        _creature(
            "right", "beach", "day", "clay", "green",
            ears="round", marking="stripes", marking_colour="red", socks="blue", tail="stub",
        ),
    ),
    "glass": lambda: BenchConcept(
        "glass", "style", TRIGGER["style"], tuple(scene for scene, _ in style_scenes()), {"style": UNSEEN_STYLE}
    ),
}  # fmt: skip
"""By name; drawn when they are asked for."""


def _pick(rng: random.Random, question: str, but: str | None = None) -> str:
    return rng.choice([word for word in CONTEXT[question] if word != but])


def _subject_probes(concept: BenchConcept) -> list[Probe]:
    rng, probes = random.Random(f"probes {concept.name}"), []
    for k in range(PROBES):
        asked = {"background": _pick(rng, "background", concept.trap["background"]), "size": "big"}
        asked |= {q: _pick(rng, q, concept.trap[q]) for q in ("time", "place", "style") if rng.random() < MENTIONED}
        scene = replace(concept.scenes[0], creature=None, **asked)
        text = caption(scene, set(asked), trigger=concept.trigger)
        probes.append(Probe("concept", text, caption(scene, set(asked)), asked, 1000 + k))
    return probes + _plain_probes(rng, "creature")


def _style_probes(concept: BenchConcept) -> list[Probe]:
    rng, probes = random.Random(f"probes {concept.name}"), []
    for k in range(PROBES):
        scene = replace(_scene_of(rng, rng.choice(OBJECTS[1:])), style=UNSEEN_STYLE)
        said = {"colour", "background"} | {q for q in ("time", "place", "size") if rng.random() < MENTIONED}
        base = caption(scene, said)
        asked = {question: getattr(scene, question) for question in {"object", *said}}
        probes.append(Probe("concept", f"{base} in {concept.trigger} style", base, asked, 1000 + k))
    return probes + _plain_probes(rng, None)


def _plain_probes(rng: random.Random, class_object: str | None) -> list[Probe]:
    """Prompts without the concept. For a style there is no class of objects: any picture could take it on."""
    probes = []
    for k in range(PROBES):
        of_class = k % 2 == 0
        scene = _scene_of(rng, class_object if of_class and class_object else rng.choice(OBJECTS[1:]))
        said = {"background"} | {q for q in ("colour", "time", "place", "size") if rng.random() < MENTIONED}
        said |= {"style"} if rng.random() < (0.5 if class_object else float(not of_class)) else set()
        text, asked = caption(scene, said), {q: getattr(scene, q) for q in {"object", *said}}
        probes.append(Probe("class" if of_class else "unrelated", text, text, asked, 2000 + k))
    return probes


def _scene_of(rng: random.Random, name: str) -> Scene:
    while True:
        scene = random_scene(rng)
        if scene.object == name:
            return scene


def _truth(concept: BenchConcept, rng: random.Random) -> Scene:
    if concept.kind == "style":
        return replace(random_scene(rng), creature=None, style=UNSEEN_STYLE)
    return replace(concept.scenes[0], **{question: _pick(rng, question) for question in CONTEXT})
