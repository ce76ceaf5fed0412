"""The bench: its prompts, measures and comparisons."""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.method.__main__ import comparison_of
from benchmarks.method.arms import ARMS, CHECKPOINTS, STAGE_1
from benchmarks.method.compare import MEASURES, Comparison
from benchmarks.method.concepts import CONCEPTS, PROBES, SAID, TRIGGER, write_together
from benchmarks.method.measures import regions
from benchmarks.method.report import RESULTS, STEPS, write
from benchmarks.method.runner import group, left_to_do
from benchmarks.method.together.models import Together
from benchmarks.method.together.pairs import COLOURED, mixed_colours, others_colours, pairs_of
from benchmarks.method.together.recipes import (
    ADDED,
    AGGREGATED,
    ALONE,
    COLOURS,
    FUSED,
    JOINTLY,
    MIXED,
    RECIPES,
    SUBJECTS,
    TRIGGERS,
    WITH_STYLE,
    concepts_of,
    looks_of,
    trial_file,
)
from benchmarks.method.together.report import Results, lost_result, tables
from benchmarks.method.together.report import write as write_together_report
from benchmarks.method.trial import BASE, REPLAY_PROMPTS, Bench, Trial
from library.adapters.files import load_lora
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.drawing.sample_prompts import read_prompt_lines
from library.dual_branch_scheduler import Branch
from library.errors import ConfigError
from library.evaluation.measures.segmentation import best_match_iou
from library.files.atomic import write_tensors, write_text
from library.training.run import Run
from tools.pocket.pen import SIDE
from tools.pocket.scorer import HEADS, Look
from tools.pocket.tokenizers import LENGTH, clip_tokenizer
from tools.pocket.world import draw


@pytest.fixture(scope="module", params=CONCEPTS)
def concept(request):
    return CONCEPTS[request.param]()


def test_there_are_three_subjects_and_a_style():
    kinds = [make().kind for make in CONCEPTS.values()]
    assert kinds.count("subject") == 3 and kinds.count("style") == 1


def test_probes_are_always_the_same_and_fit_the_encoders(concept):
    probes, count = concept.probes(), clip_tokenizer("!")
    assert probes == CONCEPTS[concept.name]().probes()
    assert all(len(count(probe.text).input_ids) <= LENGTH for probe in probes)
    assert [probe.sort == "concept" for probe in probes] == [True] * PROBES + [False] * PROBES


def test_only_concept_probes_hold_the_trigger_and_no_base_does(concept):
    for probe in concept.probes():
        words = probe.text.split()
        assert (TRIGGER[concept.kind] in words) == (probe.sort == "concept")
        assert TRIGGER[concept.kind] not in probe.base.split()


def test_no_probe_asks_for_what_the_references_share(concept):
    for probe in concept.probes():
        if probe.sort == "concept":
            assert not {q for q, word in concept.trap.items() if probe.asked.get(q) == word}


def test_no_probe_is_a_replayed_prompt(concept):
    replayed = {line.replace("{class}", "creature") for line in read_prompt_lines(str(REPLAY_PROMPTS), "prompts")}
    same = {probe.base for probe in concept.probes()} & replayed
    assert len(same) <= 2, same


def test_a_truth_shows_the_concept_where_it_was_asked_for(concept):
    asked = [probe for probe in concept.probes() if probe.sort == "concept"]
    for scene, probe in zip(concept.truths(), asked, strict=True):
        assert {name: getattr(scene, name) for name in probe.asked} == probe.asked
        for question, word in concept.identity.items():
            assert word in HEADS[question]
            assert word == getattr(scene if hasattr(scene, question) else scene.creature, question)
        assert draw(scene).mask.any()


@pytest.mark.parametrize("captions", SAID)
def test_written_concepts_are_what_the_trainer_reads(concept, captions, tmp_path):
    data = concept.write(tmp_path, captions, pictures=2)
    settings = read_settings(TomlFile(BASE), {"dataset_config": str(data)})
    config = read_concepts_and_pictures(None, settings)
    assert config.concepts[0].kind == concept.kind
    texts = sorted(file.read_text().strip() for file in tmp_path.glob("pictures/*.txt"))
    assert len(texts) == 2 and all("[V]" in text for text in texts)
    if concept.kind == "subject":
        asked = {word for q in SAID[captions]["subject"] for word in [concept.trap.get(q, "big")]}
        assert asked <= set(texts[0].split())


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_made_of_settings(name):
    arm = ARMS[name]
    settings = read_settings(TomlFile(BASE), arm.settings)
    assert settings.needs_extractor or not arm.extractor or settings.pure_learning.eta == 0


def test_arms_with_one_extractor_agree_on_stage_1():
    settings = {name for arm in ARMS.values() for name in arm.settings}
    assert set(STAGE_1) <= settings


def test_trials_have_separate_files(tmp_path):
    asked = [(arm, concept, seed) for arm in ARMS for concept in CONCEPTS for seed in (0, 1, 11)]
    assert len({Trial(*one).file(tmp_path) for one in asked}) == len(asked)


def test_a_killed_bench_continues_with_the_trials_that_have_no_result(tmp_path, monkeypatch):
    class Killed(Bench):
        def __init__(self, work, model):
            self.work = work

        def run(self, trial):
            if trial.arm == "lean":
                raise KeyboardInterrupt
            return {"arm": trial.arm}

        def controls(self, concept):
            return [{"arm": "pretrained"}]

        def keep_pictures(self, trial):
            """It has none."""

        keep_pretrained = keep_pictures

    monkeypatch.setattr("benchmarks.method.trial.Bench", Killed)
    arms = ["DOP", "lean", "pure"]
    with pytest.raises(KeyboardInterrupt):
        group(tmp_path, "", "mask", 1, arms, [], 1)
    left = left_to_do(tmp_path, arms, ["mask", "bib"], [0, 1])
    assert left == {("mask", 0): arms, ("bib", 0): arms, ("mask", 1): ["lean", "pure"], ("bib", 1): arms}


def test_seg_cons_knows_equal_and_other_pictures():
    one = torch.zeros(8, 8, dtype=torch.long)
    one[:, 4:] = 3
    half = one.clone()
    half[:, 6:] = 0
    assert best_match_iou(regions(one), regions(one)) == 1
    assert best_match_iou(regions(one), regions(3 - one)) == 1, "which region is called what does not matter"
    assert best_match_iou(regions(one), regions(half)) == pytest.approx((4 / 6 + 2 / 4) / 2)


# Comparing


def result(arm, values, concept="mask", seed=0, spread=0.0):
    """A trial with this fidelity at its checkpoints, and ten times that for all other measures."""
    rng = np.random.default_rng(seed)
    checkpoints = []
    for steps, value in values.items():
        around = (value + spread * rng.standard_normal(8)).tolist()
        probes = {"concept": {"fidelity": [value] * 8}, "class": {}, "unrelated": {}}
        for measure, sorts in MEASURES.values():
            for sort in sorts:
                probes[sort][measure] = [10 * one for one in around]
        checkpoints.append({"steps": steps, "probes": probes})
    return {"arm": arm, "concept": concept, "seed": seed, "checkpoints": checkpoints, "strengths": []}


CONTROLS = [result("pretrained", {0: 0.0}), result("drawn", {0: 1.0})]


def test_measures_are_read_where_fidelity_is_reached():
    comparison = Comparison([*CONTROLS, result("quick", {10: 0.4, 20: 0.8}), result("never", {10: 0.1, 20: 0.2})])
    quick, never = comparison.rows(0.6)
    assert (quick.reached, never.reached) == (1, 0)
    assert quick.steps == pytest.approx(15)
    assert quick.figures["drift"].value == pytest.approx(6)
    assert np.isnan(never.figures["drift"].value)
    assert comparison.rows(0.2)[0].steps == pytest.approx(5), "between the pretrained model and the first checkpoint"


def test_the_pretrained_model_and_drawn_pictures_are_the_scale():
    controls = [result("pretrained", {0: 0.2}), result("drawn", {0: 0.6})]
    comparison = Comparison([*controls, result("arm", {10: 0.4, 20: 0.6})])
    assert comparison.rows(0.75)[0].steps == pytest.approx(15)


@pytest.mark.parametrize("name", ["pure", "lean"])
def test_an_arm_is_the_preset_of_its_name(name):
    preset, arm = (
        read_settings(TomlFile(Path(f"presets/{name}.toml"))),
        read_settings(TomlFile(BASE), ARMS[name].settings),
    )
    assert preset.pure_learning == replace(arm.pure_learning, replay_sample_steps=20)
    assert (preset.concept_embeddings, preset.network) == (arm.concept_embeddings, arm.network)


def test_students_scored_with_their_vectors_are_a_separate_method(tmp_path):
    arm = result("lean", {10: 0.4})
    arm["with_vectors"] = result("", {10: 0.8})["checkpoints"]
    rows = {row.arm: row for row in Comparison([*CONTROLS, arm]).rows(0.6)}
    assert rows["lean"].reached == 0 and rows["lean, with vectors"].reached == 1
    text = write(Comparison([*CONTROLS, arm]), tmp_path, tmp_path / "out", (0.3,), "pure", 0)
    assert "| lean, with vectors | 1 of 1 |" in text


def test_a_lora_that_acts_in_parts_is_scored_as_its_file_in_a_plain_loader_too(tmp_path, monkeypatch):
    for name, few in (("concepts.PROBES", 2), ("drawing.STEPS", 1)):
        monkeypatch.setattr(f"benchmarks.method.{name}", few)
    scored = Bench(tmp_path, "pocket/model").run(Trial("token-masked LoRA", "bib", 0, checkpoints=(2,)))
    drifts = [scored[way][0]["probes"]["class"]["drift"] for way in ("checkpoints", "as_file")]
    assert not any(drifts[0]) and all(drifts[1]), "UIs apply it to prompts without the trigger, too"
    both = result("T-LoRA", {10: 0.4}) | {"as_file": result("", {10: 0.2})["checkpoints"]}
    reached = {row.arm: row.reached for row in Comparison([*CONTROLS, both]).rows(0.3)}
    assert reached == {"T-LoRA": 1, "T-LoRA, in a plain loader": 0}


def test_a_difference_is_of_the_trials_that_both_reach():
    better = [result("better", {10: 0.6}, seed=seed, spread=0.02) for seed in range(4)]
    for one in better:
        one["checkpoints"][0]["probes"]["class"]["contamination"] = [1.0] * 8
    worse = [result("worse", {10: 0.6}, seed=seed, spread=0.02) for seed in range(3)]
    comparison = Comparison([*CONTROLS, *better, *worse])
    count, figures = comparison.differences("better", "worse", 0.5)
    assert count == 3
    assert figures["contamination"].high < 0
    assert figures["drift"].low <= 0 <= figures["drift"].high


def test_an_interval_holds_the_mean_and_narrows_with_trials():
    few = Comparison([*CONTROLS, *(result("arm", {10: 0.6}, seed=s, spread=0.3) for s in range(2))]).rows(0.5)[0]
    many = Comparison([*CONTROLS, *(result("arm", {10: 0.6}, seed=s, spread=0.3) for s in range(40))]).rows(0.5)[0]
    for figure in (few.figures["drift"], many.figures["drift"]):
        assert figure.low <= figure.value <= figure.high
    width = [figure.high - figure.low for figure in (few.figures["drift"], many.figures["drift"])]
    assert 0 < width[1] < width[0]


def test_strengths_are_read_off_finished_students():
    arm = result("arm", {10: 0.4, 20: 0.8})
    arm["strengths"] = [{"strength": 0.5, "probes": result("", {0: 0.2})["checkpoints"][0]["probes"]}]
    by_strength = Comparison([*CONTROLS, arm]).strengths("arm")
    assert list(by_strength) == [0.5, 1.0]
    assert by_strength[0.5]["fidelity"] == pytest.approx(0.2) and by_strength[1.0]["drift"] == pytest.approx(8)


def test_a_report_has_every_method_a_plot_and_a_table_of_differences(tmp_path):
    arms = [result("pure", {10: 0.4, 20: 0.8}), result("plain LoRA", {10: 0.3, 20: 0.5})]
    for one in arms:
        one["strengths"] = [{"strength": 0.5, "probes": one["checkpoints"][0]["probes"]}]
        pictures = torch.zeros(2 * PROBES, 3, SIDE, SIDE, dtype=torch.uint8)
        write_tensors(Trial(one["arm"], "mask", 0).file(tmp_path).with_suffix(".safetensors"), {"pictures": pictures})
    text = write(Comparison([*CONTROLS, *arms]), tmp_path, tmp_path / "out", (0.4, 0.7), "pure", 0)
    assert text.count("| plain LoRA |") == 8, "three times at each fidelity, and by two strengths"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "method.json",
        "tables.md",
        "method.png",
        "sheet-mask.png",
    }


def test_a_report_reads_the_results_of_its_seeds_alone(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no results of seed 1 2"):
        comparison_of(tmp_path, [1, 2])
    trials = [*CONTROLS, *({**result("lean", {10: 0.4}), "seed": seed} for seed in (1, 2, 5))]
    for k, trial in enumerate(trials):
        write_text(tmp_path / "trials" / f"{k}.json", json.dumps(trial))
    assert [one["seed"] for one in comparison_of(tmp_path, [1, 2]).arms["lean"]] == [1, 2]
    with pytest.raises(ConfigError, match=r"holds no results of seed 3"):
        comparison_of(tmp_path, [3])


def test_the_tables_of_the_docs_have_the_numbers_of_the_comparison():
    trained = {"pure": {10: 0.4, 20: 0.8}, "plain LoRA": {10: 0.3, 20: 0.5}, "pure, eta 2": {10: 0.21, 20: 0.22}}
    comparison = Comparison([*CONTROLS, *(result(arm, curve) for arm, curve in trained.items())])
    made = {name: one(comparison, level=0.4, against="pure") for name, one in RESULTS.items()}
    row = next(row for row in comparison.rows(0.4) if row.arm == "pure")
    methods = {one["arm"]: one for one in made["methods"]["rows"]}
    assert methods.keys() == {"plain LoRA", "pure"} and methods["pure"]["reached"] == "1 of 1"
    assert methods["pure"]["drift"][0] == row.figures["drift"].value and methods["pure"]["steps"] == row.steps
    finished = {one["arm"]: one for one in made["finished"]["rows"]}
    assert finished["plain LoRA"]["fidelity"][0] == pytest.approx(comparison.curve("plain LoRA")[1]["fidelity"][-1])
    assert finished["plain LoRA"]["steps"] == 20 and finished["plain LoRA"]["reached"] == "1 of 1"
    assert made["promise"]["rows"][-1] == {"promise": STEPS, "plain LoRA": "15", "pure": "**10**"}
    assert [one["arm"] for one in made["differences"]["rows"]] == ["plain LoRA"]
    parts = {one["arm"]: one for one in made["parts"]["rows"]}
    assert parts.keys() == {"pure", "pure, eta 2"}
    assert parts["pure"]["drift"] == row.figures["drift"].value and parts["pure"]["reached"] == "1 of 1"
    assert parts["pure, eta 2"]["reached"] == "0 of 1" and parts["pure, eta 2"]["drift"] is None
    weak = comparison.curve("pure, eta 2")[1]["fidelity"][-1]
    assert parts["pure, eta 2"]["end_fidelity"] == pytest.approx(weak) and weak < 0.4
    assert all(set(one["columns"]) - {"lean"} == set(one["rows"][0]) for one in made.values())


def test_a_trial_on_the_bundled_model_is_scored_and_shares_its_extractor(tmp_path, monkeypatch):
    for name, few in (("concepts.PROBES", 4), ("drawing.STEPS", 3)):
        monkeypatch.setattr(f"benchmarks.method.{name}", few)
    short = {"extractor_train_steps": 2, "replay_images": 4, "replay_sample_steps": 2, "context_train_steps": 4}
    bench = Bench(tmp_path, "pocket/model", short)
    first, controls = bench.run(Trial("pure", "bib", 0, checkpoints=(1, 3))), bench.controls(CONCEPTS["bib"]())
    assert [checkpoint["steps"] for checkpoint in first["checkpoints"]] == [1, 3]
    (extractor,) = tmp_path.glob("extractors/*")
    with monkeypatch.context() as untrained:
        untrained.setattr(Run, "extractor_stage", lambda self: pytest.fail("trained again"))
        again = bench.run(Trial("pure, eta 2", "bib", 0, checkpoints=(1,)))
    assert [*tmp_path.glob("extractors/*")] == [extractor]
    assert [checkpoint["steps"] for checkpoint in first["with_vectors"]] == [1, 3]
    assert first["with_vectors"][1]["probes"]["concept"] != first["checkpoints"][1]["probes"]["concept"]
    drifts = [of["probes"]["class"]["drift"] for of in (first["with_vectors"][1], first["checkpoints"][1])]
    assert drifts[0] == drifts[1], "prompts without the concept have no vectors"
    comparison = Comparison([*controls, first, again])
    assert 0 <= comparison.scales["bib"].floor < comparison.scales["bib"].ceiling <= 1
    itself = controls[0]["checkpoints"][0]["probes"]
    assert not any(itself["class"]["pixels"]), "the pretrained model does not differ from itself without the concept"
    other = controls[1]["checkpoints"][0]["probes"]
    assert np.mean(other["class"]["pixels"]) > np.mean(first["checkpoints"][0]["probes"]["class"]["pixels"])
    assert first["log"]["area"] < first["log"]["r_inside"] < 1


def test_the_checkpoints_grow():
    assert list(CHECKPOINTS) == sorted(set(CHECKPOINTS))


# Several concepts in one model


def test_several_concepts_are_written_for_one_run_each_with_its_trigger(tmp_path):
    chosen = concepts_of()
    data = write_together([*chosen.values()], tmp_path, "partial", pictures=2)
    config = read_concepts_and_pictures(None, read_settings(TomlFile(BASE), {"dataset_config": str(data)}))
    assert {one.name: one.trigger for one in config.concepts} == TRIGGERS
    assert [subset.concept for subset in config.datasets[0].subsets] == [*TRIGGERS]
    for name, one in chosen.items():
        assert len(list((tmp_path / name / "pictures").glob("*.png"))) == 2
        others = [probe.text.replace(one.trigger, TRIGGER[one.kind]) for probe in one.probes()]
        assert others == [probe.text for probe in CONCEPTS[name]().probes()], "the same prompts, with another word"


def test_all_together_figures_are_known_to_the_trials():
    names = [RECIPES[recipe].ways for recipe in RECIPES]
    assert {way for ways in names for way in ways} == {ADDED, AGGREGATED, *JOINTLY, *FUSED}
    files = {trial_file(Path(), recipe, way, 0) for recipe, one in RECIPES.items() for way in (ALONE, *one.ways)}
    assert len(files) == sum(1 + len(one.ways) for one in RECIPES.values())


def together_result(recipe, way, fidelity, looks=0.0):
    concepts = {}
    for name in TRIGGERS:
        concept = {"fidelity": [fidelity] * 4, COLOURS: [2 * looks] * 4}
        concept |= {looks_of(other): [looks] * 4 for other in TRIGGERS if other != name}
        probes = {"concept": concept, "class": {}, "unrelated": {}}
        for measure, sorts in MEASURES.values():
            for sort in sorts:
                probes[sort][measure] = [10 * fidelity] * 3 + [None if measure == "trap_unasked" else 10 * fidelity]
        concepts[name] = probes
    pairs = {pair.name: {MIXED: [looks] * 4} for pair in pairs_of([*concepts_of().values()])}
    return {"recipe": recipe, "way": way, "seed": 0, "concepts": concepts, "pairs": pairs}


def test_what_is_lost_by_being_together_is_taken_prompt_by_prompt():
    controls = [together_result("pretrained", "", 0.2), together_result("drawn", "", 0.7)]
    trials = [together_result("lean", ALONE, 0.6, 0.1), together_result("lean", "jointly", 0.5, 0.25)]
    results = Results([*controls, *trials])
    assert results.models() == [("lean", ALONE), ("lean", "jointly")]
    assert results.figure(("lean", ALONE), "fidelity").value == pytest.approx(0.8), "of what can be had"
    assert results.difference(("lean", "jointly"), "fidelity").value == pytest.approx(-0.2)
    assert results.difference(("lean", "jointly"), "others").value == pytest.approx(0.15)
    assert results.difference(("lean", "jointly"), "trap_unasked").value == pytest.approx(-1)
    assert results.difference(("lean", "jointly"), COLOURS).value == pytest.approx(0.3)
    assert results.in_one_prompt(("lean", "jointly"), "mask and stripes", MIXED).value == pytest.approx(0.25)
    cells = "*0.150 (0.150 to 0.150)* | *0.300 (0.300 to 0.300)*"
    assert f"| lean, jointly | *-0.20 (-0.20 to -0.20)* | {cells} |" in tables(results)


def test_two_concepts_are_asked_for_in_one_prompt_that_fits_the_encoders():
    pairs, count = pairs_of([*concepts_of().values()]), clip_tokenizer("!")
    assert [pair.name for pair in pairs[:3]] == ["mask and stripes", "mask and bib", "mask in glass"]
    for pair in pairs:
        for probe in pair.probes():
            words = probe.text.split()
            assert [word for word in words if word in TRIGGERS.values()] == [one.trigger for one in pair.both]
            assert not set(TRIGGERS.values()) & set(probe.base.split())
            assert len(count(probe.text).input_ids) <= LENGTH
            assert probe.asked["background"] not in {one.trap.get("background") for one in pair.both}
        assert pair.probes() == pair.probes()


def test_colours_of_others_are_seen_where_they_are_and_nowhere_else():
    mask, bib, stripes = (concepts_of()[name].identity for name in ("mask", "bib", "stripes"))

    def seen(**colours):
        chances = {
            question: torch.tensor([[float(word == colours.get(question, mask[question])) for word in HEADS[question]]])
            for question in COLOURED
        }
        return Look(chances, torch.zeros(1, 1), torch.zeros(1, 1, 1))

    others = [bib, stripes]
    assert others_colours(seen(), mask, others).item() == 0
    assert others_colours(seen(colour=bib["colour"]), mask, others).item() == pytest.approx(1 / 3)
    assert others_colours(seen(colour=bib["colour"], socks=stripes["socks"]), mask, others).item() == pytest.approx(
        2 / 3
    )
    assert mixed_colours(seen(), mask, bib).item() == 0 == mixed_colours(seen(**bib_colours(bib)), mask, bib).item()
    assert mixed_colours(seen(socks=bib["socks"]), mask, bib).item() == pytest.approx(2 / 6)


def bib_colours(identity):
    return {question: identity[question] for question in COLOURED}


@pytest.fixture
def short_together(monkeypatch):
    """The bench of several concepts with few prompts, and a step of training for each concept."""
    monkeypatch.setattr("benchmarks.method.concepts.PROBES", 2)
    monkeypatch.setattr("benchmarks.method.together.pairs.PROMPTS", 1)
    monkeypatch.setattr("benchmarks.method.drawing.STEPS", 1)
    monkeypatch.setattr("benchmarks.method.together.recipes.Recipe.steps", lambda recipe, concepts: concepts)
    monkeypatch.setattr("library.convert.fusing.MOST_NEUTRAL", 2)
    monkeypatch.setitem(FUSED, "fused", {"steps": 1})


def test_concepts_come_into_one_model_and_what_is_there_is_not_made_again(tmp_path, short_together):
    results = Together(tmp_path, "pocket/model", 0, [*TRIGGERS]).controls()
    assert not any(results[0]["concepts"]["bib"]["class"]["pixels"]), "the pretrained model is itself"
    together = Together(tmp_path, "pocket/model", 0, SUBJECTS)
    results += [together.trial("CIFC", way) for way in (ALONE, AGGREGATED)]
    made = [*tmp_path.rglob("student.safetensors")]
    for file in made:
        os.utime(file, (1, 1))
    results += [
        together.trial("CIFC", ADDED),
        *(together.trial("Mix-of-Show", way) for way in ("fused", "jointly")),
    ]
    assert len(made) == 3 and all(file.stat().st_mtime == 1 for file in made)
    drifts = [[of["class"]["drift"] for of in one["concepts"].values()] for one in results if one["way"]]
    assert len({str(one) for one in drifts}) == len(drifts), "each way is a model of its own"
    assert [set(one["pairs"]) == {"mask and stripes", "mask and bib", "stripes and bib"} for one in results[3:]] == [
        True
    ] * 4, "and each is asked for every two at once"
    downs = [load_lora(tmp_path / f"loras/{path}/student.safetensors", 3) for path in LEARNED]
    same = [all(torch.equal(one[name].down, other[name].down) for name in one) for one, other in pairwise(downs)][::2]
    assert same == [True, False], "the second of a sequence is held off from the first"
    lost = {row["model"]: row for row in lost_result(Results(results))["rows"]}["Mix-of-Show, fused"]
    assert lost["fidelity"] != lost["fidelity_alone"]
    report = write_together_report(Results(results), tmp_path, tmp_path / "out")
    assert report.count("| CIFC, aggregated |") == 4
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "together-tables.md",
        "together.json",
        "together.png",
    }


def test_lean_is_fused_and_drawn_by_its_words_alone(tmp_path, monkeypatch, short_together):
    short = {"replay_images": 4, "replay_sample_steps": 2, "context_train_steps": 2}
    together = Together(tmp_path, "pocket/model", 0, WITH_STYLE, short)
    drawn = []
    monkeypatch.setattr(
        "benchmarks.method.together.models.Branch",
        lambda *args, **given: drawn.append(Branch(*args, **given)) or drawn[-1],
    )
    result = together.trial("lean, with a style", "fused")
    (folder,) = tmp_path.glob("loras/*/fused")
    assert (folder.parent / "mask" / "student_concept.safetensors").exists(), "there are vectors, which are not used"
    assert len(drawn) == 2 and not any(branch.embeddings for branch in drawn)
    assert set(result["pairs"]) == {"mask in glass"} and looks_of("glass") in result["pairs"]["mask in glass"]
    assert (
        looks_of("glass") in result["concepts"]["mask"]["concept"]
        and COLOURS not in result["concepts"]["mask"]["concept"]
    )


LEARNED = ("CIFC-0/mask", "Mix-of-Show-0/mask", "CIFC-0/stripes", "Mix-of-Show-0/stripes")
