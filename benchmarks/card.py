"""Checks whether everything works on an untested GPU: python -m benchmarks.card

Each check runs in separate processes, so that a failure is only a line in the result. Called again, it continues with
the checks that have no result yet. `--model FILE` names your Stable Diffusion 3.5; without it, steps use the small
included model and memory is not tested. Without an NVIDIA GPU, it uses the CPU instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.environment import prepare_process
from library.errors import EXIT_INTERRUPTED, exit_code_of

SHORT = {
    "eta": "0.5",
    "extractor_train_steps": "4",
    "max_train_steps": "16",
    "replay_images": "4",
    "replay_sample_steps": "4",
    "context_train_steps": "4",
    "sample_steps": "2",
    "sample_strengths": "1",
    "log_with": "none",
}
"""Settings of the checks' trainings: both stages, shortened."""
SETTINGS = {
    "float32": {"mixed_precision": "no"},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "bf16, blocks recomputed": {"mixed_precision": "bf16", "gradient_checkpointing": "true"},
    "bf16, 1 block swapped": {"mixed_precision": "bf16", "gradient_checkpointing": "true", "blocks_to_swap": "1"},
    "bf16, int8 weights": {"mixed_precision": "bf16", "base_quantization": "int8"},
    "bf16, fp8 weights": {"mixed_precision": "bf16", "base_quantization": "fp8"},
    "bf16, nf4 weights": {"mixed_precision": "bf16", "base_quantization": "nf4"},
    "bf16, AdamW8bit": {"mixed_precision": "bf16", "optimizer_type": "AdamW8bit"},
    "bf16, fused": {"mixed_precision": "bf16", "fused_backward_pass": "true"},
    "bf16, compiled": {"mixed_precision": "bf16", "torch_compile": "true"},
}
"""Ways to train that are compared with float32 on the CPU."""
TOLERANCES = {"float32": 0.005, "bf16": 0.02, "fp16": 0.01, "int8": 0.03, "fp8": 0.05, "nf4": 0.15}
"""Largest difference of the concept loss in a step, as a share of its mean. The last name in a way counts."""
MOST_OUTPUT = 400
"""How many characters to keep of a failed check's last output."""


@dataclass(frozen=True)
class Card:
    """What to check.

    Attributes:
        device: "cuda", or "cpu" instead.
        folder: of the results and of all runs.
        model: for memory and steps; None: the small included one.
        rounds: of timed steps.
    """

    device: str
    folder: Path
    model: str | None
    rounds: int


class Failed(Exception):
    """A check that ended with an error, and its message."""


def called(*words: str) -> str:
    """What a command prints.

    Raises:
        Failed: the exit code is not 0.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {done.stderr.strip()[-MOST_OUTPUT:]}")
    return done.stdout


def training(card: Card, name: str, device: str, settings: dict[str, str]) -> tuple[Path, list[str]]:
    """The folder of a shortened demo run, and the command for it."""
    folder = card.folder / "runs" / re.sub(r"\W+", "-", f"{name} {device}")
    given = {**SHORT, "device": device, "output_dir": str(folder), "cache_dir": str(card.folder / "cache"), **settings}
    words = [part for key, value in given.items() for part in _option(key, value)]
    return folder, ["purecc_train.py", "--config_file", "presets/demo.toml", *words, "--no_audit"]


def train(card: Card, name: str, device: str, settings: dict[str, str]) -> Path:
    """Trains the shortened demo; returns the run's folder."""
    folder, words = training(card, name, device, settings)
    called(*words, "--overwrite")
    return folder


def _option(name: str, value: str) -> Sequence[str]:
    return [f"--{name}"] if value == "true" else [f"--{name}={value}"]


def losses(folder: Path) -> list[float]:
    """The concept loss of each step of stage 2."""
    from library.report.log import read_log

    log = folder / "log.jsonl"
    rows = read_log(log) if log.exists() else []
    return [row["concept"] for row in rows if row["stage"] == "student" and "concept" in row]


def same_numbers(card: Card) -> list[dict[str, Any]]:
    """Trains in every way on the GPU, and in float32 on the CPU, and compares them step by step."""
    exact = losses(train(card, "exact", "cpu", SETTINGS["float32"]))
    mean, rows = sum(exact) / len(exact), []
    for name, settings in SETTINGS.items():
        try:
            found = losses(train(card, name, card.device, settings))
        except Failed as error:
            rows.append({"what": name, "outcome": str(error)})
            continue
        off = max(abs(one - other) for one, other in zip(found, exact, strict=True)) / mean
        allowed = [one for part, one in TOLERANCES.items() if part in name][-1]
        rows.append(
            {"what": name, "outcome": "as expected" if off <= allowed else "off", "error": off, "most": allowed}
        )
    return rows


def resumes(card: Card) -> list[dict[str, Any]]:
    """Checks that a run stopped in stage 2 and resumed ends like one that was never stopped."""
    import torch
    from safetensors.torch import load_file

    from library.training.control import STOP

    whole = train(card, "whole", card.device, SETTINGS["bf16"])
    stopped, words = training(card, "stopped", card.device, SETTINGS["bf16"])
    shutil.rmtree(stopped, ignore_errors=True)
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and not losses(stopped):
            time.sleep(0.05)
        (stopped / "control" / STOP).touch()
    if run.returncode != EXIT_INTERRUPTED:
        return [{"what": "resume", "outcome": f"not tried: the run ended with {run.returncode} before it was stopped"}]
    called(*words, "--resume", "auto")
    one, other = (load_file(folder / "demo.safetensors") for folder in (whole, stopped))
    most = max(float((one[key].float() - other[key].float()).abs().max()) for key in one)
    equal = all(torch.equal(one[key], other[key]) for key in one)
    return [{"what": "resume", "outcome": "equal to the bit" if equal else "not equal", "error": most}]


def memory(card: Card) -> list[dict[str, Any]]:
    """The presets that fit the GPU, each with the memory it really takes."""
    from library.preflight.forecast import PRESETS

    if not card.model:
        return [{"what": "presets", "outcome": "not tried: --model names no model of full size"}]
    room = _gigabytes() if card.device == "cuda" else max(PRESETS)
    fitting = [str(size) for size in PRESETS if size <= room] or [str(min(PRESETS))]
    model = ["--pretrained_model_name_or_path", card.model]
    called("-m", "benchmarks.vram", "--presets", *fitting, "--benchmark_dir", str(card.folder), *model)
    rows = json.loads((card.folder / "vram.json").read_text(encoding="utf-8"))["rows"]
    return [{"what": row.pop("preset"), **row} for row in rows]


def steps(card: Card) -> list[dict[str, Any]]:
    """A plain LoRA step, our step, and diffusers' and PEFT's, in turns."""
    preset = "presets/lean.toml" if card.model else "presets/demo.toml"
    model = ["--pretrained_model_name_or_path", card.model] if card.model else []
    given = ["--device", card.device, "--output_dir", str(card.folder), "--cache_dir", str(card.folder / "cache")]
    called("-m", "benchmarks.step", "--config_file", preset, "--rounds", str(card.rounds), *given, *model)
    rows = json.loads((card.folder / "step.json").read_text(encoding="utf-8"))["rows"]
    return [{"what": row.pop("variant"), **row} for row in rows]


def kernels(card: Card) -> list[dict[str, Any]]:
    """Attention by each kernel, and how far the copies of swapped blocks overlap with computing."""
    return json.loads(called("-m", "benchmarks.kernels"))


CHECKS: dict[str, Callable[[Card], list[dict[str, Any]]]] = {
    "numbers": same_numbers,
    "resume": resumes,
    "memory": memory,
    "steps": steps,
    "kernels": kernels,
}


def check(card: Card, names: Sequence[str]) -> dict[str, Any]:
    """Runs the checks that have no result yet, and saves each result at once."""
    from library.files.atomic import write_text

    file = card.folder / "card.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else about(card)
    for name in names:
        if name in found["checks"]:
            continue
        print(f"{name} ...", flush=True)
        begin = time.perf_counter()
        try:
            rows = CHECKS[name](card)
        except Failed as error:
            rows = [{"what": name, "outcome": str(error)}]
        found["checks"][name] = {"seconds": time.perf_counter() - begin, "rows": rows}
        write_text(file, json.dumps(found, indent=1) + "\n")
    return found


def about(card: Card) -> dict[str, Any]:
    """The GPU and its driver and libraries."""
    import torch

    from benchmarks.record import commit, device_name

    found = {"device": device_name(), "torch": torch.__version__, "commit": commit(), "model": card.model}
    if card.device == "cuda":
        found |= {"gigabytes": _gigabytes(), "capability": list(torch.cuda.get_device_capability())}
    return {**found, "checks": {}}


def _gigabytes() -> float:
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30


def page(found: dict[str, Any]) -> str:
    """The result as a Markdown page."""
    from benchmarks.record import table

    about_it = ", ".join(f"{name} {value}" for name, value in found.items() if name != "checks" and value is not None)
    parts = [f"# {found['device']}", f"By `python -m benchmarks.card`: {about_it}."]
    for name, result in found["checks"].items():
        columns = {key: key for row in result["rows"] for key in row}
        parts += [
            f"## {name.capitalize()}, {result['seconds']:.0f} s",
            table({"columns": columns, "rows": result["rows"]}),
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Runs all checks and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", help="Your Stable Diffusion 3.5, a file or folder. Default: the small included model."
    )
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS), help="Default: all of them.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="Timed steps of each kind. Default: 5.")
    parser.add_argument("--output_dir", type=Path, default=Path("output/card"))
    arguments = parser.parse_args()
    import torch

    from library.files.atomic import write_text

    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    found = check(Card(device, arguments.output_dir.resolve(), arguments.model, arguments.rounds), arguments.checks)
    file = arguments.output_dir / f"{re.sub(r'[^A-Za-z0-9]+', '-', found['device']).strip('-')}.md"
    write_text(file, page(found))
    print(page(found))
    print(f"Written: {file}")


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
