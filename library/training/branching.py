"""Which objective, branches and learning weights a stage has: the same for a run and for the count of one."""

from __future__ import annotations

from library.config.settings import Settings
from library.dual_branch_scheduler import DualBranchScheduler
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.objectives import EXTRACTOR, Objective, extractor_objective, student_objective
from library.training.parts import STUDENT_ADAPTER, Parts, extractor_adapter


def objective_of(stage: str, settings: Settings, has_reg: bool) -> Objective:
    """What a stage minimises, with or without regularisation pictures."""
    pure = settings.pure_learning
    return extractor_objective(pure) if stage == EXTRACTOR else student_objective(pure, has_reg)


def learning_in(stage: str, settings: Settings, parts: Parts) -> tuple[list[str], list[ConceptEmbeddings]]:
    """The adapters and the concept embeddings that learn in a stage."""
    extractors = [extractor_adapter(concept.name) for concept in parts.concepts]
    if stage == EXTRACTOR:
        return extractors, [*parts.extractor_embeddings.values()]
    adapters, embeddings = [STUDENT_ADAPTER], []
    if settings.concept_embeddings.student_embeddings in ("own", "fresh"):
        embeddings += parts.student_embeddings.values()
    if settings.pure_learning.merged:
        adapters += extractors
        embeddings += parts.extractor_embeddings.values()
    return adapters, embeddings


def freeze_all_but(adapters: list[str], embeddings: list[ConceptEmbeddings], parts: Parts) -> None:
    """Exactly these learn."""
    parts.network.train_only(adapters)
    for one in (*parts.extractor_embeddings.values(), *parts.student_embeddings.values()):
        one.requires_grad_(one in embeddings)


def scheduler_of(objective: Objective, settings: Settings, parts: Parts) -> DualBranchScheduler:
    """Runs the passes that the objective reads."""
    together = settings.optimizer.batch_passes == "together"
    readings = objective.readings
    return DualBranchScheduler(parts.model, parts.network, parts.injector, parts.branches(), readings, together)
