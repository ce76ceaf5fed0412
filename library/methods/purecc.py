"""PureCC (arXiv 2603.07561), with our additions as far as settings turn them on. Its ablations are settings."""

from __future__ import annotations

from library.methods.method import Method
from library.objectives import concept_error, extractor_objective, student_objective

METHOD = Method(
    student=lambda settings, has_reg: student_objective(settings.pure_learning, has_reg, concept_error(settings.loss)),
    extractor=lambda settings: extractor_objective(settings.pure_learning, concept_error(settings.loss)),
)
