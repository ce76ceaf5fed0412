"""The curves of a run in its report: what is drawn together, and what each curve is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from library.report.charts import chart, curves_of
from library.report.page import render

LOSSES = {
    "concept": "the concept loss: your images",
    "pure": "L_PureCC: the concept at the scale lambda*",
    "anchor": "base prompts stay unchanged",
    "replay": "replayed images stay unchanged",
    "surroundings": "[V] changes only the region of the class",
    "word": "distance of the trigger word alone from the vectors",
    "word_replayed": "the same on replayed images",
    "prior": "regularisation pictures",
    "extractor": "the concept loss of the extractor",
    "extractor_anchor": "the extractor's base prompts stay unchanged",
    "loss": "the weighted sum of all losses",
    "validation": "the concept loss on validation images",
}
GUIDANCE = {
    "lambda_star": "the scale at which the concept fits the student best",
    "cosine": "how well the student's direction agrees with the extractor's",
    "lambda_negative": "share of images with a negative scale",
    "r_student": "length of the student's guidance, as a share of the velocity",
    "r_target": "length of the extractor's",
}
RATES = {
    "lr": "learning rate of the LoRA",
    "embedding_lr": "of the concept's vectors",
    "up_lr": "of the LoRA's outer matrices",
}
NORMS = {
    "average_key_norm": "mean length of a layer's change of its weight",
    "max_key_norm": "the largest, which scale_weight_norms limits",
}
NOT_LOSSES = {*GUIDANCE, *RATES, *NORMS, "keys_scaled", "it_s", "grad_norm", "step"}


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The section of the report with the curves of each stage; nothing if there is no step yet.

    Args:
        rows: of the log.
    """
    stages = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of_stage = [row for row in rows if row["stage"] == stage]
        had = {name for row in of_stage for name, value in row.items() if isinstance(value, float)}
        losses = {name: LOSSES.get(name, "") for name in [*LOSSES, *sorted(had - set(LOSSES) - NOT_LOSSES)]}
        charts = [
            chart("Losses, before their weights", curves_of(of_stage, losses), logarithmic=True),
            chart("lambda* and guidance", curves_of(of_stage, GUIDANCE)),
            chart("Learning rates", curves_of(of_stage, RATES)),
            chart("Lengths of the LoRA's layers", curves_of(of_stage, NORMS)),
        ]
        stages.append({"name": stage, "charts": [one for one in charts if one]})
    return render("curves.html", stages=stages) if stages else ""
