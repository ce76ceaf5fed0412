"""The curves of a run, drawn as its report draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gui.runs import Run, rows_of
from library.report.charts import Curve, chart, curves_of

LOSSES = {"loss": "the total loss", "concept": "how well your pictures are learned"}
SCALES = {"lambda_star": "how much of the extractor's guidance is used (lambda*)"}
EVERY = 5
"""Steps between two drawings."""


@dataclass(frozen=True)
class Charts:
    """The charts of a run's current stage; "" for a chart without values."""

    mark: str
    stage: str
    loss: Markup
    scale: Markup


def charts_of(run: Run) -> Charts:
    """The charts of a run's last stage."""
    rows = list(rows_of(run))
    stage = rows[-1].get("stage", "") if rows else ""
    own = [row for row in rows if row.get("stage") == stage and "step" in row]
    shown = own if len(own) > 1 else []
    return Charts(
        mark=f"{stage}-{len(own) // EVERY}-{run.state}",
        stage=stage,
        loss=chart("Loss by step", _lines(shown, LOSSES)),
        scale=chart("Scale of the guidance by step", _lines(shown, SCALES)),
    )


def _lines(rows: list[dict[str, Any]], names: dict[str, str]) -> list[Curve]:
    """The curves with more than one point."""
    return [curve for curve in curves_of(rows, names) if len(curve.points) > 1]
