"""PureCC (arXiv 2603.07561), with our additions if settings turn them on. Its ablations are settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from library.config.method_settings import PURECC
from library.config.settings import Settings
from library.methods.method import Method, register
from library.methods.reads import OF_SOME

if TYPE_CHECKING:
    from library.objectives import Objective


def student(settings: Settings, has_reg: bool) -> Objective:
    """Stage 2: L_CC + eta L_PureCC, with our ties."""
    from library.objectives import student_objective

    return student_objective(settings, has_reg)


def extractor(settings: Settings) -> Objective:
    """Stage 1: L_CC, with our ties."""
    from library.objectives import extractor_objective

    return extractor_objective(settings)


register(
    Method(
        name=PURECC,
        trains="an extractor, then a student guided by it: PureCC",
        reads=OF_SOME,
        starts_from={},
        student=student,
        extractor=extractor,
        anchors_styles=False,
    )
)
