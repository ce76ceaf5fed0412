"""Several concepts in one model: python -m benchmarks.method.together run | report

run      three subjects, or a subject and a style, each with a trigger of its own, learned apart or in sequence and
         merged, or jointly. Each is asked for in the model that has all of them, and in the one that has it alone, and
         every two of them in one prompt. What is done already is passed over, so it adds up
report   tables and a sheet of everything that is done
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.method.together.recipes import ALONE, DRAWN, PRETRAINED, RECIPES, trial_file
from library.environment import prepare_process
from library.errors import ConfigError, did_you_mean, exit_code_of

WORK = Path("output/together")
MODEL = "pocket/model"


def run(work: Path, model: str, recipes: Iterable[str], seeds: Sequence[int], jobs: int) -> None:
    """Runs the trials that are not done yet, `jobs` recipes at a time."""
    from benchmarks.method.together.models import follow

    todo = {
        (recipe, seed): [
            way for way in (ALONE, *RECIPES[recipe].ways) if not trial_file(work, recipe, way, seed).exists()
        ]
        for seed in seeds
        for recipe in recipes
    }
    if not trial_file(work, DRAWN, "", 0).exists():
        todo["", 0] = []
    else:
        todo = {key: ways for key, ways in todo.items() if ways}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare_process) as pool:
        futures = [
            pool.submit(follow, work, model, recipe, ways, seed, threads) for (recipe, seed), ways in todo.items()
        ]
        for future in as_completed(futures):
            future.result()


def report(work: Path, out: Path, path: Path | None) -> None:
    """Reads all results and writes tables and a sheet, or only the table of the docs as JSON."""
    from benchmarks import record
    from benchmarks.method.together.report import Results, lost_result, write

    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((work / "trials").glob("*.json"))]
    if not {PRETRAINED, DRAWN} < {one["recipe"] for one in results}:
        raise ConfigError(f"{work} holds no results yet.", "python -m benchmarks.method.together run makes them.")
    if path is None:
        print(write(Results(results), work, out))
    else:
        command = ["python", "-m", "benchmarks.method.together", *sys.argv[1:]]
        record.write(path, kind="measured", command=command, **lost_result(Results(results)))


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method.together", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), help="All of them if not given.")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="Of training.")
    parser.add_argument("--jobs", type=int, default=2, help="Recipes at a time; they share the cores.")
    parser.add_argument("--work", type=Path, default=WORK, help="Where trials are kept.")
    parser.add_argument("--model", default=MODEL, help="The pocket SD3's folder.")
    parser.add_argument("--out", type=Path, default=WORK / "report", help="Where tables and pictures go.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="Write only the table of the docs, to this file.")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        if name not in RECIPES:
            raise ConfigError(f'There is no recipe "{name}".', did_you_mean(name, RECIPES))
    if arguments.what == "run":
        run(arguments.work, arguments.model, arguments.recipes, arguments.seeds, arguments.jobs)
    report(arguments.work, arguments.out, arguments.json)


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
