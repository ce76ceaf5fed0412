"""The cost of ten thousand pictures before and during training: python -m benchmarks.many_pictures

It uses tiny but real files in three formats, each with its own caption, and the model that comes with the project. It
measures the seconds and the process's memory after each part of a run's work, up to reading batches as a step does. The
cache may keep only a small part of its data in memory, so that growing memory would show.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import add_json_to, write
from library.environment import prepare_process
from library.errors import exit_code_of

COLUMNS = {"part": "part", "seconds": "seconds of the processor", "peak_mb": "most memory until then, MB"}
ENDINGS = ("png", "jpg", "webp")
BATCHES = 200
HELD = 8 << 20
"""How many bytes of the cache stay in memory."""
DATASET = """
[[concepts]]
name = "creature"
trigger = "sks"
class_word = "creature"
[[datasets]]
resolution = 64
batch_size = 8
enable_bucket = true
min_bucket_reso = 32
bucket_reso_steps = 16
validation_split = 0.1
[[datasets.subsets]]
image_dir = "{}"
"""


def make_pictures(folder: Path, count: int) -> None:
    """Writes N pictures of a few shapes, the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    for index in range(count):
        pixels = chance.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((96, 64 + 16 * (index % 4)))
        image.save(folder / f"{index:05d}.{ENDINGS[index % len(ENDINGS)]}")
        (folder / f"{index:05d}.txt").write_text(f"a [V] creature number {index} in the city by day")


def peak_mb() -> float | str:
    """The most memory that this process has used so far; "unknown" on Windows, which reports it differently."""
    try:
        import resource
    except ImportError:
        return "unknown"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(folder: Path, encoded: bool) -> list[dict]:
    """Does a run's work before its first step, and reads batches.

    Args:
        folder: of the pictures and the cache.
        encoded: also do what needs a model; without it, only plan.
    """
    from library.config.dataset_file import read_dataset_config
    from library.config.files import TomlFile, read_settings
    from library.data.latents import Latents
    from library.data.texts import TextLibrary
    from library.files.cache import Cache
    from library.preflight.doctor import findings
    from library.preflight.plan import describe_plan, make_plan

    given = {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "output")}
    settings = read_settings(TomlFile("presets/demo.toml"), given)
    (folder / "dataset.toml").write_text(DATASET.format(folder / "pictures"))
    config = read_dataset_config(TomlFile(folder / "dataset.toml"), settings.data)
    rows: list[dict] = []

    def timed(part: str, work: Callable, *given: object):
        begin = time.process_time()
        result = work(*given)
        rows.append({"part": part, "seconds": time.process_time() - begin, "peak_mb": peak_mb()})
        print(rows[-1], flush=True)
        return result

    timed("imports", lambda: None)
    plan = timed("plan", make_plan, settings, config)
    timed("the plan in words", describe_plan, plan)
    timed("the doctor", findings, plan)
    if not encoded:
        return rows
    for when in ("first run", "again"):
        model, cache = plan.parts.model, Cache(folder / "cache", most_held=HELD)
        latents, texts = Latents(model, cache), TextLibrary(model, cache, plan.parts.texts.layouts)
        timed(f"text, {when}", texts.prepare, plan.texts())
        timed(f"latents, {when}", latents.prepare, plan.pictures)

    def read(batches: range) -> None:
        for number in batches:
            for draw in plan.order.batch(number):
                latents.mean(draw.picture), [texts[text] for text in vars(draw.prompts).values()]

    timed(f"{BATCHES} batches", read, range(BATCHES))
    timed("all batches of an epoch", read, range(plan.order.batches_per_epoch))
    return rows


def main() -> None:
    """Measures, and writes many_pictures.json next to the pictures."""
    parser = argparse.ArgumentParser(description="What many pictures cost before and in training.")
    parser.add_argument("--count", type=int, default=10_000, help="Pictures. Default: 10000.")
    parser.add_argument("--folder", help="Where pictures and cache are kept for the next time. Default: nowhere.")
    parser.add_argument("--plan_only", action="store_true", help="Encode nothing.")
    add_json_to(parser, "many_pictures.json in the folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary)
        if not (folder / "pictures").is_dir():
            make_pictures(folder / "pictures", given.count)
        rows = measure(folder, not given.plan_only)
        title = f"{len(list((folder / 'pictures').glob('*.txt')))} pictures"
        command = ["python", "-m", "benchmarks.many_pictures", *sys.argv[1:]]
        write(given.json or folder / "many_pictures.json", title, "measured", rows, COLUMNS, command)


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
