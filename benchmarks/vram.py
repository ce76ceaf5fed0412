"""The memory that the presets for GPUs really take: python -m benchmarks.vram --presets 6 8

Each preset trains in a separate process: caches, a few steps of both stages, a sheet, all files. On an NVIDIA GPU,
PyTorch gets no more memory than a GPU of the preset's size has, so a preset that needs more fails. Without a GPU it
measures the process's own memory, which also includes Python and weights that would not be on a GPU.

Any setting may follow, such as another model; the default is the small one that comes with the project.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import add_json_to, read, table, write
from library.environment import prepare_process
from library.errors import exit_code_of
from tools.pocket.pen import SIDE

LIMIT = "PURECC_BENCHMARK_MEMORY_GB"
"""Variable that tells a child process how much of the GPU it may use."""
SMALL = {
    "pretrained_model_name_or_path": "pocket/model",
    "dataset_config": "dataset_configs/creature.toml",
    "t5xxl_max_token_length": "16",
    "resolution": str(SIDE),
}
SHORT = {
    "max_train_steps": "3",
    "replay_images": "2",
    "replay_sample_steps": "2",
    "sample_steps": "2",
    "sample_seeds": "1",
    "log_with": "none",
}
COLUMNS = {
    "preset": "preset",
    "outcome": "outcome",
    "limit_gib": "limit, GiB",
    "peak_gib": "peak, GiB",
    "phase": "in",
    "student_gib": "stage 2, GiB",
    "seconds": "seconds",
}


def child() -> None:
    """Runs a preset, within the limit if there is a GPU."""
    import torch

    import purecc_train
    from library.preflight.forecast import CUDA_CONTEXT, DESKTOP, GIB

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        room = float(os.environ[LIMIT]) * GIB - DESKTOP - CUDA_CONTEXT
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
    purecc_train.main([])


def measure(size: int, folder: Path, words: list[str]) -> dict[str, Any]:
    """Measures a preset's run."""
    preset, output = f"sd35m_{size}gb", folder / f"sd35m_{size}gb"
    own = {**SHORT, "output_dir": str(output), "cache_dir": str(output / "cache"), "vram_gb": str(size)}
    given = [word for name, value in own.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "benchmarks.vram", "--child", "--config_file", f"presets/{preset}.toml"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, *given, *words, "--overwrite"], env={**os.environ, LIMIT: str(size)}, capture_output=True, text=True
    )
    row: dict[str, Any] = {"preset": preset, "limit_gib": float(size), "seconds": time.perf_counter() - begin}
    if done.returncode:
        return {**row, "outcome": done.stderr.strip().splitlines()[-1]}
    phases = json.loads((output / "status.json").read_text(encoding="utf-8"))["phases"]
    peaks = {phase["name"]: phase["peak_bytes"] / 2**30 for phase in phases if phase["peak_bytes"]}
    most = max(peaks, key=peaks.get)
    return {**row, "outcome": "done", "peak_gib": peaks[most], "phase": most, "student_gib": peaks["student"]}


def main() -> None:
    """Runs the presets one by one."""
    parser = argparse.ArgumentParser(description="The memory that the presets for cards take.")
    parser.add_argument("--presets", nargs="+", type=int, default=[6, 8, 12, 16, 24], metavar="GB")
    parser.add_argument("--benchmark_dir", type=Path, default=Path("output/benchmark"))
    add_json_to(parser, "vram.json in benchmark_dir")
    arguments, words = parser.parse_known_args()
    from library.report.progress import bar_over

    small = [] if "--pretrained_model_name_or_path" in words else [f"--{name}={value}" for name, value in SMALL.items()]
    folder = arguments.benchmark_dir / "vram"
    rows = [measure(size, folder, [*small, *words]) for size in bar_over("presets")(arguments.presets)]
    model = "the small bundled model" if small else Path(words[words.index("--pretrained_model_name_or_path") + 1]).name
    title = f"Peak memory of the presets for cards, each in a process of its own, {model}"
    path, command = (
        arguments.json or arguments.benchmark_dir / "vram.json",
        ["python", "-m", "benchmarks.vram", *sys.argv[1:]],
    )
    write(path, title, "measured", rows, COLUMNS, command)
    print(table(read(path)))


if __name__ == "__main__":
    prepare_process()
    if "--child" in sys.argv:
        sys.argv.remove("--child")
        sys.exit(exit_code_of(child, lambda: None))
    sys.exit(exit_code_of(main, lambda: None))
