"""purecc_evaluate.py evaluate: a whole evaluation on the tiny model, its controls, files and errors."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from library.errors import DataError, ModelError, PureCCError
from library.evaluation import prompt_export
from library.evaluation.evaluate import CONTROLS, run
from library.training.run import Run


@pytest.fixture
def words(plan_of, tmp_path):
    """A trained LoRA of the tiny model, and the command line that evaluates it."""
    files = Run(plan_of(student_embeddings="none", audit=False)).train()
    (tmp_path / "concept.txt").write_text("a [V] dog city\na [V] dog beach\na red [V] dog --changes_subject\n")
    (tmp_path / "kept.txt").write_text("a {class}\na {class} beach\na red house\n")
    lists = ["--prompts", str(tmp_path / "concept.txt"), "--preservation", str(tmp_path / "kept.txt")]
    config = ["--config_file", str(tmp_path / "output" / "config.toml"), "--lora", str(files[0])]
    return [*config, *lists, "--seeds", "0-1", "--out", str(tmp_path / "out")]


def results(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_an_evaluation_says_everything_and_strength_0_is_the_pretrained_model(words, tmp_path, monkeypatch):
    report = run([*words, "--scorers", "tests.helpers.scorers:PLAIN"])
    said = results(tmp_path)
    off = {name: arms["strength 0"]["value"] for name, arms in said["aggregates"].items() if "strength 0" in arms}
    assert off["delta text"] == 0 and off["leak, likeness"] == 0 and off["Seg-Cons"] == 100
    assert off["LPIPS, concept"] == 0 and off["pixels, class"] == 0 and off["velocity drift, class"] == 0
    assert "to the bit" in report and said["status"] == "done"
    (name,) = said["loras"]
    assert said["aggregates"]["Seg-Cons"][name]["value"] < 100 > said["aggregates"]["Seg-Cons"]["other noise"]["value"]
    assert said["aggregates"]["velocity drift, class"][name]["value"] > 0
    assert len(said["loras"][name]["sha256"]) == 64 and said["scorers"][0]["stands_in_for"] == "all"
    assert "pixels (stand-in for all)" in report and set(said["definitions"]) == set(said["aggregates"])
    rows = [row for row in said["pictures"] if row["arm"] == name]
    assert len(rows) == 12
    changed = [row for row in rows if row["prompt"] == "concept-03"]
    assert all("Seg-Cons" not in row and "delta text" in row for row in changed)
    assert Image.open(tmp_path / "out" / "worst_first.png").height > 100
    monkeypatch.setattr("library.evaluation.pictures.draw_as_set", None)  # nothing is drawn twice
    run([*words, "--scorers", "none"])
    assert set(results(tmp_path)["aggregates"]) == {
        f"{what}, {group}" for what in ("pixels", "velocity drift") for group in ("class", "unrelated")
    }


def test_pictures_made_elsewhere_have_no_paired_numbers_without_their_own_base(words, tmp_path):
    out = [tmp_path / name for name in ("uno", "flux")]
    for folder in out:
        lists = words[words.index("--prompts") : words.index("--out")]
        prompt_export.run(["--class_word", "dog", "--trigger", "sks", *lists, "--out", str(folder)])
        for number, line in enumerate((folder / "prompts.csv").read_text().splitlines()[1:]):
            Image.new("RGB", (32, 32), (number * 5, 90, 200)).save(folder / line.split(",")[2])
    external = [
        "--scorers",
        "tests.helpers.scorers:PLAIN",
        "--references",
        str(out[0]),
        "--external",
        f"UNO={out[0]}",
    ]
    report = run([*words, *external])
    found = results(tmp_path)["aggregates"]
    assert "UNO" in found["likeness"] and "UNO" not in found["delta text"] and "UNO" not in found["Seg-Cons"]
    assert "n/a" in report and "--external_base" in report
    run([*words, *external, "--external_base", f"UNO={out[1]}"])
    assert results(tmp_path)["aggregates"]["delta text"]["UNO"]["value"] == 0


def test_a_missing_weight_is_reported_before_a_picture_is_made(words, tmp_path):
    with pytest.raises(ModelError, match="--without hps"):
        run([*words, "--weights_dir", str(tmp_path)])
    assert not (tmp_path / "out").exists()


WRONG = [
    (["--references", "nowhere"], "the folder .*nowhere"),
    (["--external", "UNO=nowhere"], "the folder .*nowhere"),
    (["--external_base", "UNO=nowhere"], "no --external is named"),
    (["--scorers", "dinos"], "dino"),
    (["--prompts", "kept.txt"], r"lacks \[V\]"),
    (["--lora", "no_lora.safetensors"], "no_lora"),
    (["--lora", "another.safetensors"], "another model"),
]


def test_everything_is_checked_before_a_picture_is_made(words, tmp_path, monkeypatch):
    def no_pictures(*given, **how):
        raise AssertionError("a picture was made")

    monkeypatch.setattr("library.evaluation.pictures.draw_as_set", no_pictures)
    save_file({"weight": torch.zeros(2)}, tmp_path / "no_lora.safetensors")
    trained = load_file(words[words.index("--lora") + 1])
    wider = {name: torch.cat([one, one], dim=-1) if "lora_down" in name else one for name, one in trained.items()}
    save_file(wider, tmp_path / "another.safetensors")
    for options, says in WRONG:
        wrong = [str(tmp_path / one) if one.endswith((".txt", ".safetensors")) else one for one in options]
        with pytest.raises(PureCCError, match=says):
            run([*words, "--scorers", "none", *wrong])


def test_what_was_measured_before_a_scorer_failed_is_kept(words, tmp_path):
    with pytest.raises(DataError) as error:
        run([*words, "--scorers", "tests.helpers.scorers:PLAIN", "tests.helpers.scorers:BLIND"])
    assert "I see nothing" in str(error.value) and str(tmp_path / "out") in str(error.value)
    said = results(tmp_path)
    assert said["status"] == "partial, 1 of 2 scorers" and "Seg-Cons" in said["aggregates"]
    assert set(CONTROLS) < {row["arm"] for row in said["pictures"]}
