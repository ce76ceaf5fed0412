"""Textual inversion: only the words that stand for the concept learn, not the model.

Gal et al. (arXiv 2208.01618): the concept's rows in the text encoder's input table learn from the model's own loss;
everything else is frozen. Prompts without the trigger give exactly the same result as before.

The port:
* The rows are in the encoders that can learn words in the model's family; see its `learned_words`. These encoders stay
  loaded, with gradients.
* There is a row for each token of the trigger, so a longer trigger learns more. They start from the class word's rows.
* Captions are the user's, not the paper's templates such as "a photo of a {}"; `caption_templates` uses those.
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
