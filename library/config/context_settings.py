"""[context]: what the reference pictures share besides the concept, learned separately."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """[context]: vectors that learn what a subject's images share apart from the subject, so that [V] doesn't."""

    context_vectors: int = setting(
        2,
        "Number of vectors per block, for each of the text streams, that learn what a subject's images share apart "
        "from it (light, place, style), before [V] is learned. They are dropped after training (ours). 0: "
        "none.",
        at_least=0,
        at_most=8,
    )
    context_train_steps: int = setting(150, "Steps that train the context vectors, with one image each.", at_least=1)
    context_lr: float = setting(
        0.02, "Learning rate of the context vectors, relative to the size of the states that they replace.", above=0
    )
