"""The command `compare`: methods on the user's own pictures, with the same budget and equal tuning for each.

Every method is trained at the same learning rates and saved at the same shares of its length, and gets the same number
of steps, of passes through the transformer, or of seconds. Which rate and which length each one gets is chosen on one
half of the prompts, by one rule, and judged on the other half.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from library.config.dataset import DatasetConfig
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import (
    TomlFile,
    add_settings_to,
    as_tables,
    command_line_parser,
    read_settings,
    settings_given,
)
from library.config.settings import Settings
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.errors import ConfigError, did_you_mean
from library.evaluation.audit import Auditor, draw, reference_pictures, references_of
from library.evaluation.budget import TIMED, UNITS, Cost, kept_steps, passes_of, seconds_of, shares_of, spent
from library.evaluation.compare_files import Result, write_comparison
from library.evaluation.drift import Probe
from library.evaluation.options import add_weights_to, only_concept, reference_files, settings_in
from library.evaluation.probes import read_probes
from library.evaluation.scorers.catalogue import SCORERS, ScorerEntry, check_all, entries_of
from library.evaluation.scorers.interface import ImageEncoder
from library.evaluation.scoring import Likeness, Scoring, best
from library.evaluation.student import Students, loras_in, read_layers
from library.files.atomic import write_text
from library.files.cache_limit import CacheUse
from library.files.fingerprint import of_file, of_key
from library.methods import METHODS, in_order
from library.parts.parts import Attached, build_parts
from library.predictions import EXTRACTOR, STUDENT
from library.preflight.plan import Plan, make_plan
from library.prompts import NULL_PROMPT
from library.report.progress import bar_over
from library.terminal import say
from library.training.run import Run

DONE = "arm.json"
RIGHT_CHANGE = "right_change"
RULES_OF_CHOICE = {
    True: "the harmonic mean of fidelity and of how well images without [V] are kept",
    False: "the right change on the reference images minus the mean drift without [V]",
}
"""The score that chooses rate and length, on prompts that the table does not show: with an image encoder, and
without."""
FEWEST_REFERENCES = 2


@dataclass(frozen=True)
class Arm:
    """A method at one learning rate, `rate` times that of the config."""

    method: str
    rate: float

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.method}-{self.rate:g}"


def run(words: list[str]) -> str:
    """Trains what is missing and scores everything; returns a report."""
    parser = command_line_parser("Trains and compares methods on your images: same budget, equal tuning.")
    parser.add_argument(
        "--methods", default="lora,dop,purecc", help="Methods, separated by commas. Default: lora,dop,purecc."
    )
    parser.add_argument(
        "--budget", type=float, metavar="NUMBER", help="Budget of each training. Default: the config's steps."
    )
    parser.add_argument(
        "--budget_in",
        choices=UNITS,
        default="steps",
        help="Unit of the budget: steps of both stages together; passes of a batch through the transformer, where "
        "one with a gradient counts as three; or seconds of training. Default: steps.",
    )
    parser.add_argument(
        "--fidelity",
        default=RIGHT_CHANGE,
        metavar="NAME",
        help="Image encoder that compares a method's images with yours: dino, clip, csd, pocket or another from "
        f"purecc_evaluate.py weights. {RIGHT_CHANGE} needs no encoder. Default: {RIGHT_CHANGE}.",
    )
    add_weights_to(parser)
    rates = "Factors for the learning rates. Default: 0.5 1 2."
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help=rates)
    parser.add_argument("--checkpoints", type=int, default=4, help="Number of lengths that are scored. Default: 4.")
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.5, 0.75, 1.0, 1.25],
        help="LoRA strengths that are scored. Default: 0.5 0.75 1 1.25.",
    )
    parser.add_argument("--out", metavar="DIR", help="Folder for the results. Default: OUTPUT_DIR/compare.")
    add_settings_to(parser)
    given = parser.parse_args(words)
    methods, (file, settings) = _methods(given.methods), settings_in(given)
    _check(given, settings)
    config = read_concepts_and_pictures(file, settings)
    only_concept(config.concepts, "A comparison")
    encoder = _encoder(given, config)
    folder = Path(given.out).expanduser() if given.out else settings.output_dir / "compare"
    arms = [Arm(method, rate) for method in methods for rate in dict.fromkeys(given.rates)]
    with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
        trained = Trained.of(arms, file, given, settings, folder)
        results, about = _scored(trained, encoder, config, settings, given)
    return write_comparison(folder, results, {**trained.asked, "rates": given.rates, **about})


def _methods(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in METHODS:
            raise ConfigError(f'--methods: "{name}" is not a method.', did_you_mean(name, METHODS))
        if METHODS[name].student_weights == "words":
            raise ConfigError(f"--methods: {name} trains no LoRA that could be compared.", "Remove it.")
    if not names:
        raise ConfigError("--methods is empty.", f"Choose from: {', '.join(one.name for one in in_order())}.")
    return names


def _check(given: Namespace, settings: Settings) -> None:
    numbers = {"--rates": given.rates, "--strengths": given.strengths}
    wrong = next((name for name, some in numbers.items() if not all(0 < one < 100 for one in some)), None)
    if wrong:
        raise ConfigError(f"{wrong}: {numbers[wrong]} must be above 0 and below 100.")
    if given.checkpoints < 1 or (given.budget is not None and given.budget <= 0):
        raise ConfigError("--budget must be above 0, and --checkpoints at least 1.")
    if given.budget is None and given.budget_in != "steps":
        raise ConfigError(f"--budget_in {given.budget_in} also needs --budget.", "For example --budget 2000.")
    if settings.optimizer.max_train_epochs is not None:
        raise ConfigError("compare counts in steps, but max_train_epochs is set.", "Remove it, and give --budget.")


def settings_of(
    arm: Arm, file: TomlFile | None, given: Namespace, steps: dict[str, int], folder: Path, **also: Any
) -> Settings:
    """The settings that an arm is trained with: the config's, but for method, rates and length.

    Args:
        steps: of each stage.
        also: further settings that differ.
    """
    values, base = settings_given(given), _as_given(arm.method, file, given)
    changed = {
        "method": arm.method,
        "learning_rate": base.optimizer.learning_rate * arm.rate * METHODS[arm.method].usual_rate,
        "max_train_steps": steps[STUDENT],
        "save_every_n_steps": max(1, -(-steps[STUDENT] // given.checkpoints)),
        "output_dir": str(folder / arm.name),
        "output_name": arm.name,
        "save_formats": ["kohya"],
        "log_with": "none",
        "resume": "auto",
        "audit": False,
        "sample_strengths": [],
        **also,
    }
    if EXTRACTOR in steps:
        changed[f"{EXTRACTOR}_train_steps"] = steps[EXTRACTOR]
    if base.concept_embeddings.concept_embeddings != "none":
        changed["embedding_lr"] = base.optimizer.embedding_lr * arm.rate
    return read_settings(file, {**values, **changed}, [])


@dataclass(frozen=True)
class Trained:
    """All arms, trained.

    Attributes:
        asked: the budget.
        steps: of each stage, by method.
        costs: in passes, by method.
        seconds: of each phase in which an arm learned.
    """

    arms: list[Arm]
    asked: dict[str, Any]
    steps: dict[str, dict[str, int]]
    costs: dict[str, Cost]
    seconds: dict[Arm, dict[str, float]]
    folder: Path

    @classmethod
    def of(cls, arms: list[Arm], file: TomlFile | None, given: Namespace, settings: Settings, folder: Path) -> Trained:
        """Trains what is missing."""
        default = settings.optimizer.max_train_steps + settings.optimizer.extractor_train_steps
        asked = {"budget": given.budget or float(default), "budget_in": given.budget_in}
        first = {arm.method: arm for arm in reversed(arms)}  # any rate costs the same
        costs = {method: passes_of(_plan(method, file, given)) for method in first}

        def counted() -> dict[str, dict[str, int]]:
            budget, unit = asked["budget"], asked["budget_in"]
            in_unit = {
                "steps": lambda method: costs[method].in_steps,
                "passes": lambda method: costs[method],
                "seconds": lambda method: _timed(first[method], file, given, folder),
            }
            steps = {method: in_unit[unit](method).steps_for(budget, method, unit) for method in first}
            _check_length(steps, given.checkpoints)
            return steps

        steps = kept_steps(folder / "budget.json", asked, counted)
        seconds = {arm: _train(arm, file, given, steps[arm.method], folder) for arm in arms}
        return cls(arms, asked, steps, costs, seconds, folder)

    def paid(self, arm: Arm, length: int) -> dict[str, float]:
        """What N steps of an arm's student have cost, with all that comes before; not rounded, as it is kept."""
        steps, cost, seconds = self.steps[arm.method], self.costs[arm.method], self.seconds[arm]
        first = steps.get(EXTRACTOR, 0)
        passes = cost.before + first * cost.each.get(EXTRACTOR, 0.0) + length * cost.each[STUDENT]
        before = sum(value for name, value in seconds.items() if name != STUDENT)
        took = before + seconds[STUDENT] * length / steps[STUDENT]
        return {"steps": first + length, "passes": passes, "seconds": took}


def _check_length(steps: dict[str, dict[str, int]], checkpoints: int) -> None:
    short = next((method for method, one in steps.items() if one[STUDENT] < checkpoints), None)
    if short:
        raise ConfigError(
            f"--budget: {steps[short][STUDENT]} steps of {short} can't be saved {checkpoints} times.",
            "Raise it, or lower --checkpoints.",
        )


def _as_given(method: str, file: TomlFile | None, given: Namespace) -> Settings:
    """The config's settings with another method, stages as long as it says."""
    return read_settings(file, {**settings_given(given), "method": method}, [])


def _plan(method: str, file: TomlFile | None, given: Namespace) -> Plan:
    settings = _as_given(method, file, given)
    return make_plan(settings, read_concepts_and_pictures(file, settings))


def _timed(arm: Arm, file: TomlFile | None, given: Namespace, folder: Path) -> Cost:
    """What a method costs in seconds, by a few steps of it."""
    shares = shares_of(_as_given(arm.method, file, given))
    steps = dict.fromkeys(shares, TIMED)
    _train(arm, file, given, steps, folder / "timed", sample_steps=1, sample_seeds=1)
    return seconds_of(shares, folder / "timed" / arm.name)


def _train(
    arm: Arm, file: TomlFile | None, given: Namespace, steps: dict[str, int], folder: Path, **also: Any
) -> dict[str, float]:
    """Trains an arm unless it is done; returns the seconds of each phase in which it learned."""
    settings = settings_of(arm, file, given, steps, folder, **also)
    config = read_concepts_and_pictures(file, settings)
    key, done = of_key(as_tables(settings, shaping_only=True)), folder / arm.name / DONE
    if done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["settings"] != key:
            raise ConfigError(f"{done.parent} was trained with other settings.", "Choose another --out, or remove it.")
        return before["seconds"]
    say(f"{arm.method} at {arm.rate:g} times the learning rate, {sum(steps.values())} steps")
    Run(make_plan(settings, config)).train()
    seconds = spent(done.parent)
    write_text(done, json.dumps({"settings": key, "seconds": seconds}))
    return seconds


def _encoder(given: Namespace, config: DatasetConfig) -> tuple[ScorerEntry | None, list[Path]]:
    """The image encoder and the pictures that it compares with; its weights are there, or the error names them.

    Raises:
        ConfigError: it is not an image encoder, or one picture is all there is to compare with.
    """
    if given.fidelity == RIGHT_CHANGE:
        return None, []
    concept = config.concepts[0]
    known = [name for name, entry in SCORERS.items() if "fidelity" in entry.roles and concept.kind in entry.kinds]
    (entry,) = entries_of([given.fidelity], [], concept.kind, "--fidelity") or (None,)
    if entry is None or "fidelity" not in entry.roles:
        raise ConfigError(
            f"--fidelity: {given.fidelity} can't measure the likeness of a {concept.kind}.",
            f"Choose one of: {', '.join([*known, 'pocket', RIGHT_CHANGE])}.",
        )
    files = reference_files(None, config, concept)
    if len(files) < FEWEST_REFERENCES:
        raise ConfigError(
            "--fidelity: comparing references with each other needs at least two of them.",
            f"Give more images, or --fidelity {RIGHT_CHANGE}.",
        )
    check_all([entry], Path(given.weights_dir).expanduser(), given.allow_download, "--fidelity")
    return entry, files


def _scored(
    trained: Trained,
    encoder: tuple[ScorerEntry | None, list[Path]],
    config: DatasetConfig,
    settings: Settings,
    given: Namespace,
) -> tuple[list[Result], dict[str, Any]]:
    """Chooses rate and length of every method, and judges it; and what has to be said of how."""
    opened, concept = build_parts(settings, config.concepts), only_concept(config.concepts, "A comparison")
    likeness, label = None, None
    if encoder[0] is not None:
        scorer = encoder[0].open(Path(given.weights_dir).expanduser(), opened.model.device)
        assert isinstance(scorer, ImageEncoder), "its entry says so"
        likeness, label = Likeness(scorer, encoder[1]), scorer.identity.label
    first = settings.optimizer.seed
    choosing, judging = halves(read_probes(settings.samples.audit_prompts, concept, [first, first + 1]))
    shown = [one for some in reference_pictures(config, opened, settings) for one in some]
    texts = [text for probe in (*choosing, *judging) for text in probe.texts]
    texts += [text for one in shown for text in (one.prompts[0].complete, one.prompts[0].base)]
    opened.texts.prepare([NULL_PROMPT, *texts], bar_over("text"))
    references = references_of(opened, shown)
    files = {arm: loras_in([str(trained.folder / arm.name)]) for arm in trained.arms}
    students = Students(opened, {path: read_layers(path, opened.model) for some in files.values() for path in some})
    parts = students.parts
    size = config.datasets[0].resolution
    made_of = {
        "model": parts.model.fingerprint(), "concept": vars(concept), "seed": first, "size": list(size),
        "references": [one.prompts[0].complete for one in shown], "encoder": label,
        "pictures": [of_file(file) for file in encoder[1]],
        "sampling": {"steps": settings.samples.sample_steps, "guidance_scale": settings.samples.guidance_scale},
    }  # fmt: skip

    def scoring(probes: Sequence[Probe]) -> Scoring:
        auditor = Auditor(parts, probes, _drawn(parts, probes, size), references)
        about = {**made_of, "texts": [probe.texts for probe in probes]}
        return Scoring(auditor, students, likeness, size, trained.folder / "scores", about)

    on_validation, on_test = scoring(choosing), scoring(judging)
    results = [
        _result(method, trained, files, on_validation, on_test, given.strengths)
        for method in dict.fromkeys(arm.method for arm in trained.arms)
    ]
    return results, {"rule": RULES_OF_CHOICE[likeness is not None], "encoder": label}


def _result(
    method: str,
    trained: Trained,
    files: dict[Arm, list[Path]],
    on_validation: Scoring,
    on_test: Scoring,
    strengths: Sequence[float],
) -> Result:
    """A method at the rate and length that the one half of the prompts chooses, on the other half."""
    mine = [(arm, path) for arm, some in files.items() if arm.method == method for path in some]
    tried = [on_validation.score(path, 1.0) for _, path in bar_over(f"{method}, choosing")(mine)]
    arm, path = mine[best(tried)]
    judged = bar_over(f"{method}, judging")(sorted({1.0, *strengths}))
    length = length_of(path, trained.steps[method][STUDENT])
    return Result(
        method,
        {"rate": arm.rate, "file": path.name, "length": length, **trained.paid(arm, length)},
        {strength: on_test.score(path, strength) for strength in judged},
        [score for (one, _), score in zip(mine, tried, strict=True) if one == arm],
        {file.name: score.merit for (_, file), score in zip(mine, tried, strict=True)},
        on_test.probes,
        on_test.before,
        on_test.after(path, method),
    )


def length_of(lora: Path, whole: int) -> int:
    """Steps of the student after which a file was saved; `whole` for the one of the end."""
    found = re.search(r"-step(\d+)$", lora.stem)
    return int(found[1]) if found else whole


def halves(probes: Sequence[Probe]) -> tuple[list[Probe], list[Probe]]:
    """Prompts to choose by, and prompts to judge by: of each kind every second one, with all its seeds."""
    of_kind: dict[str, list[str]] = {}
    for probe in probes:
        some = of_kind.setdefault(probe.kind, [])
        some += [probe.shown] if probe.shown not in some else []
    first = [probe for probe in probes if of_kind[probe.kind].index(probe.shown) % 2 == 0]
    return first, [probe for probe in probes if probe not in first] or first


def _drawn(parts: Attached, probes: Sequence[Probe], size: tuple[int, int]) -> list[Tensor]:
    texts, seeds = [probe.base for probe in probes], [probe.seed for probe in probes]
    return draw(parts, PRETRAINED_BRANCH, texts, seeds, size, "before")
