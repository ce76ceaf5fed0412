"""`kill -9` at any moment: the resumed run ends like an undisturbed one, to the bit.

A moment is a call or return of any function, Python's or C's, counted in a separate process, which is forked so that
nothing is imported twice. A run is killed repeatedly, once in each of its phases, and continues each time from there;
`--kills N` kills N times instead of 12.
"""

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tqdm import tqdm

from library.files.checkpoint import StateFolder
from library.report.log import read_log
from library.training import run as run_module
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.runs import assert_equal_files

PHASES = {
    "caching": (Run, "prepare"),
    "extractor": (Stage, "step"),
    "between": (Run, "build_student"),
    "student": (Stage, "step"),
    "saving a state": (StateFolder, "save"),
    "saving files": (run_module, "save_student"),
}
"""Where a run is killed, in the order in which it comes by: what is called then."""
SEED = 6
SETTINGS = {
    "extractor_train_steps": 3,
    "max_train_steps": 3,
    "save_state_every_n_steps": 1,
    "save_every_n_steps": 2,
    "ema_decay": 0.5,
    "sample_steps": 1,
    "context_train_steps": 1,
    "replay_images": 2,
    "replay_sample_steps": 1,
}


STEPS = ("extractor", "student")
"""Phases of several calls; a moment is counted from the first of them. In the others, each call counts for itself."""


class Moments:
    """Counts what happens in each phase, and kills the process at one moment.

    Args:
        phase, number: of the moment; None: it lives.
    """

    def __init__(self, phase: str | None = None, number: int = 0) -> None:
        self.phase, self.number, self.counted = phase, number, Counter()
        self._now: list[str] = []
        for name, (owner, attribute) in PHASES.items():
            setattr(owner, attribute, self._watched(name, getattr(owner, attribute)))

    def _watched(self, phase: str, called: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            if phase in STEPS and args[0].name != phase:
                return called(*args, **kwargs)
            if phase not in STEPS:
                self.counted[phase] = 0
            self._now.append(phase)
            sys.setprofile(self._happened)
            try:
                return called(*args, **kwargs)
            finally:
                sys.setprofile(None)
                self._now.pop()
                sys.setprofile(self._happened if self._now else None)
                if phase == self.phase and (phase not in STEPS or args[0].done == args[0].steps):
                    die()  # it took a few moments less than in the count

        return wrapper

    def _happened(self, *_) -> None:
        phase = self._now[-1]
        self.counted[phase] += 1
        if phase == self.phase and self.counted[phase] == self.number:
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_fork(work: Callable[[], None]) -> int:
    """Does the work in a separate process, and returns its exit code."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            tqdm.set_lock(threading.RLock())  # its own is shared by all forks, and one may be killed while it holds it
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results_of(folder: Path) -> dict[str, dict]:
    names = ("tiny", "tiny_diffusers", "tiny_concept", "tiny_extractor", "tiny-step00000002")
    return {name: load_file(folder / f"{name}.safetensors") for name in names}


def losses_of(folder: Path) -> list[tuple]:
    return [(row["stage"], row["step"], row["loss"], row["grad_norm"]) for row in read_log(folder / "log.jsonl")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only Unix forks")
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_never_was(plan_of, tmp_path, request):
    kills = request.config.getoption("--kills")

    def train(name: str, **settings) -> None:
        folders = {"output_dir": str(tmp_path / name), "cache_dir": str(tmp_path / name / "cache")}
        Run(plan_of(**SETTINGS, **folders, **settings)).train()

    def count() -> None:
        moments = Moments()
        train("counted")
        (tmp_path / "moments.json").write_text(json.dumps(moments.counted))

    train("whole")
    assert in_a_fork(count) == 0
    counted = json.loads((tmp_path / "moments.json").read_text())
    assert counted.keys() == PHASES.keys() and min(counted.values()) > 100

    chance, expected = random.Random(SEED), results_of(tmp_path / "whole")
    for begin in range(0, kills, len(PHASES)):
        name = f"killed{begin}"
        for phase in list(PHASES)[: kills - begin]:
            number = chance.randint(1, counted[phase])

            def killed(phase: str = phase, number: int = number, name: str = name) -> None:
                Moments(phase, number)
                train(name, resume="auto")

            assert in_a_fork(killed) == -signal.SIGKILL, f"it was to be killed in {phase}, at moment {number}"
        train(name, resume="auto")
        for file, tensors in results_of(tmp_path / name).items():
            assert_equal_files(tensors, expected[file])
        assert losses_of(tmp_path / name) == losses_of(tmp_path / "whole")
        assert not (tmp_path / name / "tiny-state").exists()
