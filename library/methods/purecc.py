"""PureCC (arXiv 2603.07561), with our additions if settings turn them on. Its ablations are settings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from library.config.fields import default_of, name_of
from library.config.method_settings import PURECC
from library.config.settings import Settings
from library.methods.method import Method, register
from library.methods.reads import OF_SOME, STAGE_1

if TYPE_CHECKING:
    from library.objectives import Objective

OF_GUIDANCE = frozenset({"lambda", "v_original", "guidance_against", "guidance_lora", "merged"})
"""Settings that only L_PureCC reads."""
OF_EXTRACTOR = STAGE_1 | {"extractor", "extractor_anchor_weight", "extractor_replay_weight"}
"""Settings that only stage 1 reads, and what replaces it."""


def student(settings: Settings, has_reg: bool) -> Objective:
    """Stage 2: L_CC + eta L_PureCC, with our ties."""
    from library.objectives import student_objective

    return student_objective(settings, has_reg)


def extractor(settings: Settings) -> Objective:
    """Stage 1: L_CC, with our ties."""
    from library.objectives import extractor_objective

    return extractor_objective(settings)


def remarks(settings: Settings) -> list[str]:
    """Names the settings that were changed for L_PureCC, stage 1 or the word, and that something else turns off."""
    idle = OF_GUIDANCE if settings.needs_extractor else OF_GUIDANCE | OF_EXTRACTOR
    said = []
    if settings.pure_learning.eta == 0 and (changed := _changed(settings, idle)):
        names = ", ".join(changed)
        said.append(f"eta = 0 turns off L_PureCC, so {names} will have no effect. presets/pure.toml sets eta = 0.5.")
    if not settings.teaches_word and _changed(settings, frozenset({"word_states_weight"})):
        said.append("Only vectors and a word_weight above 0 teach the word, so word_states_weight will have no effect.")
    return said


def _changed(settings: Settings, names: frozenset[str]) -> list[str]:
    """Those of the settings that differ from their defaults."""
    return sorted(
        name_of(field)
        for group in (settings.pure_learning, settings.optimizer)
        for field in dataclasses.fields(group)
        if name_of(field) in names and getattr(group, field.name) != default_of(field)
    )


register(
    Method(
        name=PURECC,
        trains="a student, guided by an extractor if eta is above 0",
        reads=OF_SOME,
        starts_from={},
        student=student,
        extractor=extractor,
        anchors_styles=False,
        remarks=remarks,
    )
)
