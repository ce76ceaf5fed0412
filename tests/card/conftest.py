"""A process with a pretended GPU, and runs of the tiny model in it."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import pytest

from tests.helpers.datasets import DATASET
from tests.helpers.on_card import told
from tests.helpers.places import ROOT
from tests.helpers.tiny import tiny_settings
from tools.pretended_card.building import CannotBuild, build, insert

QUICK = {
    "extractor_train_steps": 1,
    "max_train_steps": 1,
    "replay_images": 2,
    "replay_sample_steps": 1,
    "context_train_steps": 1,
    "sample_steps": 1,
}
OF_PRESETS = ("mixed_precision", "gradient_checkpointing", "eta", "word_weight", "surroundings_weight", "ties")
"""Settings of tiny runs that presets set themselves."""


@pytest.fixture(scope="session")
def process():
    """`process(work, ...)` calls a function in a process with a pretended GPU, and raises here what it raised there."""
    try:
        made = build(ROOT / "build" / "pretended_card")
    except CannotBuild as error:
        pytest.skip(str(error))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=insert, initargs=(made,)) as pool:
        yield lambda work, *given: pool.submit(told, work, *given).result()


@pytest.fixture(scope="session")
def on_card(process, tiny_model, pictures, tmp_path_factory, shared_cache):
    """`on_card(work, preset=..., ...)` calls a function of `tests.helpers.on_card` with the settings of a small run.

    The run is on the pretended GPU. Calls with the same settings share a folder.
    """
    folder_of = cache(lambda key: tmp_path_factory.mktemp("card"))

    def call(work, *before, preset=None, dataset=DATASET, **settings):
        folder = folder_of((preset, dataset, *settings.items()))
        (folder / "replay.txt").write_text('a red {class}\n""\na blue house\n')
        (folder / "samples.txt").write_text("a [V] dog\n")
        (folder / "dataset.toml").write_text(dataset.format(pictures=pictures))
        common = {**tiny_settings(tiny_model, folder), **QUICK, "cache_dir": str(shared_cache), "device": "cuda"}
        path = ROOT / "presets" / f"{preset}.toml" if preset else None
        kept = {name: value for name, value in common.items() if not (preset and name in OF_PRESETS)}
        return process(work, *before, folder / "dataset.toml", path, {**kept, **settings})

    return call
