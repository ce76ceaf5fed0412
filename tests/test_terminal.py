"""Printing never ends a run: no reader, unknown characters, no stream at all; bars don't flood files."""

import ast
import json
import os
import subprocess
import sys

import pytest

from library.terminal import Dropping
from tests.helpers.commands import DEMO, QUICK, environment, folders
from tests.helpers.places import ROOT

ENTRY_POINTS = sorted(ROOT.glob("purecc_*.py"))
PRINTS = """
import sys
from library.environment import prepare_process
prepare_process()
for _ in range(2000):
    print("caf\\u00e9 \\ud800 " * 20)
    print("caf\\u00e9 \\ud800 " * 20, file=sys.stderr)
sys.exit(7)
"""


def printing(stdout: int, stderr: int, **variables: str) -> int:
    """The exit of a process that prints much to these."""
    words = [sys.executable, "-c", PRINTS]
    return subprocess.run(words, cwd=ROOT, env={**environment(), **variables}, stdout=stdout, stderr=stderr).returncode


@pytest.fixture
def no_reader():
    """The writing end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_goes_away_changes_no_exit_code(no_reader, unbuffered):
    assert printing(no_reader, subprocess.DEVNULL, PYTHONUNBUFFERED=unbuffered) == 7
    assert printing(no_reader, no_reader, PYTHONUNBUFFERED=unbuffered) == 7


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252:strict", "utf-8:surrogateescape"])
def test_a_letter_that_is_not_known_is_replaced(tmp_path, encoding):
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        assert printing(out.fileno(), err.fileno(), PYTHONIOENCODING=encoding) == 7
    for name in ("out", "err"):
        lines = (tmp_path / name).read_bytes().splitlines()
        assert (
            len(lines) == 2000
            and lines[0].count(b"caf") == 20
            and lines[0].count(b"?") == 20 * (2 if encoding.startswith("ascii") else 1)
        )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_behind_standard_output_costs_nothing():
    with open("/dev/full", "wb") as full:
        assert printing(full.fileno(), full.fileno()) == 7


def test_streams_that_are_not_there_cost_nothing():
    words = f"exec \"{sys.executable}\" -c '{PRINTS}' >&- 2>&-"
    assert subprocess.run(["sh", "-c", words], cwd=ROOT, env=environment()).returncode == 7


def test_what_a_terminal_does_not_take_for_the_moment_is_dropped():
    class Full:
        def write(self, content):
            return None

    assert Dropping(Full()).write(b"four") == 4


@pytest.mark.parametrize("file", ENTRY_POINTS, ids=lambda file: file.name)
def test_every_entry_point_prepares_its_process_before_anything_else(file):
    *_, begin = ast.parse(file.read_text(encoding="utf-8")).body
    assert ast.unparse(begin.test) == "__name__ == '__main__'" and ast.unparse(begin.body[0]) == "prepare_process()"


def test_every_command_is_an_entry_point():
    assert [file.stem.removeprefix("purecc_") for file in ENTRY_POINTS] == [
        "caption",
        "convert",
        "evaluate",
        "fuse",
        "generate",
        "gui",
        "import",
        "train",
    ]


def test_a_run_outlives_its_terminal_and_its_letters(no_reader, tmp_path):
    """Both streams piped away, an ASCII locale and a prompt with an accent."""
    (tmp_path / "prompts.txt").write_text("a [V] creature at a café\n", encoding="utf-8")
    words = [*DEMO, *QUICK, *folders(tmp_path, "out"), "--sample_prompts", str(tmp_path / "prompts.txt")]
    words += ["--method", "lora"]
    done = subprocess.run(
        [sys.executable, "purecc_train.py", *words],
        cwd=ROOT,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        stdout=no_reader,
        stderr=no_reader,
    )
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (done.returncode, status["state"]) == (0, "done")
    rows = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert len(rows) == status["total_steps"] and (tmp_path / "out" / "demo.safetensors").is_file()


# Bars
