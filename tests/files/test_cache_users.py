"""Every command that draws or measures registers its use of the cache, so that no other deletes what it needs."""

from pathlib import Path

import pytest
import toml

import purecc_evaluate
import purecc_fuse
import purecc_generate
from library.files.cache_limit import CacheUse, entries
from library.models.memory.operations import META
from library.parts.parts import Opened
from library.training.run import Run
from tests.helpers.another_process import done_by_another_process
from tests.helpers.datasets import DATASET

CAT = DATASET.replace('name = "dog"', 'name = "cat"').replace("sks", "ohwx")
QUICK = {"max_train_steps": 1, "extractor_train_steps": 1, "context_vectors": 0, "replay_images": 0, "audit": False}


class Seen(Exception):
    """The test has seen enough of a command."""


@pytest.fixture
def words(plan_of, tmp_path):
    """The command line of each command, all with one cache."""
    (tmp_path / "some.txt").write_text("a [V] dog city\na dog\na red house\n")
    (tmp_path / "one.txt").write_text("a [V] dog city\n")
    dog = str(Run(plan_of(**QUICK)).train()[0])
    cat = str(Run(plan_of(CAT, **QUICK, output_dir=str(tmp_path / "cat"))).train()[0])
    some, out = str(tmp_path / "some.txt"), ["--out", str(tmp_path / "out")]
    config = ["--config_file", str(tmp_path / "output" / "config.toml"), "--audit_prompts", some]
    evaluate = [
        "evaluate",
        "--lora",
        dog,
        "--prompts",
        str(tmp_path / "one.txt"),
        "--preservation",
        "none",
        "--scorers",
        "none",
    ]
    return {
        "generate": (purecc_generate, [*config, "--lora", dog, "--prompt", "a green [V] dog"]),
        "fuse": (purecc_fuse, [*config, "--lora", dog, cat, "--prompt", "a sks dog", "an ohwx dog"]),
        "evaluate": (purecc_evaluate, [*evaluate, *config, *out]),
        "audit": (purecc_evaluate, ["audit", dog, *config, *out]),
        "compare": (purecc_evaluate, ["compare", "--methods", "lora", "--checkpoints", "1", *config, *out]),
    }


def test_what_a_command_has_put_into_the_cache_stays_while_it_needs_it(words, tmp_path, monkeypatch):
    """Texts are encoded and the transformer is about to load when another process with a full cache ends."""
    cache, kept = tmp_path / "cache", []

    def shrink() -> None:
        with CacheUse(cache, limit=0):
            pass

    really = Opened.attach

    def attach(parts: Opened, *given) -> None:
        if parts.model.device == META:  # only counted, before anything is computed
            return really(parts, *given)
        before = len(entries(cache))
        done_by_another_process(shrink)
        kept.append((before, len(entries(cache))))
        raise Seen

    monkeypatch.setattr(Opened, "attach", attach)
    for name, (program, told) in words.items():
        monkeypatch.setattr("sys.argv", ["program", *told])
        with pytest.raises(Seen):
            program.main()
        (before, after) = kept.pop()
        assert before == after > 0, name
        done_by_another_process(shrink)
        assert not entries(cache), f"{name} has ended"


def test_loras_are_fused_at_the_size_that_the_dataset_says(words, monkeypatch):
    program, told = words["fuse"]
    monkeypatch.setattr("sys.argv", ["program", *told, "--resolution", "4096"])
    sizes = []
    monkeypatch.setattr("library.convert.fusing.fuse", lambda settings, loras, prompts, size, how: sizes.append(size))
    program.main()
    (table,) = toml.loads(Path(told[1]).read_text())["datasets"]
    assert sizes == [tuple(table["resolution"])] and sizes != [(4096, 4096)]
