"""How `compare` scores LoRAs: cards, and, with an image encoder, how like the reference pictures their pictures are.

With E an image encoder, B a LoRA's picture of a prompt with [V] and A the pretrained model's of the base text from the
same noise:

    likeness   =  mean cosine of E(B) with E of all reference pictures
    fidelity   =  (likeness(B) - likeness(A)) / (likeness of the references among themselves - likeness(A))
    kept       =  1 - change of pictures without [V] at equal seed / change that another seed makes

Fidelity is 0 for the pretrained model and 1 for pictures as like the references as these are like each other. Both are
of whole pictures: a LoRA that learned the references' background is more like them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from library.adapters.files import ConceptFile, concept_file_for
from library.evaluation.audit import Auditor, draw
from library.evaluation.audit_files import Shown
from library.evaluation.card import Card
from library.evaluation.drift import Learned, Probe
from library.evaluation.measures.distances import mean_cosine
from library.evaluation.measures.statistics import Estimate, mean_over_clusters
from library.evaluation.pictures import opened
from library.evaluation.scorers.interface import ImageEncoder
from library.evaluation.student import Students
from library.files.atomic import write_text
from library.files.fingerprint import of_file, of_key
from library.report.sheet import as_image


@dataclass(frozen=True)
class Score:
    """What was measured of a LoRA at one strength on one half of the prompts.

    Args:
        fidelity: None where no encoder looks.
        likeness: before it is set in relation to the pretrained model's.
        kept: 1 where pictures without [V] are the pretrained model's, 0 where they are as another seed's; None where no
            pictures were drawn.
    """

    card: Card
    fidelity: Estimate | None = None
    likeness: float | None = None
    kept: float | None = None

    @property
    def learned(self) -> float:
        """What is set against what was broken: the fidelity, or without an encoder the right change."""
        return self.card.reach if self.fidelity is None else self.fidelity.value

    @property
    def merit(self) -> float:
        """What chooses rate and length."""
        if self.fidelity is None:
            return self.card.reach - self.card.kept
        return harmonic_mean(self.fidelity.value, self.kept or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        mine = {name: getattr(self, name) for name in ("likeness", "kept")}
        fidelity = None if self.fidelity is None else asdict(self.fidelity)
        return {**self.card.as_dict(), "fidelity": fidelity, **mine}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Score:
        """Back from JSON."""
        fields = {name: found[name] for name in ("name", "by_sigma", "leak", "pictures")}
        fields["drift"] = {kind: Estimate(**one) for kind, one in found["drift"].items()}
        fields |= {name: found[name] and Estimate(**found[name]) for name in ("scale", "outside")}
        fields |= {name: found[name] and Learned(**found[name]) for name in ("learned", "without")}
        fidelity = found["fidelity"] and Estimate(**found["fidelity"])
        return cls(Card(**fields), fidelity, found["likeness"], found["kept"])


def harmonic_mean(learned: float, kept: float) -> float:
    """Of two shares, each taken as 0 to 1: it is small where either is."""
    learned, kept = min(max(learned, 0.0), 1.0), min(max(kept, 0.0), 1.0)
    return 2 * learned * kept / (learned + kept) if learned + kept else 0.0


class Likeness:
    """How like the reference pictures others are.

    Args:
        references: files of the concept's own pictures.
    """

    def __init__(self, encoder: ImageEncoder, references: Sequence[Path]) -> None:
        self.encoder = encoder
        self.label = encoder.identity.label
        self._references = F.normalize(encoder.embed(opened(references)), dim=1)
        alike, count = self._references @ self._references.T, len(references)
        self.ceiling = float((alike.sum() - alike.trace()) / (count * (count - 1))) if count > 1 else 1.0

    def of(self, pictures: Sequence[Tensor]) -> list[float]:
        """Of pictures (3, H, W) in -1 .. 1."""
        found = self.encoder.embed([as_image(one) for one in pictures])
        return [float(mean_cosine(vector[None], self._references)) for vector in found]

    def fidelity(self, likeness: Sequence[float], before: Sequence[float], prompts: Sequence[str]) -> Estimate:
        """As a share, with its interval over prompts.

        Args:
            before: of the pretrained model's pictures.
        """
        floor = sum(before) / len(before)
        room = max(self.ceiling - floor, 1e-6)
        return mean_over_clusters([(one - was) / room for one, was in zip(likeness, before, strict=True)], prompts)


class Scoring:
    """Scores LoRAs on one half of the prompts; what was scored before is read from its folder.

    Args:
        auditor: its prompts, and the pretrained model's pictures of them.
        likeness: None: no encoder looks, and no pictures are drawn.
        about: what the scores depend on besides the LoRA.
    """

    def __init__(
        self,
        auditor: Auditor,
        students: Students,
        likeness: Likeness | None,
        size: tuple[int, int],
        folder: Path,
        about: dict[str, Any],
    ) -> None:
        self.auditor = auditor
        self.students = students
        self.likeness = likeness
        self.size = size
        self.folder = folder
        self.about = about
        self.probes: list[Probe] = auditor.probes
        self.before = self._decoded(auditor.latents)
        self._asked = [row for row, probe in enumerate(self.probes) if probe.kind == "concept"]
        self._without = likeness.of([self.before[row] for row in self._asked]) if likeness else []

    def score(self, lora: Path, strength: float) -> Score:
        """Of a LoRA at a strength."""
        concept_file = concept_file_for(lora, None)
        sums = [of_file(lora), of_file(concept_file.path) if concept_file else None]
        file = self.folder / f"{of_key({**self.about, 'files': sums, 'strength': strength})}.json"
        if not file.is_file():
            write_text(file, json.dumps(self._scored(lora, concept_file, strength).as_dict()))
        return Score.from_dict(json.loads(file.read_text(encoding="utf-8")))

    def after(self, lora: Path, name: str, strength: float = 1.0) -> list[Tensor]:
        """Its pictures of every prompt."""
        branch = self.students.branch(lora, concept_file_for(lora, None), strength)
        shown, seeds = [probe.shown for probe in self.probes], [probe.seed for probe in self.probes]
        return self._decoded(draw(self.auditor.parts, branch, shown, seeds, self.size, name))

    def _scored(self, lora: Path, concept_file: ConceptFile | None, strength: float) -> Score:
        branch = self.students.branch(lora, concept_file, strength)
        found = self.auditor.shifts(branch)
        if self.likeness is None:
            return Score(self.auditor.card(lora.stem, branch, found, {}))
        shown = Shown(self.before, self.after(lora, lora.stem, strength))
        changes = shown.changes(self.probes)
        likeness = self.likeness.of([shown.after[row] for row in self._asked])
        prompts = [self.probes[row].base for row in self._asked]
        changed = [changes[kind] for kind in ("class", "unrelated") if kind in changes]
        return Score(
            self.auditor.card(lora.stem, branch, found, changes),
            self.likeness.fidelity(likeness, self._without, prompts),
            sum(likeness) / len(likeness),
            1 - sum(changed) / len(changed),
        )

    def _decoded(self, latents: Sequence[Tensor]) -> list[Tensor]:
        model = self.auditor.parts.model
        return [model.decode(one[None])[0] for one in latents]


def best(scores: Sequence[Score]) -> int:
    """Which is chosen."""
    return max(range(len(scores)), key=lambda k: scores[k].merit)
