"""The runs of test_card.py: each on the CPU and on the pretended card, and what differs."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import bitsandbytes  # noqa: F401 - sees that there is no card, and takes its kernels for processors
import torch
from library.training.word_fit import WordFit
from safetensors.torch import load_file

import purecc_fuse
import purecc_generate
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, read_settings
from library.evaluation import audit, evaluate
from library.preflight.plan import Plan, make_plan
from library.report.log import read_log
from library.training.run import Run
from library.training.stage import Stage
from tests.card.checks import CHECKS
from tests.helpers.tiny import tiny_settings
from tests.helpers.places import ROOT
from tests.helpers.tiny import save_tiny_model
from tools.golden import pictures_in
from tools.pretended_card.pretending import pretended
from tools.pretended_card.tensors import Card

DEEP = 5
"""Blocks of a model deep enough to swap some."""
DATASET = """
[[concepts]]
name = "dog"
trigger = "sks"
class_word = "dog"

[[datasets]]
resolution = 32
batch_size = 2
  [[datasets.subsets]]
  image_dir = "{pictures}"

[[datasets]]
resolution = 48
batch_size = 1
  [[datasets.subsets]]
  image_dir = "{pictures}"
"""
"""Pictures of two sizes."""
TIMES = frozenset({"it_s"})
CLOSE, LEAST = 0.05, 1e-5
"""How far numbers may be apart, as a share of them, and tensors, as a share of their length; and what is nothing."""
MOST_SHOWN = 8
"""Differences of a run that are said."""


@dataclass(frozen=True)
class Case:
    """A run that is made twice.

    Args:
        settings: beside the tiny model's.
        preset: file of settings that it starts from, in `presets/`.
        first: settings of a run in the same folder before it, which it resumes.
        deep: of the model with more blocks.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    first: Mapping[str, Any] | None = None
    deep: bool = False


CASES = {
    # bf16, everything recomputed, all phases
    "pure": Case({"word_train_steps": 1, "sample_strengths": [0.0, 1.0], "validation_split": 0.25}, "pure"),
    # fp16 with its scaler, swapped nf4 blocks, what blocks begin from in the computer's memory, one pass at a time
    "lean": Case(
        {
            "mixed_precision": "fp16",
            "base_quantization": "nf4",
            "blocks_to_swap": 3,
            "cpu_offload_checkpointing": True,
            "batch_passes": "one_by_one",
            "network_dropout": 0.1,
            "context_vectors": 0,
        },
        "lean",
        deep=True,
    ),
    # float32, nothing recomputed, rounded base, elastic weight consolidation, an average
    "ewc": Case(
        {
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "base_quantization": "int8",
            "ema_decay": 0.9,
            "embedding_dropout": 0.5,
            "scale_weight_norms": 1.0,
        },
        "methods/ewc",
    ),
    # adapters in bf16, some blocks recomputed, 8-bit optimizer, accumulated gradients, resumed
    "paper": Case(
        {
            "full_bf16": True,
            "base_quantization": "fp8",
            "checkpointed_blocks": 1,
            "optimizer_type": "AdamW8bit",
            "gradient_accumulation_steps": 2,
            "save_state_on_train_end": True,
            "lr_scheduler": "constant",
        },
        "paper",
        first={"max_train_steps": 1},
    ),
    # whole weights in bf16, each with its step inside the backward pass
    "fused": Case({"full_bf16": True, "fused_backward_pass": True, "optimizer_type": "AdamW"}, "methods/dreambooth"),
    "words": Case(
        {"optimizer_type": "Prodigy", "learning_rate": 1.0, "embedding_lr": 1.0}, "methods/textual_inversion"
    ),
}
QUICK = {
    "extractor_train_steps": 1,
    "max_train_steps": 2,
    "replay_images": 2,
    "replay_sample_steps": 1,
    "context_train_steps": 1,
    "sample_steps": 1,
    "save_state": False,
    "audit": False,
    "seed": 7,
}


class Workshop:
    """Makes the runs.

    Args:
        folder: for models, pictures and all runs.

    Attributes:
        waits: how often the program waited for the card in the last step of each stage, by case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waits: dict[str, dict[str, int]] = {}
        self.model = save_tiny_model(folder / "tiny")
        self.deep_model = save_tiny_model(folder / "deep", blocks=DEEP)
        pictures = pictures_in(folder / "pictures", ["a [V] dog city", "a dog"], seed=0)
        (folder / "dataset.toml").write_text(DATASET.format(pictures=pictures))
        (folder / "replay.txt").write_text("a red {class}\na blue house\n")
        (folder / "samples.txt").write_text("a [V] dog\n")

    def plan(self, name: str, device: str, **settings: Any) -> Plan:
        """The plan of a case."""
        case = CASES[name]
        preset = TomlFile(ROOT / "presets" / f"{case.preset}.toml") if case.preset else None
        own = {**tiny_settings(self.deep_model if case.deep else self.model, self.folder), **QUICK}
        own |= {"cache_dir": str(self.folder / f"cache of the {device}"), "device": device}
        del own["gradient_checkpointing"], own["mixed_precision"]
        own |= {"output_dir": str(self.output(name, device)), **case.settings, **settings}
        read = read_settings(preset, own)
        return make_plan(read, read_dataset_config(TomlFile(self.folder / "dataset.toml"), read.data))

    def output(self, name: str, device: str) -> Path:
        """Where a case's files go."""
        return self.folder / f"{name} on {device}"

    def train(self, name: str, device: str) -> None:
        """The case's run, and the one before it."""
        case = CASES[name]
        if case.first is not None:
            _train(self.plan(name, device, **case.first))
            _train(self.plan(name, device, resume="auto"))
            return
        _train(self.plan(name, device))

    def trained_on_both(self, name: str) -> list[str]:
        """What differs between the case on the CPU and on the card."""
        self.train(name, "cpu")
        with pretended(Card()) as card, self._waits_counted(name, card):
            self.train(name, "cuda")
        return differences(self.output(name, "cpu"), self.output(name, "cuda"))

    def _waits_counted(self, name: str, card: Card) -> Any:
        step, waits = Stage.step, self.waits.setdefault(name, {})

        def counted(stage: Stage) -> dict[str, Any]:
            before = card.syncs.total()
            row = step(stage)
            waits[stage.name] = card.syncs.total() - before
            return row

        return mock.patch.object(Stage, "step", counted)

    # Commands, with what the run "pure" left

    def commands_on_both(self) -> list[str]:
        """What differs in what the other commands make on the CPU and on the card."""
        made = {}
        for device in ("cpu", "cuda"):
            with contextlib.nullcontext() if device == "cpu" else pretended(Card()):
                made[device] = self._commands(device)
        return [f"{name} differs" for name, one in made["cpu"].items() if not _alike(one, made["cuda"][name])]

    def _commands(self, device: str) -> dict[str, Any]:
        folder, out = self.output("pure", device), self.folder / f"commands on {device}"
        lora, config = folder / "tiny.safetensors", ["--config_file", str(folder / "config.toml")]
        prompts = self.folder / "prompts.txt"
        prompts.write_text("a [V] dog city\na dog\na red house\n")
        with mock.patch.object(sys, "argv", ["generate", *config, "--lora", str(lora), "--prompt", "a [V] dog"]):
            purecc_generate.main()
        lists = ["--prompts", str(prompts), "--preservation", str(prompts), "--seeds", "0", "--scorers", "none"]
        (out / "e").mkdir(parents=True)
        evaluate.run([*config, "--lora", str(lora), *lists, "--out", str(out / "e")])
        audit.run([str(lora), *config, "--audit_prompts", str(prompts), "--out", str(out / "a")])
        other = out / "other.safetensors"
        shutil.copy(lora, other)
        words = ["--lora", str(lora), str(other), "--prompt", "a sks dog", "a red dog", "--output_dir", str(out / "f")]
        with mock.patch.object(sys, "argv", ["fuse", *config, *words]):
            purecc_fuse.main()
        return {
            "evaluate": json.loads((out / "e" / "results.json").read_text())["aggregates"],
            "audit": json.loads((out / "a" / "audit.json").read_text())["loras"][0]["drift"],
            "fuse": {name: one.norm().item() for name, one in load_file(out / "f" / "tiny.safetensors").items()},
        }

    # Out of memory

    def runs_out_of_memory(self) -> None:
        """With auto_fit a run takes the steps down that it needs, and what failed leaves nothing behind."""
        with pretended(Card()) as card:
            run = Run(self.plan("pure", "cuda", auto_fit=True, vram_gb=24.0, word_train_steps=0, overwrite=True))
            step, held = Stage.step, []

            def short_of_memory(stage: Stage) -> dict[str, Any]:
                held.append(card.now)
                if len(held) == 2:
                    card.allocator.empty()
                    card.allocator.limit = card.allocator.reserved
                try:
                    return step(stage)
                finally:
                    card.allocator.limit = None

            with mock.patch.object(Stage, "step", short_of_memory):
                run.train()
        assert held[2] <= held[1], f"{held[2] - held[1]} bytes are still there after the step that failed"
        assert run.settings.optimizer.batch_passes == "one_by_one"


def _train(plan: Plan) -> None:
    run = Run(plan)
    run.looks = [WordFit()] if plan.settings.fits_words else []
    run.train()


def differences(cpu: Path, card: Path) -> list[str]:
    """What differs between a run's files on the CPU and on the card by more than rounding."""
    said = []
    logs = [[_numbers(row) for row in read_log(folder / "log.jsonl")] for folder in (cpu, card)]
    if len(logs[0]) != len(logs[1]):
        said.append(f"{len(logs[0])} and {len(logs[1])} steps")
    for one, two in zip(*logs, strict=False):
        far = {name: (value, two.get(name)) for name, value in one.items() if not _near(value, two.get(name))}
        said += [f"step {one.get('step')}: {far}"] if far else []
    for path in sorted(cpu.glob("*.safetensors")):
        one, two = load_file(path), load_file(card / path.name)
        for name, tensor in one.items():
            apart, length = float((tensor.float() - two[name].float()).norm()), float(tensor.float().norm())
            if not apart <= CLOSE * length:
                said.append(f"{path.name} {name}: {apart:.3g} of {length:.3g}")
    return said


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) and name not in TIMES}


def _near(one: float, two: float | None) -> bool:
    return two is not None and (abs(one - two) <= CLOSE * abs(one) + LEAST or (one != one and two != two))


def _alike(one: Any, two: Any) -> bool:
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_alike(value, two[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_alike, one, two))
    return _near(one, two) if isinstance(one, float) and isinstance(two, float) else one == two


def all_results(folder: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """What every check and every run came to: nothing if all is well, else what is wrong."""
    torch.set_num_threads(1)
    workshop = Workshop(folder)
    work: dict[str, Callable[[], Any]] = {**CHECKS}
    work |= {f"run {name}": partial(workshop.trained_on_both, name) for name in CASES}
    work |= {"commands": workshop.commands_on_both, "out of memory": workshop.runs_out_of_memory}
    wrong: dict[str, str] = {}
    with mock.patch("library.training.report_page.plot_log", lambda rows, path: None):
        for name, do in work.items():
            begin = time.process_time()
            wrong[name] = _wrong_with(do)
            say(f"{name}: {time.process_time() - begin:.1f} s {wrong[name]}")
    return {"wrong": wrong, "waits": workshop.waits}


def _wrong_with(do: Callable[[], list[str] | None]) -> str:
    talk = io.StringIO()
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            return "\n".join((do() or [])[:MOST_SHOWN])
    except Exception:
        return traceback.format_exc()[-3000:]
