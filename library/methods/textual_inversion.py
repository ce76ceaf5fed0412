"""Textual inversion: nothing of the model learns but the words that stand for the concept.

Gal et al. (arXiv 2208.01618): the concept's rows in the text encoder's input table are learned by the model's own loss,
everything else is frozen. Prompts without the trigger give exactly what they gave before.

The port:
* Rows in the tables of the encoders that the family of the model teaches words; see its `learned_words`. They stay
  loaded, with gradients.
* As many rows as the trigger has tokens there: a longer trigger learns more. They start from the class word's.
* Captions are the user's, not the paper's templates ("a photo of a {}" and such); `caption_templates` gives those.
"""

from __future__ import annotations

from library.methods.lora import objective
from library.methods.method import Method, register
from library.methods.reads import LOSS

register(
    Method(
        name="textual_inversion",
        trains="the concept's words alone, in front of the text encoders",
        reads=LOSS | {"embedding_lr"},
        student=objective,
        student_weights="words",
    )
)
