"""[context]: what the reference pictures share besides the concept, learned apart from it."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """[context]: vectors for what a subject's pictures share besides the subject, so that [V] need not learn it."""

    context_vectors: int = setting(
        2,
        "Vectors a block, for CLIP's and for T5's tokens each, that learn the light, place and style of a subject's "
        "pictures before [V] is learned; in training they stand at the end of the captions, afterwards they are gone "
        "(ours). 0: none.",
        at_least=0,
        at_most=8,
    )
    context_train_steps: int = setting(150, "Steps in which they are learned, each of one picture.", at_least=1)
    context_lr: float = setting(
        0.02, "Their learning rate, as a share of how large the states in whose place they stand are.", above=0
    )
