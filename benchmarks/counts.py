"""What a step costs at full size, counted without weights: python -m benchmarks.counts

Arithmetic, memory and traffic of each objective and of the authors' release, and the forecast of each preset for cards.
Everything runs on the meta device, so it needs no GPU, and two runs give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import FOLDER, write
from benchmarks.variants import AUTHORS, VARIANTS, settings_of
from library.environment import prepare_process
from library.errors import exit_code_of

if TYPE_CHECKING:
    from library.preflight.plan import Plan

COLUMNS = {
    "variant": "step",
    "resolution": "pixels",
    "recomputed": "blocks recomputed",
    "tflop": "TFLOP",
    "ratio": "relative to plain",
    "resident_gib": "weights, GiB",
    "peak_gib": "on top, GiB",
    "traffic_gb": "read and written, GB",
    "seconds": "predicted s on an RTX 3060",
}
FORMATS = {"tflop": ".1f", "traffic_gb": ".0f", "seconds": ".2f"}
PRESET_COLUMNS = {
    "preset": "preset",
    "batch": "images per step",
    "recomputed": "blocks recomputed",
    "swapped": "blocks swapped",
    "student": "stage 2, GiB",
    "step_s": "seconds per step of stage 2",
    "hours": "hours in total",
    "card": "on",
}
PRESET_FORMATS = {"step_s": ".1f", "hours": ".1f"}
PHASES = {
    "text": "text encoders",
    "encode": "VAE",
    "student": "stage 2, student",
    "sampling": "sampling",
    "decoding": "decoding",
}
"""The phases of the presets for cards, by their names in the forecast."""
CARD = "RTX 3060"
"""The card for which steps are predicted."""
PICTURES, SIDE = 5, 1024
DATASET = """
[[concepts]]
name = "subject"
trigger = "ohwx"
class_word = "backpack"
[[datasets]]
[[datasets.subsets]]
image_dir = "{}"
class_tokens = "a photo of a [V] backpack"
"""


def full_size_plan(
    folder: Path, preset: str, of: Path | None = None, blocks: int | None = None, **settings: Any
) -> Plan:
    """The plan of a preset for five square pictures on one of Stability's models as configurations alone.

    Args:
        folder: for model and pictures; what is there already is used.
        of: the model's configurations, None for those of Stable Diffusion 3.5 Medium.
        blocks: of the transformer, None for all of them.
    """
    import shutil

    from PIL import Image

    from library.config.dataset_file import read_dataset_config
    from library.config.files import TomlFile, read_settings
    from library.models.sd3.bundled_tokenizers import bundled_tokenizers
    from library.models.sd3.single_file import CONFIGURATIONS
    from library.preflight.plan import make_plan

    model, pictures, dataset = folder / "model", folder / "pictures", folder / "dataset.toml"
    if not model.exists():
        for one in filter(None, (CONFIGURATIONS[0], of)):
            shutil.copytree(one, model, ignore=shutil.ignore_patterns("tokenizers", "*.md"), dirs_exist_ok=True)
        tokenizers = bundled_tokenizers(CONFIGURATIONS[0] / "tokenizers")
        if blocks is not None:
            _cut(model / "transformer" / "config.json", blocks)
        for name, tokenizer in zip(("tokenizer", "tokenizer_2", "tokenizer_3"), tokenizers, strict=True):
            tokenizer.save_pretrained(model / name)
        pictures.mkdir()
        for number in range(PICTURES):
            Image.new("RGB", (SIDE, SIDE), (40 * number, 80, 120)).save(pictures / f"{number}.png")
        dataset.write_text(DATASET.format(pictures.as_posix()), encoding="utf-8")
    given = {"pretrained_model_name_or_path": str(model), "device": "cpu", "cache_dir": str(folder), **settings}
    read = read_settings(TomlFile(Path(preset)), given)
    return make_plan(read, read_dataset_config(TomlFile(dataset), read.data))


def _cut(config: Path, blocks: int) -> None:
    """The transformer's first blocks alone."""
    about = json.loads(config.read_text(encoding="utf-8"))
    about["num_layers"] = blocks
    about["dual_attention_layers"] = [number for number in about["dual_attention_layers"] if number < blocks]
    config.write_text(json.dumps(about), encoding="utf-8")


def count_variant(plan: Plan, variant: str) -> dict[str, Any]:
    """One step of stage 2 with the objective of a variant, or as the authors' release makes it."""
    from library.config.gpus import CARDS
    from library.predictions import STUDENT
    from library.preflight.forecast import GIB, count_step

    settings = plan.settings
    if variant == AUTHORS:
        held, memory = count_authors(plan)
        row = {"resident_gib": held / GIB, "peak_gib": memory.peak / GIB, "tflop": memory.flops / 1e12}
        work = memory.work
    else:
        step = count_step(plan.with_settings(settings_of(settings, variant)), STUDENT)
        work = step.footprint.work
        row = {"resident_gib": step.footprint.weights / GIB, "peak_gib": step.footprint.transient / GIB}
        row |= {"tflop": step.flops / 1e12, "learning": step.learning}
    row |= {"traffic_gb": work.traffic / 1e9, "operations": work.count, "seconds": work.seconds(CARDS[CARD])}
    recomputed = "all" if settings.model.gradient_checkpointing else "none"
    return {"variant": variant, "resolution": plan.size[0], "recomputed": recomputed, **row}


def count_authors(plan: Plan) -> tuple[int, Any]:
    """Bytes that the authors' step holds, and what one step counted."""
    import torch

    from benchmarks.authors import PROMPTS, AuthorsStep
    from library.models.memory.live_memory import LiveMemory, fused_attention, storage_bytes
    from library.models.memory.operations import META

    settings, model = plan.settings, plan.parts.model.counted()
    step = AuthorsStep(model, settings.network.network_dim, settings.model.gradient_checkpointing)
    rows = settings.data.train_batch_size
    pixels = torch.zeros(rows, 3, plan.size[1], plan.size[0], device=META)
    lengths = (model.clip_length, model.clip_length, model.t5_length)
    ids = [torch.zeros(PROMPTS * rows, length, dtype=torch.long, device=META) for length in lengths]
    state = 8 * sum(weight.numel() for weight in step.learning)
    with fused_attention(), LiveMemory() as memory:
        step.step(pixels, ids, torch.zeros(rows, device=META))
    return storage_bytes(step.held()) + state, memory


def variants(folder: Path, resolutions: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each objective, resolution and way to recompute."""
    for resolution in resolutions:
        for recomputed in (False, True):
            settings = {"gradient_checkpointing": recomputed, "checkpointed_blocks": "all"}
            plan = full_size_plan(folder, "presets/pure.toml", resolution=resolution, train_batch_size=1, **settings)
            plain = None
            for variant in (*VARIANTS, AUTHORS):
                row = count_variant(plan, variant)
                plain = plain or row["tflop"]
                yield {**row, "ratio": row["tflop"] / plain}


def presets(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each preset for cards: GiB of each phase, CUDA's own included, and the time."""
    from library.predictions import STUDENT
    from library.preflight.fit import card_of, fitted
    from library.preflight.forecast import GIB, PRESETS
    from library.preflight.times import phase_seconds, speed_for

    for size in PRESETS:
        plan = full_size_plan(folder, preset := f"presets/sd35m_{size}gb.toml", vram_gb=float(size))
        plan, predicted, _ = fitted(plan, card_of(plan.settings, plan.parts.model.device))
        speed = speed_for(plan.settings, plan.parts.model)
        yield {
            "preset": Path(preset).stem,
            "resolution": plan.size[0],
            "batch": plan.settings.data.train_batch_size,
            "recomputed": plan.parts.model.residence.recomputed or 24,
            "swapped": plan.settings.model.blocks_to_swap,
            **{name: predicted.phases[phase] / GIB for name, phase in PHASES.items()},
            "card": speed.name,
            "step_s": predicted.steps[STUDENT].seconds(speed),
            "hours": sum(phase_seconds(plan, predicted, speed).values()) / 3600,
        }


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(description="Counts steps and presets at full size, without weights.")
    parser.add_argument(
        "--resolution", nargs="+", type=int, default=[512, 1024], metavar="N", help="Default: 512 1024."
    )
    parser.add_argument("--only", choices=("objectives", "presets"), help="One of the two tables.")
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help="Folder for counts.json and presets.json.")
    arguments = parser.parse_args()
    from library.preflight.forecast import CUDA_CONTEXT, GIB
    from library.report.progress import bar_over

    command = ["python", "-m", "benchmarks.counts", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.only != "presets":
            rows = list(bar_over("objectives")(variants(folder, arguments.resolution)))
            title = "One step of stage 2, Stable Diffusion 3.5 Medium in bf16, one image"
            write(arguments.output_dir / "counts.json", title, "counted", rows, COLUMNS, command, FORMATS)
        if arguments.only != "objectives":
            rows = list(bar_over("presets")(presets(folder)))
            title = (
                "The presets for GPUs: GiB of stage 2, gaps between tensors simulated and "
                f"{CUDA_CONTEXT / GIB:.2f} assumed for CUDA, and time on a GPU of that size"
            )
            write(
                arguments.output_dir / "presets.json", title, "counted", rows, PRESET_COLUMNS, command, PRESET_FORMATS
            )


if __name__ == "__main__":
    prepare_process(needed=["peft"])
    sys.exit(exit_code_of(main, lambda: None))
