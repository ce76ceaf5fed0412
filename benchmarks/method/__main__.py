"""The bench of methods: python -m benchmarks.method quick | run | report

quick    one subject, one seed, three methods: under three minutes on two cores
run      trials of arms x concepts x seeds; those that are done already are passed over, so it adds up
report   tables, plot and sheets of what is done of these seeds
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.method.arms import ARMS
from benchmarks.method.concepts import CONCEPTS
from benchmarks.method.runner import run
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of

if TYPE_CHECKING:
    from benchmarks.method.compare import Comparison

WORK = Path("output/bench")
MODEL = "pocket/model"
QUICK = ("plain LoRA", "paper", "lean")
LEVELS = (0.25, 0.4, 0.55)


def comparison_of(work: Path, seeds: Sequence[int]) -> Comparison:
    """All results so far of these seeds."""
    from benchmarks.method.compare import CONTROLS, Comparison

    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((work / "trials").glob("*.json"))]
    wanted = [result for result in results if result["arm"] in CONTROLS or result["seed"] in seeds]
    if all(result["arm"] in CONTROLS for result in wanted):
        named = " ".join(map(str, seeds))
        raise ConfigError(f"{work} holds no results of seed {named}.", "python -m benchmarks.method quick makes some.")
    return Comparison(wanted)


def report(comparison: Comparison, work: Path, out: Path, against: str, seed: int) -> None:
    """Writes tables, plot and sheets."""
    from benchmarks.method.report import write

    print(write(comparison, work, out, LEVELS, against, seed))
    print(f"Pictures, plot and JSON: {out}")


def write_table(comparison: Comparison, path: Path, table: str, level: float, against: str) -> None:
    """Writes one table of the docs as JSON."""
    from benchmarks import record
    from benchmarks.method.report import RESULTS

    result = RESULTS[table](comparison, level=level, against=against)
    record.write(path, kind="measured", command=["python", "-m", "benchmarks.method", *sys.argv[1:]], **result)


def _known(names: list[str] | None, known: Iterable[str], what: str) -> list[str]:
    names = names or list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f'There is no {what} "{name}".', f"There are: {', '.join(known)}.")
    return names


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("quick", "run", "report"))
    parser.add_argument("--arms", nargs="*", help="Methods; all of them if not given.")
    parser.add_argument("--concepts", nargs="*", help=f"Of {', '.join(CONCEPTS)}; all of them if not given.")
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3], help="Of training.")
    parser.add_argument("--strengths", nargs="*", type=float, default=[], help="Of the finished LoRA, besides 1.")
    parser.add_argument("--jobs", type=int, default=2, help="Trials at a time; they share the cores.")
    parser.add_argument("--work", type=Path, default=WORK, help="Where trials are kept.")
    parser.add_argument("--model", default=MODEL, help="The pocket SD3's folder.")
    parser.add_argument("--out", type=Path, default=WORK / "report", help="Where tables and pictures go.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="Write only one table of the docs, to this file.")
    parser.add_argument(
        "--table",
        choices=("methods", "finished", "promise", "differences", "parts"),
        default="methods",
        help="With --json.",
    )
    parser.add_argument("--level", type=float, default=0.4, help="Fidelity of that table. Default: 0.4.")
    parser.add_argument("--against", default="lean", help="The method that the others are compared with.")
    arguments = parser.parse_args()
    concepts = _known(arguments.concepts, CONCEPTS, "concept")
    arms = _known(arguments.arms, ARMS, "method")
    if arguments.what == "quick":
        arms, concepts, arguments.seeds = list(QUICK), concepts[:1], arguments.seeds[:1]
    if arguments.what != "report":
        run(arguments.work, arguments.model, arms, concepts, arguments.seeds, arguments.strengths, arguments.jobs)
    comparison = comparison_of(arguments.work, arguments.seeds)
    if arguments.json:
        write_table(comparison, arguments.json, arguments.table, arguments.level, arguments.against)
    else:
        report(comparison, arguments.work, arguments.out, arguments.against, arguments.seeds[0])


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
