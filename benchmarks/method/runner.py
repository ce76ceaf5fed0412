"""Trials beside each other, each in a process of its own; those that are done already are passed over."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.method.concepts import CONCEPTS
from library.environment import prepare_process
from library.files.atomic import write_text


def group(
    work: Path, model: str, concept: str, seed: int, arms: Sequence[str], strengths: Sequence[float], threads: int
) -> None:
    """All trials of a concept and a seed, one after the other; they share extractors and the pretrained pictures."""
    import torch

    from benchmarks.method.trial import Bench, Trial

    torch.set_num_threads(threads)
    bench = Bench(work, model)
    control = Trial("pretrained", concept, 0)
    if not control.file(work).exists():
        for result in bench.controls(CONCEPTS[concept]()):
            write_text(Trial(result["arm"], concept, 0).file(work), json.dumps(result))
        bench.keep_pretrained(concept)
    for arm in arms:
        trial = Trial(arm, concept, seed, strengths=tuple(strengths))
        begin = time.perf_counter()
        result = bench.run(trial)
        bench.keep_pictures(trial)
        write_text(trial.file(work), json.dumps(result))
        print(f"{concept}, seed {seed}, {arm}: {time.perf_counter() - begin:.0f} s", flush=True)


def left_to_do(
    work: Path, arms: Sequence[str], concepts: Sequence[str], seeds: Sequence[int]
) -> dict[tuple[str, int], list[str]]:
    """The arms whose trials have no result yet, by concept and seed."""
    from benchmarks.method.trial import Trial

    todo: dict[tuple[str, int], list[str]] = defaultdict(list)
    for seed in seeds:
        for concept in concepts:
            for arm in arms:
                if not Trial(arm, concept, seed).file(work).exists():
                    todo[concept, seed].append(arm)
    return dict(todo)


def run(
    work: Path,
    model: str,
    arms: Sequence[str],
    concepts: Sequence[str],
    seeds: Sequence[int],
    strengths: Sequence[float],
    jobs: int,
) -> None:
    """Runs the trials that are not done yet, `jobs` at a time, all concepts of a seed before the next seed."""
    todo = left_to_do(work, arms, concepts, seeds)
    jobs = min(jobs, len(todo) or 1)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare_process) as pool:
        futures = [pool.submit(group, work, model, *key, some, strengths, threads) for key, some in todo.items()]
        for future in as_completed(futures):
            future.result()
