"""The drift report card: what its numbers mean, and how it handles files, prompts and mistakes."""

import json

import pytest
import torch

import library.evaluation.drift as drift
from library.adapters.files import load_lora, write_lora
from library.config.dataset import Concept
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import ConfigError, ModelError
from library.evaluation.audit import run
from library.evaluation.card import DRIFT_STEPS, TOWARD_STEPS, best_of, card_of, letter
from library.evaluation.drift import Learned, Probe, Shift, reference_gain, shifts
from library.evaluation.probes import probes_of, read_probes
from library.evaluation.quick import PASSES_OF_A_PROBE, PASSES_OF_A_STEP, SHARE, QuickAudit
from library.evaluation.student import loras_in
from library.flow import velocity_target
from library.prepare.regions import split
from library.training.run import Run
from tests.helpers.tiny import BLOCKS

DOG = Concept(name="rex", trigger="sks", class_word="dog")
STUDENT = Branch({}, {}, default="student")
PROBE = Probe("class", "a dog", "a sks dog", None, seed=0)


def field(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def velocities(monkeypatch):
    """Replaces the velocities of each branch and text with a test's values."""

    def set_to(pretrained, student):
        def velocity(parts, branch, x_t, sigma, texts):
            of = pretrained if branch is PRETRAINED_BRANCH else student
            return torch.cat([of(text).expand(1, *x_t.shape[1:]) for text in texts])

        monkeypatch.setattr(drift, "velocity_of", velocity)

    return set_to


def of_one_probe(probe: Probe) -> Shift:
    return shifts(None, STUDENT, [probe], [torch.zeros(4, 8, 8)])[0]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_leak_is_the_share_of_the_concept_that_comes_without_its_trigger(velocities, share):
    before, concept = field(0), field(1)
    velocities(lambda text: before, lambda text: before + (concept if "sks" in text else share * concept))
    shift = of_one_probe(PROBE)
    assert shift.leak == pytest.approx(share, abs=1e-5)
    assert shift.mean_drift == pytest.approx(share * float(concept.norm() / before.norm()), rel=1e-5, abs=1e-7)
    assert shift.scale[0] == pytest.approx(float(concept.norm() / before.norm()), rel=1e-5)


def test_what_has_nothing_to_do_with_the_concept_drifts_and_does_not_leak(velocities):
    before, concept, other = field(0), field(1), field(2)
    other = other - (other * concept).sum() / concept.square().sum() * concept
    velocities(lambda text: before, lambda text: before + (concept if "sks" in text else other))
    shift = of_one_probe(PROBE)
    assert shift.leak == pytest.approx(0, abs=1e-5) and shift.mean_drift > 0.5


def test_outside_sees_only_what_changes_where_the_class_word_does_not_matter(velocities):
    subject = torch.zeros(1, 1, 8, 8)
    subject[..., 2:6, 2:6] = 1
    before, change = torch.ones(1, 4, 8, 8), field(1)
    probe = Probe("concept", "a dog in snow", "a sks dog in snow", "a in snow", seed=0)
    for where, expected in ((subject, 0.0), (1 - subject, float((change * (1 - subject)).norm() / (4 * 48) ** 0.5))):
        velocities(
            lambda text: before if "dog" in text else before - 3 * subject, lambda text, at=where: before + change * at
        )
        assert of_one_probe(probe).outside == pytest.approx(expected, rel=1e-4)


def test_a_student_that_predicts_the_pictures_exactly_has_all_of_the_gain(monkeypatch):
    image = field(3)[0]

    def velocity(parts, branch, x_t, sigma, texts):
        if branch is PRETRAINED_BRANCH:
            return torch.zeros_like(x_t) + 0.5
        sigma = sigma.view(-1, 1, 1, 1)
        noise = (x_t - (1 - sigma) * image) / sigma
        return velocity_target(image, noise)

    monkeypatch.setattr(drift, "velocity_of", velocity)
    found = reference_gain(None, STUDENT, [image], ["a sks dog"], ["a dog"])
    assert found.gain == pytest.approx(1, abs=1e-4) and found.better == 1 and found.toward > 1


def test_a_change_in_no_direction_is_not_called_learned(velocities):
    velocities(lambda text: field(0) * 0 + 0.1, lambda text: 0.1 + field(5))
    found = reference_gain(None, STUDENT, [field(k)[0] for k in range(6)], ["a sks dog"] * 6, ["a dog"] * 6)
    assert found.gain < 0 and found.better < 0.5


def test_otsu_parts_two_groups():
    values = torch.tensor([0.1, 0.2, 0.15, 5.0, 5.1])
    assert split(values).tolist() == [0, 0, 0, 1, 1] and split(torch.ones(4)).sum() == 0


def test_each_prompt_says_what_may_change():
    lines = ["a [V] {class} in snow", "a [V] {class} beside another {class}", "a red {class}", "a house"]
    some = probes_of(lines, DOG, [1, 2], "here")
    assert [probe.kind for probe in some[::2]] == ["concept", "bystander", "class", "unrelated"]
    assert [probe.seed for probe in some[:2]] == [1, 2]
    concept, bystander, of_class, unrelated = some[::2]
    assert (concept.base, concept.shown, concept.classless) == ("a dog in snow", "a sks dog in snow", "a in snow")
    assert bystander.base == "a dog beside another dog" and bystander.classless is None
    assert of_class.complete == "a red sks dog" and of_class.shown == "a red dog"
    assert unrelated.complete is None


def test_a_style_has_no_class_and_may_go_everywhere():
    style = Concept(name="ink", trigger="zwx", kind="style")
    some = probes_of(["a house in [V] style", "a {class}", "a red car"], style, [0], "here")
    assert [(probe.kind, probe.complete) for probe in some] == [
        ("concept", "a house in zwx style"),
        ("unrelated", "a red car, in zwx style"),
    ]


@pytest.mark.parametrize(
    ("text", "missing"), [("a dog\na house\n", "contains [V]"), ("a [V] dog\n", "drift can't be measured")]
)
def test_prompts_that_cannot_tell_anything_are_refused(tmp_path, text, missing):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ConfigError, match="audit_prompts") as error:
        read_probes(str(tmp_path / "mine.txt"), DOG, [0])
    assert missing in str(error.value)


@pytest.mark.parametrize("kind", ["subject", "style"])
def test_the_lists_of_the_project_have_every_kind_of_prompt(kind):
    concept = DOG if kind == "subject" else Concept(name="ink", trigger="zwx", kind="style")
    kinds = {probe.kind for probe in read_probes(None, concept, [0])}
    assert kinds == ({"concept", "bystander", "class", "unrelated"} if kind == "subject" else {"concept", "unrelated"})


def test_letters_follow_the_thresholds():
    assert [letter(value, DRIFT_STEPS) for value in (0, 0.05, 0.07, 0.2, 0.21, 0.5)] == list("AABCDE")
    assert [letter(value, TOWARD_STEPS) for value in (0.5, 0.35, 0.3, 0.2, 0.05)] == list("ABBCE")


def card(name, toward, moved):
    probes = [PROBE, Probe("unrelated", "a house", None, None, 0)]
    found = [Shift((moved,) * 3, (0.3,) * 3, 0.1), Shift((moved,) * 3)]
    return card_of(name, probes, found, Learned(0.2, 1.0, toward), None, {})


def test_the_front_drops_what_another_beats_in_both_and_the_best_learned_most_beyond_what_it_broke():
    cards = [card("weak", 0.1, 0.05), card("good", 0.4, 0.1), card("worse", 0.35, 0.2), card("strong", 0.5, 0.4)]
    front, best = best_of(cards)
    assert [cards[k].name for k in front] == ["weak", "good", "strong"] and cards[best].name == "good"


def test_the_same_learning_gets_worse_grades_where_more_drifts():
    ours, plain = ([grade.letter for grade in card("", 0.4, moved).grades] for moved in (0.09, 0.27))
    assert ours == ["A", "B", "B"] and plain == ["A", "D", "D"]


def test_a_large_change_that_is_wrong_as_often_as_right_is_not_called_learned():
    found = [Shift((0.1,) * 3, (0.3,) * 3, 0.1)]
    letters = [
        card_of("", [PROBE], found, Learned(0.0, better, 0.65), None, {}).grades[0].letter for better in (1.0, 0.6, 0.4)
    ]
    assert letters == ["A", "D", "E"]


def test_without_reference_pictures_learning_is_not_reported():
    one = card_of("x", [PROBE], [Shift((0.09,) * 3, (0.3,) * 3, 0.1)], None, None, {})
    assert [grade.letter for grade in one.grades] == ["n/a", "B", "n/a"]


@pytest.fixture
def trained(plan_of, tmp_path):
    """A LoRA of the tiny model, and the command line that audits on it."""
    plan = plan_of(student_embeddings="none", audit=False, max_train_steps=4)
    files = Run(plan).train()
    (tmp_path / "audit.txt").write_text("a [V] dog city\na dog\na red house\n")
    words = ["--config_file", str(tmp_path / "output" / "config.toml"), "--audit_prompts", str(tmp_path / "audit.txt")]
    return files[0], [*words, "--out", str(tmp_path / "audit")]


def numbers(folder):
    one = json.loads((folder / "audit.json").read_text())["loras"][0]
    return [one["drift"][kind]["value"] for kind in ("class", "unrelated")] + [one["learned"]["toward"]]


def test_a_lora_is_judged_alike_in_every_layout_and_at_strength_0_it_does_nothing(trained, tmp_path):
    lora, words = trained
    run([str(lora), *words])
    first = numbers(tmp_path / "audit")
    about = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert about["floors"]["strength 0"] == 0 and 0 < about["floors"]["rounding"] < 1e-5 < min(first[:2])
    assert (tmp_path / "audit" / f"{lora.stem}.png").is_file() and "Drift" in (
        tmp_path / "audit/audit.html"
    ).read_text()
    weights = load_lora(lora, BLOCKS)
    for layout in ("diffusers", "onetrainer"):
        foreign = tmp_path / f"foreign_{layout}.safetensors"
        write_lora(foreign, weights, layout, torch.float32, {})
        run([str(foreign), *words])
        assert numbers(tmp_path / "audit") == pytest.approx(first, rel=1e-3)


def test_a_lora_that_does_not_say_its_trigger_is_asked_for_it(trained, tmp_path, tiny_model):
    lora, _ = trained
    foreign = tmp_path / "foreign.safetensors"
    write_lora(foreign, load_lora(lora, BLOCKS), "kohya", torch.float32, {})
    alone = [str(foreign), "--pretrained_model_name_or_path", str(tiny_model)]
    with pytest.raises(ConfigError, match="--trigger"):
        run(alone)
    with pytest.raises(ConfigError, match="--class_word"):
        run([*alone, "--trigger", "sks"])


def test_a_lora_for_another_model_is_named_before_anything_is_drawn(trained, tmp_path):
    lora, words = trained
    weights = load_lora(lora, BLOCKS)
    name, one = next(iter(weights.items()))
    one.up = torch.cat([one.up, one.up])
    write_lora(tmp_path / "wide.safetensors", {name: one}, "diffusers", torch.float32, {})
    with pytest.raises(ModelError, match="another model"):
        run([str(tmp_path / "wide.safetensors"), *words])
    assert not (tmp_path / "audit").exists()


def test_a_folder_without_loras_is_named(tmp_path):
    with pytest.raises(ConfigError, match="contains no LoRA"):
        run([str(tmp_path), "--trigger", "sks", "--class_word", "dog"])


def test_only_the_loras_in_a_runs_folder_are_taken_shortest_training_first(tmp_path):
    names = ["a", "a-step00000010", "a-step00000002", "a_diffusers", "a_concept", "a_extractor", "a_embedding"]
    for name in [*names, "a_transformer", "a-step00000002_transformer"]:
        (tmp_path / f"{name}.safetensors").touch()
    assert [one.stem for one in loras_in([str(tmp_path)])] == ["a-step00000002", "a-step00000010", "a"]


def test_the_card_after_training_is_left_out_where_the_training_is_too_short_and_takes_prompts_of_every_kind(plan_of):
    assert QuickAudit.of(plan_of()).probes == {}
    plan = plan_of(max_train_steps=300, eta=0.0, audit_prompts=None)
    audit = QuickAudit.of(plan)
    kinds = {probe.kind for probe in audit.probes["dog"]}
    assert kinds == {"concept", "bystander", "class", "unrelated"}
    passes = sum(plan.stage_steps.values()) * 2 * PASSES_OF_A_STEP
    assert len(audit.probes["dog"]) * PASSES_OF_A_PROBE <= SHARE * passes
    assert set(audit.planned(plan).texts()) >= {text for probe in audit.probes["dog"] for text in probe.texts}
    assert QuickAudit.of(plan_of(max_train_steps=300, audit=False)).probes == {}


def test_the_card_after_training_is_in_the_report_and_a_card_that_fails_costs_no_run(plan_of, tmp_path, monkeypatch):
    monkeypatch.setattr("library.evaluation.quick.PASSES_OF_A_STEP", 500)
    plan = plan_of()
    audit = QuickAudit.of(plan)
    training = Run(audit.planned(plan))
    broken = lambda run: 1 / 0  # noqa: E731
    broken.what = "a broken look"
    training.looks = [audit, broken]
    assert all(file.is_file() for file in training.train())
    found = json.loads((tmp_path / "output" / "tiny_audit.json").read_text())["concepts"]
    assert [grade["name"] for grade in found[0]["grades"]] == ["concept learned", "behaviour kept", "capability kept"]
    assert found[0]["drift"]["unrelated"]["value"] > 0
    assert "Drift report card" in (tmp_path / "output" / "report.html").read_text()
