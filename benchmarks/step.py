"""What a step of stage 2 costs, against a plain LoRA step: python -m benchmarks.step --config_file presets/demo.toml

All variants share one model, one set of pictures and one run, and take turns, so that whatever else the machine does
hits them alike.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import add_settings_to, command_line_parser, config_file_of, read_settings, settings_given
from library.environment import prepare_process
from library.errors import exit_code_of

NOTHING = {"eta": 0.0, "anchor_weight": 0.0, "replay_weight": 0.0}
PLAIN = "plain LoRA"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: NOTHING,
    "L_CC + anchor (DOP)": {**NOTHING, "anchor_weight": 1.0},
    "paper: live base": {**NOTHING, "eta": 1.0, "v_original": "live", "guidance_against": "null"},
    "PureCC, base detached": {**NOTHING, "eta": 1.0, "v_original": "detached"},
    "PureCC, base frozen": {**NOTHING, "eta": 1.0, "v_original": "frozen"},
    "PureCC + anchor": {**NOTHING, "eta": 1.0, "anchor_weight": 1.0},
    "pure: + anchor + replay": {"eta": 0.5, "anchor_weight": 1.0, "replay_weight": 1.0},
}
"""Settings of [pure_learning] by what they are called in the table; each is laid over the run's own."""
WARM_UP = 3


def count(stage, kind: str) -> int:
    """How many predictions of a kind, "with_gradient" or "without_gradient", a step makes."""
    return sum(len(group) for group in getattr(stage.branches, kind))


def measure(stages: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Seconds of each variant's step over the rounds: median, quartiles, ratio, and peak memory on an NVIDIA card."""
    import torch

    cuda = torch.cuda.is_available()
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    peak = dict.fromkeys(stages, 0)
    for turn in range(WARM_UP + rounds):
        for name, stage in stages.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            stage.step()
            if cuda:
                torch.cuda.synchronize()
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated())
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - begin)
    plain = statistics.median(seconds[PLAIN])
    rows = []
    for name, stage in stages.items():
        low, middle, high = statistics.quantiles(seconds[name], n=4)
        row = {"variant": name, "with_gradient": count(stage, "with_gradient")}
        row |= {"without_gradient": count(stage, "without_gradient"), "median_s": middle, "quartiles_s": [low, high]}
        rows.append({**row, "ratio": middle / plain, **({"peak_bytes": peak[name]} if cuda else {})})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| step | predictions: learned + given | median ms (quartiles) | against plain |", "|---|---|---|---|"]
    for row in rows:
        low, high = (1000 * value for value in row["quartiles_s"])
        spread = f"{1000 * row['median_s']:.0f} ({low:.0f} to {high:.0f})"
        passes = f"{row['with_gradient']} + {row['without_gradient']}"
        lines.append(f"| {row['variant']} | {passes} | {spread} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Builds one run and times its variants."""
    parser = command_line_parser("What a step of stage 2 costs, against a plain LoRA step.")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="Timed steps of each variant. Default: 20.")
    add_settings_to(parser)
    arguments = parser.parse_args()
    file = config_file_of(arguments)
    given = {"output_dir": "output/benchmark", "log_with": "none", **settings_given(arguments), "overwrite": True}
    settings = read_settings(file, {**given, "max_train_steps": WARM_UP + arguments.rounds})
    config = read_concepts_and_pictures(file, settings)

    from library.atomic import write_text
    from library.training.plan import make_plan
    from library.training.run import Run
    from library.training.unseen import Unseen

    run = Run(make_plan(settings, config))
    run.observer = Unseen(run.plan)
    run.prepare()
    run.build_extractor()
    run.build_student()
    stages = {}
    for name, overrides in VARIANTS.items():
        variant = copy.copy(run)
        variant.settings = replace(settings, pure_learning=replace(settings.pure_learning, **overrides))
        stages[name] = variant.student_stage()
    rows = measure(stages, arguments.rounds)
    print(table(rows))
    write_text(settings.output_dir / "step.json", json.dumps(rows, indent=2))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
