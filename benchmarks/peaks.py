"""The forecast of memory beside a pretended GPU: python -m benchmarks.peaks

Each preset runs at full size on the pretended GPU of `tools.pretended_card`: text, latents, replay, context, a step of
each kind of both stages, a sheet. Its simulation of PyTorch's allocator says what each phase holds and reserves at
most; beside it stands what the dry run forecasts. It runs on Linux with a C++ compiler and without a GPU, in a few
minutes for a preset.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import FOLDER, add_json_to, read, table, write
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of
from tools.pretended_card.building import build, insert

if TYPE_CHECKING:
    from library.preflight.forecast import Forecast
    from library.preflight.plan import Plan

ROOT = Path(__file__).parents[1]
SHORT = {
    "extractor_train_steps": 1,
    "replay_images": 2,
    "replay_sample_steps": 1,
    "context_train_steps": 1,
    "sample_steps": 1,
    "sample_strengths": [],
    "audit": False,
}
"""What runs are cut down to, unless the preset says otherwise."""
GIGABYTES = 24
"""Of the GPU for presets that are made for none."""
COMPARED = {
    "text": (("text",), ("text encoders",)),
    "latents": (("latents",), ("VAE",)),
    "stage 1": (("extractor",), ("stage 1, extractor",)),
    "stage 2": (("student",), ("stage 2, student",)),
    "drawing": (("replay", "sheets"), ("sampling", "decoding")),
}
"""Rows: phases of a run, and what is forecast for the most that any of them takes."""
COLUMNS = {
    "preset": "preset",
    "blocks": "blocks",
    "phase": "phase",
    "held": "held, GiB",
    "held_forecast": "forecast",
    "reserved": "reserved, GiB",
    "reserved_forecast": "forecast",
    "off": "off, %",
}
FORMATS = {"off": "+.1f"}


def sized_for(preset: Path) -> int:
    """Gigabytes of the GPU that a preset is for."""
    size = preset.stem.rpartition("_")[2].removesuffix("gb")
    return int(size) if size.isdecimal() else GIGABYTES


def measure(preset: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each phase of a preset's run, in a process that has a pretended GPU.

    Args:
        settings: that go before the preset's.
    """
    from library.predictions import STUDENT
    from library.preflight.fit import card_of, fitted
    from library.preflight.forecast import GIB
    from tools.pretended_card.card import Card
    from tools.pretended_card.computer import computer_with
    from tools.pretended_card.weights import without_numbers

    size, card = sized_for(preset), Card()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plan = short_plan(folder, preset, {**settings, "vram_gb": float(size)})
        plan, predicted, _ = fitted(plan, card_of(plan.settings, plan.parts.model.device))
        step = predicted.steps[STUDENT]
        as_fitted = {"device": "cuda", "max_train_steps": step.footprint.work.batches}
        if (recomputed := plan.parts.model.residence.recomputed) is not None:
            as_fitted["checkpointed_blocks"] = recomputed
        with without_numbers(), computer_with(card, size * GIB):
            peaks = peaks_of(short_plan(folder, preset, {**settings, **as_fitted}), card)
    common = {"preset": preset.stem, "blocks": plan.parts.model.depth}
    return [
        {**common, "phase": name, **compared([peaks[one] for one in phases if one in peaks], parts, predicted)}
        for name, (phases, parts) in COMPARED.items()
        if peaks.keys() & set(phases)
    ]


def short_plan(folder: Path, preset: Path, settings: dict[str, Any]) -> Plan:
    """The plan of a preset's run, cut down."""
    from benchmarks.counts import full_size_plan
    from library.models.sd3.single_file import SD35_LARGE, SD35_MEDIUM

    prompts = folder / "prompts.txt"
    prompts.write_text("a photo of a [V] backpack\n", encoding="utf-8")
    given = {**SHORT, "output_dir": str(folder / "output"), "sample_prompts": str(prompts), **settings}
    return full_size_plan(folder, str(preset), SD35_LARGE if preset.stem.startswith("sd35l") else SD35_MEDIUM, **given)


def peaks_of(plan: Plan, card: Any) -> dict[str, tuple[int, int]]:
    """Makes a run on the pretended GPU.

    Returns:
        For each phase, the most bytes that were held and that the allocator reserved.
    """
    from library.training.listeners import Listener
    from library.training.run import Run

    class Peaks(Listener):
        """Hears of phases before anything else does that resets the peaks."""

        def __init__(self) -> None:
            self.of: dict[str, tuple[int, int]] = {}
            self._open: list[str] = []

        def phase_begun(self, name: str) -> None:
            self._note()
            self._open.append(name)

        def phase_ended(self) -> None:
            self._note()
            self._open.pop()

        def step_made(self, row: dict[str, Any], seconds: float) -> None:
            self._note()

        def _note(self) -> None:
            memory = card.memory
            if self._open:
                held, reserved = self.of.get(self._open[-1], (0, 0))
                self.of[self._open[-1]] = max(held, memory.peak_requested), max(reserved, memory.peak_reserved)
            memory.reset_peaks()

    peaks, run = Peaks(), Run(plan)
    run.listeners.add([peaks])
    run.train()
    return peaks.of


def compared(found: Sequence[tuple[int, int]], parts: Sequence[str], predicted: Forecast) -> dict[str, float]:
    """What phases took at most, beside the forecast.

    Args:
        found: bytes that each held and reserved.
        parts: the phases of the forecast.
    """
    from library.preflight.forecast import GIB

    held, reserved = (max(sizes) for sizes in zip(*found, strict=True))
    forecast = max(predicted.needs[name].total for name in parts)
    return {
        "held": held / GIB,
        "held_forecast": max(predicted.needs[name].held for name in parts) / GIB,
        "reserved": reserved / GIB,
        "reserved_forecast": forecast / GIB,
        "off": 100 * (forecast / reserved - 1),
    }


def to_be_added_to(file: Path, presets: Sequence[Path]) -> dict[str, Any]:
    """The result of an earlier run.

    Raises:
        ConfigError: there is none, or it has one of the presets.
    """
    if not file.is_file():
        raise ConfigError(f"{file} doesn't exist.", "Leave out --add to write it.")
    earlier = read(file)
    if both := sorted({path.stem for path in presets} & {row["preset"] for row in earlier["rows"]}):
        raise ConfigError(
            f"{file} has {', '.join(both)} already.", "Name other presets, or count all again without --add."
        )
    return earlier


def main() -> None:
    """Measures one preset after the other, and writes what is there after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    presets = [path for path in sorted((ROOT / "presets").glob("*.toml")) if path.stem != "demo"]
    parser.add_argument("--presets", nargs="+", type=Path, default=presets, metavar="FILE", help="Default: all.")
    parser.add_argument("--resolution", type=int, metavar="N", help="Default: the preset's.")
    parser.add_argument("--blocks", type=int, metavar="N", help="The transformer's first N. Default: all.")
    parser.add_argument("--add", action="store_true", help="Add the presets to the result that is there.")
    add_json_to(parser, str(FOLDER / "peaks.json"))
    arguments = parser.parse_args()
    given = {"resolution": arguments.resolution, "blocks": arguments.blocks}
    settings = {name: value for name, value in given.items() if value is not None}
    title = "What each phase of a preset holds and reserves on a pretended GPU, and the forecast without CUDA's context"
    file = arguments.json or FOLDER / "peaks.json"
    earlier = to_be_added_to(file, arguments.presets) if arguments.add else None
    made = build(ROOT / "build" / "pretended_card")
    rows: list[dict[str, Any]] = []
    for preset in arguments.presets:
        # In a process of its own: the GPU has to be there before PyTorch is imported.
        with ProcessPoolExecutor(1, get_context("spawn"), insert, (made,)) as pool:
            rows += pool.submit(measure, preset, settings).result()
        command = ["python", "-m", "benchmarks.peaks", *sys.argv[1:]]
        write(file, title, "counted", rows, COLUMNS, command, FORMATS, below=earlier)
    print(table(read(file)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
