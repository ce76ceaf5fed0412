"""Settings that some methods read and others do not, as sets of names for a method's `reads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import library.models  # noqa: F401  # its families add settings
from library.config.context_settings import ContextSettings
from library.config.family_settings import names_in
from library.config.fields import names_of
from library.config.loss_settings import LossSettings
from library.config.settings import ConceptEmbeddingSettings, PureLearningSettings

WITH_EMBEDDINGS = "with_embeddings"
LAYERS = frozenset({"target_modules", "train_block_indices"})
"""Which layers learn."""
LOW_RANK = frozenset(
    {"network_dropout", "rank_dropout", "module_dropout", "scale_weight_norms", "loraplus_lr_ratio"}
    | names_in("network")
)
"""Settings that need two matrices."""
ENCODERS = names_in("data")
"""How often pictures are seen without a text encoder."""
LORA = LAYERS | LOW_RANK | ENCODERS | {"network_dim", "learning_rate", "network_verbose", "full_bf16"}
"""Settings of a LoRA."""
LOSS = names_of(LossSettings)
"""How errors count in the concept loss."""
RIVAL = LORA | LOSS | {WITH_EMBEDDINGS}
"""The same of a method that may have vectors in the blocks as well."""
REPLAYED = frozenset({"replay_images", "replay_prompts", "replay_sample_steps"})
"""Settings of pictures that the pretrained model draws."""
STAGE_1 = frozenset({"extractor_train_steps", "extractor_learning_rate", "extractor_embedding_lr"})
VECTORS = frozenset({"embedding_lr", "concept_embeddings"}) | names_in("concept_embeddings")
"""Settings of vectors in the blocks."""
ED_LORA = LORA | LOSS | VECTORS
WITH_VECTORS: Mapping[str, Any] = {"concept_embeddings": "per_block", "student_embeddings": "fresh"}
"""The values that give a method vectors in the blocks."""
PURE = (
    names_of(PureLearningSettings)
    | names_of(ConceptEmbeddingSettings)
    | names_in("concept_embeddings")
    | names_of(ContextSettings)
)
OF_SOME = (PURE | LORA | LOSS | STAGE_1 | {"embedding_lr"}) - {"prior_loss_weight"}
"""Settings that not every method reads, besides those that methods have of their own. All others are common, as is the
weight of regularisation pictures."""
