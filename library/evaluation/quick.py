"""The report card after a training: the audit in a few percent of its time, on pictures that it draws for itself.

Not on the replayed pictures, though they are there: the student was trained to stay as it was on just those.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

from library.config.dataset import Concept
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.evaluation.audit import Auditor, draw, references_of
from library.evaluation.audit_files import DEFINITION, fragment, lines_of
from library.evaluation.card import Card
from library.evaluation.drift import SIGMAS, Probe
from library.evaluation.probes import read_probes
from library.files.atomic import write_text
from library.preflight.plan import Plan
from library.report.page import Section
from library.terminal import say
from library.training.listeners import Listener
from library.training.run import Run

SHARE = 0.11
"""Of the training's passes, at most."""
PASSES_OF_A_STEP = 4
"""Passes that every method makes at least for each picture of a step: one with gradient, which counts three, and one
without."""
STEPS = 12
"""Sampling steps of a picture: it is looked at by the model alone."""
PASSES_OF_A_PROBE = 2 * STEPS + 3 * len(SIGMAS) + 2
LEAST = 4
"""Fewest prompts for a meaningful card; a shorter training has none."""
REFERENCES = 4
"""Reference pictures that are looked at."""


@dataclass(frozen=True)
class QuickAudit:
    """The prompts for the student.

    Args:
        probes: for each concept; none if there is to be no card.
    """

    probes: dict[str, list[Probe]]
    what: ClassVar[str] = "the report card"

    @classmethod
    def of(cls, plan: Plan) -> QuickAudit:
        """As many prompts for each concept as the time allows.

        Raises:
            ConfigError: the prompts can't be used, even if the training is too short for them.
        """
        samples = plan.settings.samples
        batch = max(dataset.batch_size for dataset in plan.config.datasets)
        passes = sum(plan.stage_steps.values()) * batch * PASSES_OF_A_STEP
        concepts = plan.config.concepts
        count = int(SHARE * passes / PASSES_OF_A_PROBE / len(concepts))
        if not samples.audit:
            return cls({})
        probes = {one.name: read_probes(samples.audit_prompts, one, [_seed(plan)]) for one in concepts}
        return cls({name: _some(found, count) for name, found in probes.items()} if count >= LEAST else {})

    @property
    def passes(self) -> int:
        """Passes of a single picture that it takes."""
        return PASSES_OF_A_PROBE * sum(len(some) for some in self.probes.values())

    def planned(self, plan: Plan) -> Plan:
        """The plan with the texts of all prompts, which are encoded before the encoders go."""
        texts = [text for some in self.probes.values() for probe in some for text in probe.texts]
        return replace(plan, also=(*plan.also, *texts))

    def __call__(self, run: Run) -> None:
        """Measures the finished student, says its grades, writes them and puts them into the report."""
        run.parts.network.train_only([])  # dropout must not blur what is measured
        cards = [self._card(run, concept) for concept in run.plan.config.concepts if concept.name in self.probes]
        if not cards:
            return
        for card in cards:
            say("\n".join(lines_of(card)))
        file = run.folder / f"{run.settings.saving.output_name}_audit.json"
        found = {"definition": DEFINITION, "quick": True, "concepts": [card.as_dict() for card in cards]}
        write_text(file, json.dumps(found, indent=1))
        section = Section("drift", "Drift report card", lambda pictures: fragment(cards, pictures))
        run.listeners.tell(Listener.section_made, section)

    def _card(self, run: Run, concept: Concept) -> Card:
        parts, probes = run.parts, self.probes[concept.name]
        base, seeds = [probe.base for probe in probes], [probe.seed for probe in probes]
        latents = draw(parts, PRETRAINED_BRANCH, base, seeds, run.plan.sheet_size, "report card", STEPS)
        shown = [one for one in run.plan.pictures if one.concept.name == concept.name and not one.subset.is_reg]
        paths = list(dict.fromkeys(one.path for one in shown))[:REFERENCES]
        references = references_of(parts, [one for one in shown if one.path in paths], run.latents)
        auditor, branch = Auditor(parts, probes, latents, references), run.student.shown
        return auditor.card(concept.name, branch, auditor.shifts(branch), {})


def _seed(plan: Plan) -> int:
    return plan.settings.optimizer.seed


def _some(probes: list[Probe], count: int) -> list[Probe]:
    """At most `count` of them, evenly from every kind."""
    of_kind: dict[str, list[Probe]] = {}
    for probe in probes:
        of_kind.setdefault(probe.kind, []).append(probe)
    turns = [probe for turn in range(len(probes)) for some in of_kind.values() for probe in some[turn : turn + 1]]
    return turns[:count]
