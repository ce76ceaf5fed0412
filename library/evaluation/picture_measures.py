"""What is measured of each picture, from what the scorers see in it.

With M a scorer, A the pretrained model's picture of the base text and B an arm's picture from the same noise:

    delta M     =  M(B, base text) - M(A, base text)      prompts with the concept; 0 is what one wants, not more
    fidelity    =  mean cosine of B with all reference pictures
    leak        =  fidelity(B) - fidelity(A)              prompts of the class, which do not ask for the concept
    Seg-Cons    =  see `library.evaluation.measures.segmentation`; prompts that change the subject itself are left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from library.evaluation.external import Key
from library.evaluation.measures.distances import kid, mean_cosine
from library.evaluation.measures.segmentation import seg_cons
from library.evaluation.measures.statistics import Estimate, jackknife
from library.evaluation.pictures import opened
from library.evaluation.prompts import EvaluationPrompt
from library.evaluation.scorers.catalogue import ScorerEntry
from library.evaluation.scorers.interface import (
    ImageEncoder,
    MaskGenerator,
    PairDistance,
    Scorer,
    SubjectFinder,
    TextImageScorer,
)
from library.evaluation.scorers.pixels import as_tensor

PRETRAINED, APART = "pretrained", "other noise"
"""The pretrained model's pictures, and those that it draws from other noise."""
OWN_SUBJECT = 0.5
"""A region with more of its area than this inside either subject is the subject's."""


@dataclass(frozen=True)
class ArmPictures:
    """Pictures to be measured.

    Attributes:
        files: by prompt and seed.
        base: name of the arm that it is paired with; None where there is none from the same noise and model.
    """

    name: str
    files: dict[Key, Path]
    base: str | None


@dataclass(frozen=True)
class Measure:
    """A column: what it is, of which prompts, and which way is good.

    Attributes:
        target: "0" where neither more nor less is good, "up", "down".
    """

    name: str
    group: str
    target: str
    definition: str
    digits: int = 3
    needs_base: bool = True


@dataclass
class Values:
    """Every number of every picture: measure, arm, picture."""

    measures: dict[str, Measure] = field(default_factory=dict)
    of_picture: dict[str, dict[str, dict[Key, float | None]]] = field(default_factory=dict)
    of_arm: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Numbers that no single picture has, such as KID."""

    def put(self, measure: Measure, arm: str, values: dict[Key, float | None]) -> None:
        """Keeps numbers of an arm's pictures."""
        self.measures.setdefault(measure.name, measure)
        self.of_picture.setdefault(measure.name, {}).setdefault(arm, {}).update(values)


class Measurer:
    """Lets one scorer after the other look at all pictures.

    Args:
        arms: by name, the arms they are paired with among them.
        references: pictures of the concept itself.
        kind: of the concept.
    """

    def __init__(
        self, prompts: Sequence[EvaluationPrompt], arms: Sequence[ArmPictures], references: Sequence[Path], kind: str
    ) -> None:
        self.prompts = {prompt.id: prompt for prompt in prompts}
        self.arms = {arm.name: arm for arm in arms}
        self.references = list(references)
        self.kind = kind
        self.values = Values()
        self._masks: dict[str, dict[Key, Tensor]] = {}

    def without_scorer(self) -> None:
        """The change of the pixels themselves."""
        for group, title in (("class", "class"), ("unrelated", "unrelated")):
            measure = Measure(f"pixels, {title}", group, "down", "mean |B - A| over pixels and channels, of 2")
            self._pairs(measure, lambda a, b: (as_tensor(a) - as_tensor(b)).abs().mean())

    def look(self, entry: ScorerEntry, scorer: Scorer) -> None:
        """All that one scorer is asked for."""
        label = scorer.identity.label
        if "text" in entry.roles:
            assert isinstance(scorer, TextImageScorer), label
            self._text(entry.roles["text"], label, scorer)
        wants_fidelity = "fidelity" in entry.roles and self.kind in entry.kinds and self.references
        if wants_fidelity or "distribution" in entry.roles:
            assert isinstance(scorer, ImageEncoder), label
            vectors = {name: self._embed(scorer, arm) for name, arm in self.arms.items()}
            if wants_fidelity:
                self._fidelity(entry.roles["fidelity"], label, vectors, scorer.embed(opened(self.references)))
            if "distribution" in entry.roles:
                self._distribution(entry.roles["distribution"], label, vectors)
        if "layout" in entry.roles:
            assert isinstance(scorer, MaskGenerator), label
            self._layout(entry.roles["layout"], label, scorer)
        if "subject" in entry.roles:
            assert isinstance(scorer, SubjectFinder), label
            self._subject(label, scorer)
        if "pair" in entry.roles:
            assert isinstance(scorer, PairDistance), label
            for group in ("concept", "class", "unrelated"):
                about = f"{label}: distance of B from A"
                measure = Measure(f"{entry.roles['pair']}, {group}", group, "down", about)
                self._pairs(measure, lambda a, b: scorer.distance([a], [b])[0])

    def _keys(self, arm: ArmPictures, groups: Iterable[str]) -> list[Key]:
        return [key for key in arm.files if self.prompts[key[0]].group in groups]

    def _pairs(self, measure: Measure, of_pair: Callable[[Image.Image, Image.Image], Tensor | float | None]) -> None:
        for arm in self.arms.values():
            if arm.base is None:
                continue
            base = self.arms[arm.base].files
            keys = [key for key in self._keys(arm, [measure.group]) if key in base]
            values = {key: of_pair(*opened([base[key], arm.files[key]])) for key in keys}
            if values:
                self.values.put(measure, arm.name, {k: None if v is None else float(v) for k, v in values.items()})

    def _text(self, name: str, label: str, scorer: TextImageScorer) -> None:
        scores: dict[str, dict[Key, float]] = {}
        for arm in self.arms.values():
            keys = list(arm.files)
            texts = [self.prompts[key[0]].base for key in keys]
            found = scorer.score(opened([arm.files[key] for key in keys]), texts).tolist()
            scores[arm.name] = dict(zip(keys, found, strict=True))
        for group in ("concept", "class", "unrelated"):
            whole = Measure(f"{name}, {group}", group, "", f"{label}: M(B, base text)", needs_base=False)
            suffix = "" if group == "concept" else f", {group}"
            delta = Measure(f"delta {name}{suffix}", group, "0", f"{label}: M(B, base text) - M(A, base text)")
            for arm in self.arms.values():
                keys = self._keys(arm, [group])
                if not keys:
                    continue
                mine = scores[arm.name]
                self.values.put(whole, arm.name, {key: mine[key] for key in keys})
                if arm.base is not None:
                    before = scores[arm.base]
                    self.values.put(delta, arm.name, {key: mine[key] - before[key] for key in keys if key in before})

    def _embed(self, scorer: ImageEncoder, arm: ArmPictures) -> dict[Key, Tensor]:
        keys = list(arm.files)
        return dict(zip(keys, scorer.embed(opened([arm.files[key] for key in keys])), strict=True))

    def _fidelity(self, name: str, label: str, vectors: dict[str, dict[Key, Tensor]], references: Tensor) -> None:
        likeness = {
            arm: {key: float(mean_cosine(vector[None], references)) for key, vector in of_arm.items()}
            for arm, of_arm in vectors.items()
        }
        about = f"{label}: mean cosine with all reference pictures"
        whole = Measure(name, "concept", "up", about, needs_base=False)
        leak = Measure(f"leak, {name}", "class", "0", f"{label}: rise of that likeness in prompts of the class")
        for arm in self.arms.values():
            mine = likeness[arm.name]
            self.values.put(whole, arm.name, {key: mine[key] for key in self._keys(arm, ["concept"])})
            keys = self._keys(arm, ["class"])
            if arm.base is not None and keys:
                before = likeness[arm.base]
                self.values.put(leak, arm.name, {key: mine[key] - before[key] for key in keys if key in before})
        if len(references) > 1:
            alike = F.normalize(references, dim=1) @ F.normalize(references, dim=1).T
            count = len(references)
            mean = float((alike.sum() - alike.trace()) / (count * (count - 1)))
            self.values.of_arm.setdefault(name, {})["references among themselves"] = Estimate(mean, mean, mean)

    def _distribution(self, name: str, label: str, vectors: dict[str, dict[Key, Tensor]]) -> None:
        about = (
            f"{label}: unbiased squared MMD with the cubic kernel, x 1000, between an arm and the pretrained model "
            "from other noise, prompts without the concept; beside it, the pretrained model's own is the floor"
        )
        self.values.measures[name] = Measure(name, "class and unrelated", "down", about)
        for arm in self.arms.values():
            # Pictures of the same noise go in pairs, which the estimate must not have.
            if arm.name == APART or APART not in vectors or (arm.base is None and arm.name != PRETRAINED):
                continue
            if arm.base not in (None, PRETRAINED):
                continue
            keys = [key for key in self._keys(arm, ["class", "unrelated"]) if key in vectors[APART]]
            if len(keys) < 3:
                continue
            a = torch.stack([vectors[APART][key] for key in keys])
            b = torch.stack([vectors[arm.name][key] for key in keys])

            def of_rows(rows: np.ndarray, a: Tensor = a, b: Tensor = b) -> float:
                kept = torch.from_numpy(rows)
                return 1000 * kid(a[kept], b[kept])

            self.values.of_arm.setdefault(name, {})[arm.name] = jackknife(of_rows, [key[0] for key in keys])

    def _layout(self, name: str, label: str, scorer: MaskGenerator) -> None:
        for arm in self.arms.values():
            keys = self._keys(arm, ["concept", "class", "unrelated"])
            self._masks[arm.name] = {key: scorer.masks(opened([arm.files[key]])[0]) for key in keys}
        for group in ("concept", "class", "unrelated"):
            suffix = "" if group == "concept" else f", {group}"
            measure = Measure(f"{name}{suffix}", group, "up", f"{label}: bestmatch-v1, 100 is the same layout", 1)
            for arm in self.arms.values():
                if arm.base is None:
                    continue
                mine, before = self._masks[arm.name], self._masks[arm.base]
                keys = [key for key in self._keys(arm, [group]) if key in before]
                keys = [key for key in keys if not self.prompts[key[0]].changes_subject]
                if keys:
                    self.values.put(measure, arm.name, {key: seg_cons(before[key], mine[key]) for key in keys})

    def _subject(self, label: str, scorer: SubjectFinder) -> None:
        subjects = {
            arm.name: {key: scorer.subject(opened([arm.files[key]])[0]) for key in self._keys(arm, ["concept"])}
            for arm in self.arms.values()
        }
        overlap = Measure("subject IoU", "concept", "up", f"{label}: IoU of the two subjects", 2)
        rest = Measure(
            "Seg-Cons, background", "concept", "up", f"Seg-Cons without the regions of {label}'s subjects", 1
        )
        for arm in self.arms.values():
            if arm.base is None:
                continue
            mine, before = subjects[arm.name], subjects[arm.base]
            keys = [key for key in mine if key in before and not self.prompts[key[0]].changes_subject]
            if not keys:
                continue
            self.values.put(overlap, arm.name, {key: _iou(before[key], mine[key]) for key in keys})
            if self._masks:
                both = {key: before[key] | mine[key] for key in keys}
                values = {
                    key: seg_cons(*(_outside(self._masks[one][key], both[key]) for one in (arm.base, arm.name)))
                    for key in keys
                }
                self.values.put(rest, arm.name, values)


def _iou(one: Tensor, other: Tensor) -> float | None:
    either = (one | other).sum()
    return float((one & other).sum() / either) if either else None


def _outside(masks: Tensor, subject: Tensor) -> Tensor:
    """The masks that lie mostly outside the subject."""
    if not len(masks):
        return masks
    inside = F.interpolate(subject[None, None].float(), masks.shape[-2:], mode="nearest")[0, 0]
    share = (masks * inside).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp_min(1)
    return masks[share <= OWN_SUBJECT]
