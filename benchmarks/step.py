"""The cost of a step of stage 2 against a plain LoRA step: python -m benchmarks.step --config_file presets/demo.toml

All variants share one model, one set of pictures and one run. They take turns, so that other load on the machine
affects all of them equally. One of them is a plain LoRA step as in diffusers' scripts, with PEFT.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.record import add_json_to, read, table, write
from benchmarks.variants import AUTHORS, PEER, PLAIN, VARIANTS, settings_of
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import add_settings_to, command_line_parser, config_file_of, read_settings, settings_given
from library.environment import prepare_process
from library.errors import exit_code_of

WARM_UP = 3
MOST_KINDS = 8
"""Most kinds of steps in a variant."""
COLUMNS = {
    "variant": "step",
    "passes": "predictions: learned + given",
    "median_ms": "median ms",
    "quartiles_ms": "quartiles, ms",
    "predicted_ms": "predicted ms",
    "ratio": "against plain",
    "ratio_quartiles": "quartiles",
    "peak_gib": "peak GiB",
}


def passes(stage: Any) -> str:
    """How many predictions a step makes, with and without gradient; the mean if ties take turns."""
    if not hasattr(stage, "objective"):
        return stage.passes
    counts = [stage.branches.passes(kind.readings).counts for kind in stage.objective.kinds]
    return " + ".join(f"{statistics.mean(kind):.3g}" for kind in zip(*counts, strict=True))


def steps_of_round(stage: Any) -> int:
    """How many steps of a variant have every kind of batch once."""
    return len(stage.objective.kinds) if hasattr(stage, "objective") else 1


def measure(
    stages: dict[str, Any], rounds: int, counts: dict[str, Any], speed: Callable[[], Any]
) -> list[dict[str, Any]]:
    """Time of each variant's step over the rounds: median, quartiles, ratio, and peak memory on an NVIDIA GPU.

    If ties take turns, a round has a step of each kind, and their mean counts.

    The ratio is the median over the rounds of the ratio within a round, so what slows a whole round down cancels.

    Args:
        counts: each variant's counted step, to predict its time.
        speed: measures the device's speed again in each round.
    """
    import torch

    cuda = torch.cuda.is_available()
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    peak, predicted = dict.fromkeys(stages, 0), {name: [] for name in counts}
    for turn in range(WARM_UP + rounds):
        for name, stage in stages.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            begin, steps = time.perf_counter(), steps_of_round(stage)
            for _ in range(steps):
                stage.step()
            if cuda:
                torch.cuda.synchronize()
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated())
            if turn >= WARM_UP:
                seconds[name].append((time.perf_counter() - begin) / steps)
        now = speed()
        for name, count in counts.items():
            predicted[name].append(count.seconds(now))
    rows = []
    for name, stage in stages.items():
        low, middle, high = (1000 * one for one in statistics.quantiles(seconds[name], n=4))
        ratios = [mine / plain for mine, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
        least, ratio, most = statistics.quantiles(ratios, n=4)
        row = {"variant": name, "passes": passes(stage), "median_ms": round(middle), "ratio": ratio}
        row |= {"quartiles_ms": [round(low), round(high)], "ratio_quartiles": [least, most]}
        if name in predicted:
            row["predicted_ms"] = round(1000 * statistics.median(predicted[name]))
        rows.append({**row, **({"peak_gib": peak[name] / 2**30} if cuda else {})})
    return rows


def main() -> None:
    """Builds one run and times its variants."""
    parser = command_line_parser("What a step of stage 2 costs, against a plain LoRA step.")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="Timed steps of each variant. Default: 20.")
    add_json_to(parser, "step.json in output_dir")
    add_settings_to(parser)
    arguments = parser.parse_args()
    file = config_file_of(arguments)
    given = {"output_dir": "output/benchmark", "log_with": "none", **settings_given(arguments), "overwrite": True}
    settings = read_settings(file, {**given, "max_train_steps": MOST_KINDS * (WARM_UP + arguments.rounds)})
    config = read_concepts_and_pictures(file, settings)

    from benchmarks.authors import AuthorsRun
    from benchmarks.peer import PeerRun
    from library.predictions import STUDENT
    from library.preflight.forecast import count_step
    from library.preflight.plan import make_plan
    from library.preflight.times import measured_speed
    from library.training.run import Run

    run = Run(make_plan(settings, config))
    run.prepare()
    run.build_extractor()
    run.build_student()
    stages, counts = {}, {}
    for name in VARIANTS:
        variant = copy.copy(run)
        variant.settle(settings_of(settings, name))
        stages[name] = variant.student_stage()
        counts[name] = count_step(variant.plan, STUDENT)
    stages[AUTHORS] = AuthorsRun(run)
    stages[PEER] = PeerRun(run, stages[PLAIN].scenes)
    model = run.parts.model
    rows = measure(stages, arguments.rounds, counts, lambda: measured_speed(model.device, model.dtype))
    size, batch = run.plan.size, len(run.plan.order.batch(0))
    title = (
        f"One step of stage 2, {size[0]} x {size[1]} pixels, {batch} a step, {settings.model.mixed_precision} precision"
    )
    columns = {name: heading for name, heading in COLUMNS.items() if any(name in row for row in rows)}
    path, command = (
        arguments.json or settings.output_dir / "step.json",
        ["python", "-m", "benchmarks.step", *sys.argv[1:]],
    )
    write(path, title, "measured", rows, columns, command)
    print(table(read(path)))


if __name__ == "__main__":
    prepare_process(needed=["peft"])
    sys.exit(exit_code_of(main, lambda: None))
