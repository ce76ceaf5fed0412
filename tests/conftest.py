"""Fixtures: a tiny model, a folder of pictures, and runs on them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # commands that tests start share the cores with the other workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import partial

import pytest
import torch
from PIL import Image

import purecc_convert
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, read_settings
from library.errors import Interrupted, exit_code_of
from library.preflight.plan import Plan, make_plan
from library.training.processes import Processes
from tests.helpers.datasets import DATASET
from tests.helpers.tiny import save_tiny_model, tiny_settings

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are shared


def pytest_addoption(parser) -> None:
    parser.addoption("--kills", type=int, default=12, help="How often tests/training/test_killed.py kills a run.")


LONGEST = ("test_demo.py", "test_command_line.py", "test_forecast.py", "test_method_bench.py")
"""Files that take longest: they come first, so that workers that take a file each end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of the tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of four pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        pixels = torch.randint(0, 255, (32, 32, 3), generator=torch.Generator().manual_seed(index)).byte()
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(["a [V] dog city", "a [V] dog beach", "a dog", "a red [V] dog"][index])
    return folder


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Leaves out `training.png`, the slowest part of a tiny run, but for tests that are marked `plots`."""
    if "plots" not in request.keywords:
        monkeypatch.setattr("library.training.report_page.plot_log", lambda rows, path: None)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """The cache of all tests that ask for this and do not look at what fills one: a third of a tiny run's time."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def plan_of(tiny_model, pictures, tmp_path, request):
    """Makes plans on the tiny model: `plan_of(eta=0.0, ...)`; anything not named is small and quick."""
    file = tmp_path / "dataset.toml"
    file.write_text(DATASET.format(pictures=pictures))
    common = tiny_settings(tiny_model, tmp_path)
    if "shared_cache" in request.fixturenames:
        common["cache_dir"] = str(request.getfixturevalue("shared_cache"))

    def make(dataset: str | None = None, processes: int = 1, **settings) -> Plan:
        (tmp_path / "replay.txt").write_text('a red {class}\n""\na blue house\n')
        (tmp_path / "samples.txt").write_text("a [V] dog\na blue house\n")
        if dataset is not None:
            file.write_text(dataset.format(pictures=pictures))
        read = read_settings(None, {**common, **settings})
        return make_plan(read, read_dataset_config(TomlFile(file), read.data), processes)

    return make


@pytest.fixture
def reg(tmp_path):
    """A folder of regularisation pictures, and the subset that names it."""
    folder = tmp_path / "class"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (32, 32), ["red", "green", "blue"][index]).save(folder / f"r{index}.png")
    return f'[[datasets.subsets]]\nimage_dir = "{folder}"\nis_reg = true\nclass_tokens = "a dog"\n'


@pytest.fixture
def in_two(tmp_path):
    """`in_two(work)`: calls `work(processes)` in two forked processes that talk by gloo; returns their exit codes."""
    calls = iter(range(9))

    def run(work) -> list[int]:
        meeting, children = f"file://{tmp_path}/meeting{next(calls)}", []
        for number in range(2):
            child = os.fork()
            if not child:
                code = 1
                try:
                    torch.distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=2)
                    work(Processes(2, number))
                    torch.distributed.barrier()
                    code = 0
                except Interrupted:
                    code = 130
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    return run


@pytest.fixture
def call(monkeypatch, capsys):
    """A program in this process: exit code, what it printed, what it complained."""

    def run(program, *words):
        monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, words)])
        code = exit_code_of(program.main, lambda: None)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def convert(call):
    """purecc_convert.py by `call`."""
    return partial(call, purecc_convert)
