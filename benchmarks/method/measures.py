"""What a student's pictures say about it: fidelity, prompt following, preservation, leaks. One number for each prompt.

Pictures are (N, 3, side, side), float32 in -1..1; the judge is the pocket world's own, trained on drawn pictures alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.method.concepts import BenchConcept, Probe
from library.evaluation.measures.segmentation import best_match_iou, masks_of
from tools.pocket.pen import OBJECT, REGIONS
from tools.pocket.scorer import Look, Scorer

Values = dict[str, list[float | None]]
"""One value for each prompt, None where the question does not arise."""

HIGHER_IS_BETTER = {
    "fidelity": True,
    "follow": True,
    "seg_cons": True,
    "outside": False,
    "trap_asked": False,
    "trap_unasked": False,
    "pixels": False,
    "features": False,
    "accuracy": True,
    "drift": False,
    "contamination": False,
}
"""Every measure, and which way is good."""


def measure(
    concept: BenchConcept, probes: Sequence[Probe], judge: Scorer, pictures: Tensor, pretrained: Tensor
) -> dict[str, Values]:
    """All measures of one student, by the sort of prompt.

    Args:
        pictures: the student's, of each probe's text.
        pretrained: the pretrained model's, of each probe's base text, from the same noise.
    """
    ours, theirs = judge.look(pictures), judge.look(pretrained)
    result: dict[str, Values] = {}
    for sort in ("concept", "class", "unrelated"):
        rows = [k for k, probe in enumerate(probes) if probe.sort == sort]
        if not rows:
            continue
        some = [probes[k] for k in rows]
        a, b = _rows(ours, rows), _rows(theirs, rows)
        if sort == "concept":
            result[sort] = _with_concept(concept, some, a, b, pictures[rows], pretrained[rows])
        else:
            result[sort] = _without_concept(concept, some, a, b, pictures[rows], pretrained[rows], sort == "class")
    return result


def fidelity(look: Look, identity: dict[str, str]) -> Tensor:
    """How likely the judge finds the concept's own attributes, their mean, (N,), 0 to 1."""
    return torch.stack([look.probability(question, answer) for question, answer in identity.items()]).mean(0)


def _with_concept(concept: BenchConcept, probes: list[Probe], a: Look, b: Look, x: Tensor, y: Tensor) -> Values:
    neither = (a.regions != OBJECT) & (b.regions != OBJECT)
    apart = ((x - y).abs().mean(1) * neither).flatten(1).sum(1) / neither.flatten(1).sum(1).clamp_min(1)
    follow, follow_before = _asked_accuracy(probes, a), _asked_accuracy(probes, b)
    values: Values = {
        "fidelity": fidelity(a, concept.identity).tolist(),
        "follow": [now - before for now, before in zip(follow, follow_before, strict=True)],
        "follow_absolute": follow,
        "seg_cons": [100 * best_match_iou(regions(x), regions(y)) for x, y in zip(a.regions, b.regions, strict=True)],
        "outside": apart.tolist(),
    }
    return values | _trap(concept, probes, a, b)


def _without_concept(
    concept: BenchConcept, probes: list[Probe], a: Look, b: Look, x: Tensor, y: Tensor, of_class: bool
) -> Values:
    now, before = _asked_accuracy(probes, a), _asked_accuracy(probes, b)
    values: Values = {
        "pixels": (x - y).abs().flatten(1).mean(1).tolist(),
        "features": (1 - F.cosine_similarity(a.features, b.features)).tolist(),
        "accuracy": [one - other for one, other in zip(now, before, strict=True)],
    }
    if of_class:
        rise = fidelity(a, concept.identity) - fidelity(b, concept.identity)
        values["contamination"] = rise.tolist()
    return values


def _trap(concept: BenchConcept, probes: list[Probe], a: Look, b: Look) -> Values:
    """How much more likely the reference pictures' shared attributes are than in the pretrained model's pictures."""
    asked: list[float | None] = []
    unasked: list[float | None] = []
    for row, probe in enumerate(probes):
        rise = {q: float(a.probability(q, w)[row] - b.probability(q, w)[row]) for q, w in concept.trap.items()}
        for values, wanted in ((asked, True), (unasked, False)):
            some = [rise[question] for question in rise if (question in probe.asked) == wanted]
            values.append(sum(some) / len(some) if some else None)
    return {"trap_asked": asked, "trap_unasked": unasked} if concept.trap else {}


def _asked_accuracy(probes: list[Probe], look: Look) -> list[float]:
    """Share of what each prompt asks for that its picture shows."""
    answers = {question: look.answers(question) for probe in probes for question in probe.asked}
    return [
        sum(answers[question][row] == word for question, word in probe.asked.items()) / len(probe.asked)
        for row, probe in enumerate(probes)
    ]


def regions(labels: Tensor) -> Tensor:
    """The judge's label map, (H, W), as masks, one for each of `pen.REGIONS`."""
    return masks_of(labels, len(REGIONS))


def _rows(look: Look, rows: list[int]) -> Look:
    return Look({name: p[rows] for name, p in look.probabilities.items()}, look.features[rows], look.regions[rows])
