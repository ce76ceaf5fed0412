"""What a whole run costs, in steps of a plain LoRA: python -m benchmarks.whole_run

Everything that a first run with five pictures computes at full size, from its texts to its report card, is counted on
the meta device: no GPU is needed, and two runs give the same numbers. The unit is a step of a plain LoRA with the same
layers and rank.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.counts import full_size_plan
from benchmarks.record import FOLDER, add_json_to, read, table, write
from benchmarks.variants import PLAIN, settings_of
from library.environment import prepare_process
from library.errors import exit_code_of

if TYPE_CHECKING:
    from library.preflight.plan import Plan

PLAIN_STEPS = 400
"""Steps of a plain LoRA that a run is compared with."""
CARD, ALL = "report card", "all"


def count(plan: Plan) -> dict[str, Any]:
    """Each phase of a run, in order.

    Returns:
        `plain_step_tflop`, `phases` (name, plain_steps, share in percent), `plain_steps` of all of them, and `times`,
        how many runs of `PLAIN_STEPS` plain steps that is.
    """
    from library.evaluation.quick import PASSES_OF_A_PROBE, QuickAudit
    from library.predictions import STUDENT
    from library.preflight.forecast import count_step, forecast
    from library.preflight.phases import one_picture, phases

    plain = count_step(plan.with_settings(settings_of(plan.settings, PLAIN)), STUDENT).flops
    asked = QuickAudit.of(plan)
    predicted = forecast(asked.planned(plan))
    flops = {phase.name: phase.flops for phase in phases(asked.planned(plan), predicted)}
    probes = sum(len(some) for some in asked.probes.values())
    flops[CARD] = one_picture(predicted, plan.sheet_size, probes * PASSES_OF_A_PROBE).flops
    whole = sum(flops.values())
    rows = [
        {"phase": name, "plain_steps": one / plain, "share": 100 * one / whole} for name, one in flops.items() if one
    ]
    found = {"plain_step_tflop": plain / 1e12, "phases": rows, "plain_steps": whole / plain}
    return {**found, "times": whole / plain / PLAIN_STEPS}


def beside(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each phase, and one for all of them, with two columns for each preset: plain steps and share.

    Args:
        found: by preset, what `count` returns.
    """
    longest = max((counted["phases"] for counted in found.values()), key=len)
    rows: dict[str, dict[str, Any]] = {row["phase"]: {"phase": row["phase"]} for row in longest}
    for preset, counted in found.items():
        for row in (*counted["phases"], {"phase": ALL, "plain_steps": counted["plain_steps"], "share": 100.0}):
            shown = rows.setdefault(row["phase"], {"phase": row["phase"]})
            shown |= {preset: row["plain_steps"], f"{preset}_share": row["share"]}
    return [*(row for name, row in rows.items() if name != ALL), rows[ALL]]


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["presets/lean.toml", "presets/pure.toml"])
    parser.add_argument("--resolution", type=int, default=1024, metavar="N", help="Default: 1024.")
    add_json_to(parser, str(FOLDER / "whole-run.json"))
    arguments = parser.parse_args()
    found = {}
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as temporary:
            settings = {"resolution": arguments.resolution, "train_batch_size": 1, "checkpointed_blocks": "all"}
            found[Path(preset).stem] = count(full_size_plan(Path(temporary), preset, **settings))
    columns = {"phase": "phase"}
    for preset in found:
        columns |= {preset: f"`{preset}`", f"{preset}_share": "share, %"}
    title = f"A first run at {arguments.resolution} x {arguments.resolution}, in steps of a plain LoRA"
    command, formats = ["python", "-m", "benchmarks.whole_run", *sys.argv[1:]], dict.fromkeys(columns, ".0f")
    file = arguments.json or FOLDER / "whole-run.json"
    write(file, title, "counted", beside(found), columns, command, formats)
    print(f"{title}:\n{table(read(file))}")
    for preset, counted in found.items():
        print(f"{preset} costs {counted['times']:.2f} times {PLAIN_STEPS} steps of a plain LoRA.")


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
