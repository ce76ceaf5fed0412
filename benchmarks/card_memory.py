"""What the presets for cards take on a pretended card, beside their forecast: python -m benchmarks.card_memory

The trainer's own code runs at full size on the device "cuda" without a card (see tools/pretended_card): a few steps of
every phase but the fit of words, whose text encoders would compute on the processor. Every tensor on the card is
followed, and what was taken and given back is played to CUDA's caching allocator. "Least" is the smallest memory with
which that allocator gets through the whole run, gaps between tensors included and CUDA's own context not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.environment import prepare_process
from library.errors import exit_code_of
from tools.pretended_card.loading import load

if TYPE_CHECKING:
    from tools.pretended_card.allocator import Recorder

COLUMNS = {
    "preset": "preset",
    "phase": "phase",
    "tensors_gib": "tensors, GiB",
    "reserved_gib": "reserved, GiB",
    "predicted_gib": "predicted for tensors, GiB",
    "least_gib": "least, GiB",
}
PHASES = {"text": "text encoders", "latents": "VAE", "extractor": "stage 1, extractor", "student": "stage 2, student"}
"""Phases of a run that were predicted, by the name that the forecast has for them."""


@contextlib.contextmanager
def phases_marked(recorder: Recorder) -> Iterator[None]:
    """Inside, the recorder knows where phases begin."""
    from unittest import mock

    from library.report.phases import Phases

    of = Phases.of

    @contextlib.contextmanager
    def marked(phases: Phases, name: str) -> Iterator[None]:
        with of(phases, name):
            recorder.mark(name)
            yield
        recorder.mark("between phases")

    with mock.patch.object(Phases, "of", marked):
        yield


def of_preset(folder: Path, preset: str, size: float, **settings: Any) -> Iterator[dict[str, Any]]:
    """The rows of a preset.

    Args:
        size: GiB of the card that it is for.
        settings: laid over it.
    """
    from benchmarks.card.scale import QUICK, random_weights
    from benchmarks.counts import full_size_plan
    from library.preflight.forecast import GIB, OVERHEAD, forecast
    from library.training.run import Run
    from tools.pretended_card.allocator import Recorder, least
    from tools.pretended_card.pretending import pretended
    from tools.pretended_card.tensors import Card

    card = Card(numbers=False)
    card.allocator = recorder = Recorder()
    with pretended(card), random_weights(numbers=False):
        given = {**QUICK, "word_train_steps": 0, "device": "cuda", "vram_gb": size, **settings}
        plan = full_size_plan(folder, preset, output_dir=str(folder / Path(preset).stem), **given)
        predicted = forecast(plan).phases
        with phases_marked(recorder):
            Run(plan).train()
    for name, (allocated, reserved) in recorder.peaks.items():
        row = {"preset": Path(preset).stem, "phase": PHASES.get(name, name)}
        row |= {"tensors_gib": allocated / GIB, "reserved_gib": reserved / GIB}
        if name in PHASES:
            row["predicted_gib"] = (predicted[PHASES[name]] - OVERHEAD) / GIB
        yield row
    yield {"preset": Path(preset).stem, "phase": "the whole run", "least_gib": least(recorder.events) / GIB}


def main() -> None:
    """Runs the presets one after the other."""
    parser = argparse.ArgumentParser(description="What the presets for cards take on a pretended card.")
    parser.add_argument("--presets", nargs="+", type=int, default=[6, 8, 12, 16, 24], metavar="GB")
    parser.add_argument("--output_dir", type=Path, default=Path("output/benchmark"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        load(Path(temporary))
        import torch

        from benchmarks.record import read, table, write

        torch.set_num_threads(1)
        rows = []
        for size in given.presets:
            rows += of_preset(Path(temporary), f"presets/sd35m_{size}gb.toml", float(size))
            file, command = given.output_dir / "card_memory.json", ["python", "-m", "benchmarks.card_memory"]
            title = "Memory of the presets for cards, simulated"
            write(file, title, "counted", rows, COLUMNS, [*command, *sys.argv[1:]])
        print(table(read(file)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
