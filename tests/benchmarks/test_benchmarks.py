"""The benchmarks: their counts stay within budget, and they print what they wrote."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.counts import count_authors, count_variant, full_size_plan
from benchmarks.numerics import errors
from benchmarks.peaks import to_be_added_to
from benchmarks.record import origin, read, table, write
from benchmarks.start import started
from benchmarks.variants import PLAIN
from benchmarks.whole_run import ALL, CARD, PLAIN_STEPS, beside, count
from library.errors import ConfigError
from library.models.memory.live_memory import held_by, storage_bytes
from library.models.sd3.checkpoint_layouts import PARTS
from library.models.sd3.modules import blank
from tests.helpers.places import ROOT

BLOCKS = 3
"""Of the transformer, at full width: what is counted of a block is the same in each."""


@pytest.fixture(scope="module")
def full_width(tmp_path_factory):
    """`full_width(preset, ...)`: the plan of a preset on the full-size model with three blocks."""
    folder = tmp_path_factory.mktemp("full_width")

    def make(recomputed: bool):
        settings = {"gradient_checkpointing": recomputed, "checkpointed_blocks": "all", "resolution": 512}
        preset = str(ROOT / "presets" / "pure.toml")
        full_size_plan(folder, preset, train_batch_size=1, **settings)  # writes the model's folder
        file = folder / "model" / "transformer" / "config.json"
        config = {**json.loads(file.read_text()), "num_layers": BLOCKS, "dual_attention_layers": [0, 1]}
        file.write_text(json.dumps(config))
        return full_size_plan(folder, preset, train_batch_size=1, **settings)

    return make


@pytest.fixture(scope="module")
def ratios(full_width):
    """Arithmetic of each step relative to the plain one, with and without recomputing."""

    def count(recomputed: bool, names) -> dict[str, float]:
        plan = full_width(recomputed)
        tflop = {name: count_variant(plan, name)["tflop"] for name in (PLAIN, *names)}
        return {name: one / tflop[PLAIN] for name, one in tflop.items()}

    return {
        False: count(False, [name for name, (budget, _) in BUDGETS.items() if budget]),
        True: count(True, [name for name, (_, budget) in BUDGETS.items() if budget]),
    }


BUDGETS = {
    "L_CC + anchor (DOP)": (2.5, None),
    "paper: live base": (3.0, None),
    "PureCC, base detached": (2.5, 2.05),
    "PureCC + anchor": (None, 3.05),
    "PureCC + anchor + replay": (5.0, 4.4),
    "pure: all of it": (6.1, 5.35),
    "lean, with the word, in turns": (None, 2.45),
    "pure, with the word, in turns": (None, 2.45),
}
"""At most so many times a plain step's arithmetic: without recomputing, and with."""


@pytest.mark.parametrize("name", BUDGETS)
def test_no_step_costs_more_arithmetic_than_its_budget(name, ratios):
    for recomputed, budget in zip((False, True), BUDGETS[name], strict=True):
        if budget is None:
            continue
        assert 0.85 * budget < ratios[recomputed][name] <= budget, ratios[recomputed][name]


def test_the_authors_step_holds_two_models_and_all_encoders_and_computes_more_than_the_papers(full_width, ratios):
    plan = full_width(False)
    held, memory = count_authors(plan)
    files = plan.parts.model.files
    parts = {part: storage_bytes(held_by(blank(part, files.config(part)))) for part in PARTS}  # float32
    expected = parts["transformer"] + parts["vae"] + sum(parts[part] for part in PARTS if part.startswith("text")) / 2
    assert expected < held < 1.02 * expected  # the rest is adapters and their optimizer's state
    plain = count_variant(plan, PLAIN)["tflop"]
    assert memory.flops / 1e12 / plain > ratios[False]["paper: live base"] and memory.peak > 0


def test_inserted_errors_are_measured():
    generator = torch.Generator().manual_seed(0)
    v, r = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    lam, side = torch.ones(5), torch.randn(5, 4, 8, 8, generator=generator)
    exact = (v, r, lam)
    assert errors(exact, exact) == pytest.approx(
        {"size": 1.0, "v_error": 0, "r_error": 0, "shrink": 1, "lambda_error": 0}, abs=0.1
    )
    side -= (side * r).flatten(1).sum(1).view(-1, 1, 1, 1) / r.flatten(1).square().sum(1).view(-1, 1, 1, 1) * r
    side *= 0.5 * (r.flatten(1).norm(dim=1) / side.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    found = errors((1.1 * v, r + side, 0.8 * lam), exact)
    assert found["v_error"] == pytest.approx(0.1) and found["lambda_error"] == pytest.approx(0.2)
    assert found["r_error"] == pytest.approx(0.5) and found["shrink"] == pytest.approx(1 / 1.25)


def test_the_report_prints_every_result_as_it_was_written(tmp_path, monkeypatch, capsys):
    rows = [
        {"step": "plain", "ms": 62, "ratio": 1.0, "range": [0.98, 1.0231]},
        {"step": "pure", "ms": 240, "ratio": 0.0123},
    ]
    columns = {"step": "step", "ms": "ms", "ratio": "against plain", "range": "quartiles"}
    write(tmp_path / "step.json", "One step", "measured", rows, columns, ["python", "-m", "benchmarks.step"])
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "step.json")])
    report.main()
    said = capsys.readouterr().out
    assert "## One step" in said and "`python -m benchmarks.step`" in said and "Measured at" in said
    assert "| plain | 62 | 1.00 | 0.98 to 1.02 |" in said and "| pure | 240 | 0.012 |  |" in said
    assert table(json.loads((tmp_path / "step.json").read_text())) in said
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report"])
    with pytest.raises(SystemExit):
        report.main()
    assert "Run a benchmark first" in capsys.readouterr().err


def test_a_preset_is_added_to_a_result_that_says_what_counted_each_row(tmp_path):
    file, columns = tmp_path / "peaks.json", {"preset": "preset"}
    write(file, "Peaks", "counted", [{"preset": "a"}], columns, ["first"])
    file.write_text(json.dumps({**read(file), "commit": "0ld"}))
    for name in ("b", "c"):
        earlier = to_be_added_to(file, [Path(f"presets/{name}.toml")])
        write(file, "Peaks", "counted", [{"preset": name}], columns, [name], below=earlier)
    found = read(file)
    assert [row["preset"] for row in found["rows"]] == ["a", "b", "c"]
    runs = [("0ld", "first"), (found["commit"], "b"), (found["commit"], "c")]
    assert origin(found) == f"Counted {', then '.join(f'at commit {at} by `{command}`' for at, command in runs)}."
    with pytest.raises(ConfigError, match="has b already"):
        to_be_added_to(file, [Path("presets/b.toml"), Path("d.toml")])
    with pytest.raises(ConfigError, match="doesn't exist"):
        to_be_added_to(tmp_path / "none.json", [Path("d.toml")])


def test_a_whole_run_is_all_of_its_phases_in_plain_steps(full_width):
    found = count(full_width(True))
    steps = {row["phase"]: row["plain_steps"] for row in found["phases"]}
    assert list(steps)[-2:] == ["sheets", CARD] and "replay" in steps and "context" in steps
    assert sum(steps.values()) == pytest.approx(found["plain_steps"]) == pytest.approx(PLAIN_STEPS * found["times"])
    assert sum(row["share"] for row in found["phases"]) == pytest.approx(100)
    assert 400 < steps["stage 2, student"] < 1100, "400 steps, each with the concept and one tie"
    assert 3 < found["times"] < 9


def test_whole_runs_are_shown_side_by_side():
    long = [{"phase": f"stage {n}", "plain_steps": cost, "share": cost} for n, cost in ((1, 30.0), (2, 70.0))]
    short = [{"phase": "stage 2", "plain_steps": 50.0, "share": 100.0}]
    rows = beside({"lean": {"phases": short, "plain_steps": 50.0}, "pure": {"phases": long, "plain_steps": 100.0}})
    assert {row["phase"]: (row.get("lean"), row["pure"]) for row in rows} == {
        "stage 2": (50.0, 70.0),
        "stage 1": (None, 30.0),
        ALL: (50.0, 100.0),
    }
    assert rows[-1]["phase"] == ALL and rows[-1]["pure_share"] == 100.0


def test_a_start_ends_at_the_first_bar_of_a_stage(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.start.ROOT", tmp_path)
    (tmp_path / "purecc_train.py").write_text(
        "import time; print('Settings'); print('text: 1/1'); print('extractor: 0/2'); time.sleep(60)"
    )
    first, bar = started(["any"])
    assert (first["until"], bar["until"]) == ("the first line", "a stage's bar")
    assert first["cpu_s"] <= bar["cpu_s"] and first["wall_s"] <= bar["wall_s"] < 60


def test_a_start_that_fails_says_why():
    with pytest.raises(ConfigError, match="ended before its first step"):
        started(["--config_file", "presets/demo.toml", "--etta", "1"])
