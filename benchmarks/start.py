"""How long a training takes to begin: python -m benchmarks.start --config_file presets/demo.toml, then --output_dir
output/start --overwrite

It starts `purecc_train.py` with the same words several times, and ends it when the first bar of a stage appears. The
first time fills the cache and is not counted. On a computer that does other work, too, only CPU time means something.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.record import FOLDER, ROOT, add_json_to, read, table, write
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of
from library.predictions import EXTRACTOR, STUDENT

STAGES = (f"{EXTRACTOR}:", f"{STUDENT}:")
"""The first words of a stage's bar."""
COLUMNS = {"until": "until", "cpu_s": "CPU, s", "wall_s": "wall, s", "memory_mib": "its own memory, MiB"}


def started(words: list[str]) -> list[dict[str, float | str]]:
    """Starts the command once; what it took until its first line and until the first bar of a stage.

    Raises:
        ConfigError: it ended before that.
    """
    import psutil

    begin, rows = time.perf_counter(), []
    command = [sys.executable, "-u", "purecc_train.py", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        about, last = psutil.Process(process.pid), ""
        assert process.stdout is not None
        for last in process.stdout:
            until = "a stage's bar" if last.startswith(STAGES) else "the first line" if not rows else ""
            if until:
                used, wall, memory = about.cpu_times(), time.perf_counter() - begin, about.memory_info()
                own = (memory.rss - getattr(memory, "shared", 0)) / 2**20
                rows.append({"until": until, "cpu_s": used.user + used.system, "wall_s": wall, "memory_mib": own})
            if last.startswith(STAGES):
                process.kill()
                return rows
    raise ConfigError(
        f"The training ended before its first step: {last.strip()}", "Run purecc_train.py with these words to see why."
    )


def main() -> None:
    """Starts the training several times and keeps the best of each number."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="Starts that are counted. Default: 5.")
    add_json_to(parser, str(FOLDER / "start.json"))
    arguments, words = parser.parse_known_args()
    starts = [started(words) for _ in range(1 + arguments.times)][1:]
    rows = [min(same, key=lambda row: row["cpu_s"]) for same in zip(*starts, strict=True)]
    path = arguments.json or FOLDER / "start.json"
    title = f"Start of a training, everything cached, best of {arguments.times}"
    write(path, title, "measured", rows, COLUMNS, ["python", "-m", "benchmarks.start", *words])
    print(table(read(path)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
