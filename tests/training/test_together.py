"""Options that a run can combine: every pair of them is in some tiny run, with every kind of learnable.

Each option has its law, which must hold in every combination: a moving average is the average, a resumed run equals the
unbroken one, several processes make the step of one, and so on. Impossible pairs are refused.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from library.adapters.files import load_lora
from library.config.dataset_file import read_dataset_config
from library.config.family_settings import text_layers
from library.config.files import TomlFile, read_settings
from library.errors import ConfigError, Interrupted
from library.preflight.plan import Plan, make_plan
from library.report.log import read_log
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.datasets import DATASET, in_batches_of
from tests.helpers.runs import difference
from tests.helpers.tiny import tiny_settings

DECAY, STEPS = 0.9, 3
PLAIN = {
    "context_vectors": 0,
    "replay_images": 1,
    "replay_sample_steps": 1,
    "extractor_train_steps": 1,
    "max_train_steps": STEPS,
    "sample_steps": 1,
    "audit": False,
    "save_formats": ["diffusers"],
    "save_precision": "float",
    "max_grad_norm": 0.0,
}
KINDS = {
    "own": {"student_embeddings": "own"},
    "fresh": {"student_embeddings": "fresh", "eta": 0.0, "extractor_anchor_weight": 0.0},
    "shared": {"student_embeddings": "shared"},
    "none": {"method": "lora", "target_modules": text_layers()},
    "words": {"method": "textual_inversion", "embedding_lr": 1e-3},
}
"""What learns beside or instead of a LoRA."""
WHOLE = {"method": "dreambooth", "optimizer_type": "AdamW", "learning_rate": 1e-3, "fused_backward_pass": True}
OPTIONS = {
    "average": {"ema_decay": DECAY},
    "network_weights": {},
    "resume": {"save_state_every_n_steps": 1},
    "processes": {},
    "full_bf16": {"full_bf16": True},
    "fused": WHOLE,
    "fp16": {"mixed_precision": "fp16"},
}
REFUSED = {
    ("average", "full_bf16"): "full_bf16 keeps weights in bf16",
    ("network_weights", "fused"): "dreambooth trains none",
    ("network_weights", "words"): "textual_inversion trains none",
    ("processes", "fused"): "fused_backward_pass works in one process",
    ("fused", "fp16"): "fp16 needs the gradients",
}
"""Pairs that a run can't have, and what is said of them."""
PASSED_OVER = {
    ("full_bf16", "words"): "full_bf16",
    ("fused", "words"): "fused_backward_pass",
    ("fused", "own"): "student_embeddings",
    ("fused", "shared"): "student_embeddings",
}
"""Pairs of which one has no meaning beside the other: the setting that is said not to be used."""
MOST = 4
"""Options that a run has at most; more would make all runs as coarse as the coarsest option."""
Together = tuple[str, frozenset[str]]
"""What learns, and the options."""


def pairs_of(run: Together) -> set[tuple[str, str]]:
    """The pairs in a run, in the order of `OPTIONS`; what learns comes last."""
    kind, options = run
    ordered = [name for name in OPTIONS if name in options]
    return {*itertools.combinations(ordered, 2), *((name, kind) for name in ordered)}


def covering(impossible: Iterable[tuple[str, str]]) -> list[Together]:
    """A few runs that together have all possible pairs: each time the one with the most new pairs."""
    impossible = set(impossible)
    subsets = [frozenset(some) for size in range(MOST + 1) for some in itertools.combinations(OPTIONS, size)]
    runs = [run for run in itertools.product(KINDS, subsets) if not pairs_of(run) & impossible]
    left, chosen = set().union(*map(pairs_of, runs)), []
    while left:
        best = max(runs, key=lambda run: (len(pairs_of(run) & left), -len(run[1]), "fp16" not in run[1]))
        left -= pairs_of(best)
        chosen.append(best)
    return chosen


RUNS = covering([*REFUSED, *PASSED_OVER])


def test_every_pair_is_covered_or_refused():
    options = set(itertools.combinations(OPTIONS, 2)) | set(itertools.product(OPTIONS, KINDS))
    covered = set().union(*map(pairs_of, RUNS))
    assert covered.isdisjoint([*REFUSED, *PASSED_OVER]) and covered | set(REFUSED) | set(PASSED_OVER) == options


def settings_of(kind: str, options: Iterable[str]) -> dict:
    found = {**PLAIN, **KINDS[kind]}
    for option in options:
        found |= OPTIONS[option]
    if "fused" in options:  # its vectors are fresh, or there are none
        found = {**found, "with_embeddings": kind == "fresh"}
    return found


@pytest.mark.parametrize("pair", REFUSED, ids=" and ".join)
def test_what_no_run_can_have_together_is_refused_before_it_starts(plan_of, lora, pair):
    kind, options = (pair[1], pair[:1]) if pair[1] in KINDS else ("none", pair)
    given = {"network_weights": lora} if "network_weights" in pair else {}
    with pytest.raises(ConfigError, match=REFUSED[pair]):
        Run(plan_of(processes=2 if "processes" in pair else 1, **settings_of(kind, options), **given))


@pytest.mark.parametrize("pair", PASSED_OVER, ids=" and ".join)
def test_what_has_no_meaning_with_another_is_reported(pair):
    (option, kind), notices = pair, []
    read_settings(None, {"pretrained_model_name_or_path": "m", **OPTIONS[option], **KINDS[kind]}, notices)
    assert any(" does not use " in notice and PASSED_OVER[pair] in notice for notice in notices)


# Each run


def weights(run: Run) -> dict[str, Tensor]:
    """A copy of the student's learnable weights, by name, as float32."""
    learning = run.student.learnables
    return {
        f"{one.name} {name}": weight.detach().float().clone()
        for one in learning
        for name, weight in one.weights.items()
    }


def files(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the student's files."""
    paths = [path for path in sorted(folder.glob("tiny*.safetensors")) if "extractor" not in path.name]
    assert paths
    return {f"{path.name} {name}": tensor for path in paths for name, tensor in load_file(path).items()}


class Watched(Run):
    """Keeps the weights at the start and after each step."""

    def build_student(self) -> None:
        super().build_student()
        self.begin, self.seen = weights(self), []

    def step(self, stage: Stage) -> dict:
        row = super().step(stage)
        if stage.name == "student" and "skipped" not in row:
            self.seen.append(weights(self))
        return row


class Stops(Run):
    """Stops after step 2 of the student, as by Ctrl-C."""

    def step(self, stage: Stage) -> dict:
        row = super().step(stage)
        if (stage.name, stage.done) == ("student", 2):
            raise KeyboardInterrupt
        return row


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def lora(tiny_model, pictures, tmp_path_factory, cache):
    """A LoRA with vectors, which has learned something."""
    folder = tmp_path_factory.mktemp("learned before")
    (folder / "replay.txt").write_text("a red {class}\n")
    (folder / "samples.txt").write_text("a [V] dog\n")
    (folder / "dataset.toml").write_text(DATASET.format(pictures=pictures))
    given = {**tiny_settings(tiny_model, folder), **settings_of("fresh", []), "cache_dir": cache}
    read = read_settings(None, {**given, "max_train_steps": 2, "seed": 7})
    run = Run(make_plan(read, read_dataset_config(TomlFile(folder / "dataset.toml"), read.data)))
    run.train()
    return str(run.folder / "tiny_diffusers.safetensors")


def averaged(run: Watched) -> dict[str, Tensor]:
    """The average of the seen weights, computed directly."""
    mean = run.seen[0]
    for number, now in enumerate(run.seen[1:], 2):
        decay = min(DECAY, number / (9 + number))
        mean = {name: decay * mean[name] + (1 - decay) * now[name] for name in now}
    return mean


def losses_in(folder: Path) -> dict[tuple[str, int], float]:
    """The loss of each step of each stage; fp16 may have skipped one to reduce its scale."""
    return {(row["stage"], row["step"]): row.get("loss", 0.0) for row in read_log(folder / "log.jsonl")}


@pytest.mark.parametrize(("kind", "options"), RUNS, ids=[" ".join([kind, *sorted(some)]) for kind, some in RUNS])
def test_options_keep_their_laws_together(plan_of, in_two, lora, tmp_path, cache, kind, options):
    given = {**settings_of(kind, options), "cache_dir": cache}
    if "network_weights" in options:
        given["network_weights"] = lora

    def plan(folder: str, processes: int = 1, **other) -> Plan:
        dataset, where = in_batches_of(2 // processes), str(tmp_path / folder)
        return plan_of(dataset, processes, **{**given, **other, "output_dir": where})

    run = Watched(plan("whole"))
    run.train()
    losses = losses_in(run.folder)
    assert len(losses) >= STEPS and all(map(math.isfinite, losses.values()))
    assert off(run.seen[0], run.begin) > 0 and off(run.seen[-1], run.seen[0]) > 0, "it learns"
    if "average" in options:
        assert off(weights(run), averaged(run)) < 1e-5 < off(run.seen[-1], weights(run))
        assert_saved(run)
    if "network_weights" in options:
        assert_begin(run, lora)
    if "full_bf16" in options:
        learned = {weight.dtype for weight in run.parts.network.parameters("student")}
        assert learned == {torch.bfloat16}
    if "fused" in options:
        plain = Watched(plan("plain", fused_backward_pass=False, full_bf16=False))
        plain.train()
        assert off(run.seen[-1], plain.seen[-1]) < (0.3 if "full_bf16" in options else 0.02)
    if "fp16" in options:
        same = Watched(plan("float32", mixed_precision="no", max_train_steps=1))
        same.train()
        assert losses["student", 1] == pytest.approx(losses_in(same.folder)["student", 1], rel=1e-2)
    if "processes" in options:
        two = plan("two", 2)  # before the processes part: making one writes files
        assert in_two(lambda them: Run(two, them).train()) == [0, 0]
        coarse = bool({"fp16", "full_bf16"} & options)
        assert losses_in(tmp_path / "two") == pytest.approx(losses, rel=1e-2 if coarse else 1e-4)
        assert coarse or difference(files(tmp_path / "two"), files(run.folder)) < 1e-3
    if "resume" in options:
        assert_resumed(in_two, plan, 2 if "processes" in options else 1, tmp_path)


def off(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """The largest difference of any part, as a share of the second's norm."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).norm() / two[name].norm().clamp_min(1e-6)) for name in one)


def assert_saved(run: Watched) -> None:
    """The files hold the final weights: the average."""
    for name, one in run.student.branch.embeddings.items():
        saved = load_file(run.folder / "tiny_concept.safetensors")[f"lora_concept.{name}"]
        assert torch.equal(saved, one.per_block())
    if run.student.words:
        for clip, rows in run.student.words.rows["dog"].items():
            assert torch.equal(load_file(run.folder / "tiny_embedding.safetensors")[clip], rows)
    elif run.settings.method.method != "dreambooth":
        saved = load_lora(str(run.folder / "tiny_diffusers.safetensors"), len(run.parts.model.blocks))
        for name, layer in run.parts.network.layers.items():
            low_rank = layer.adapters["student"]
            torch.testing.assert_close(saved[name].delta(), low_rank.change(), rtol=1e-5, atol=1e-7)


def assert_begin(run: Watched, lora: str) -> None:
    """The run has started from the files."""
    given, coarse = load_lora(lora, len(run.parts.model.blocks)), run.settings.network.full_bf16
    for name, layer in given.items():
        ours = run.begin[f"student {name}.up"] @ run.begin[f"student {name}.down"]
        torch.testing.assert_close(
            ours, layer.delta(), rtol=0, atol=float(layer.delta().abs().max()) * (0.02 if coarse else 1e-5)
        )
    if "student_dog vectors vectors.moved" in run.begin:
        own = run.student.branch.embeddings["dog"]
        vectors = own.start + own.size * run.begin["student_dog vectors vectors.moved"]
        saved = load_file(lora.replace("_diffusers", "_concept"))["lora_concept.dog"]
        torch.testing.assert_close(vectors, saved, rtol=1e-5, atol=1e-6)


def assert_resumed(in_two, plan, processes: int, folder: Path) -> None:
    """A stopped and resumed run ends like the unbroken one, to the bit."""

    def train(kind: type[Run], where: str, **other) -> None:
        made = plan(where, processes, **other)  # before the processes part: making one writes files
        if processes == 1:
            kind(made).train()
        else:
            ended = in_two(lambda them: kind(made, them).train())
            assert set(ended) == {130 if kind is Stops else 0}

    if processes == 1:
        with pytest.raises(Interrupted):
            train(Stops, "stopped")
    else:
        train(Stops, "stopped")
    train(Run, "stopped", resume="auto")
    whole = folder / ("two" if processes == 2 else "whole")
    one, two = files(whole), files(folder / "stopped")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert losses_in(whole) == losses_in(folder / "stopped")
