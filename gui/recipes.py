"""From a project to the trainer's settings: a preset, the project's fields, and the user's changes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gui import captions
from gui.machine import FILES, Machine
from gui.pictures import pictures_of
from gui.places import POCKET_MODEL, ROOT, pocket_side
from gui.projects import Project
from library.config.dataset import PLACEHOLDER
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings, to_toml
from library.config.groups import paths, setting_names
from library.errors import ConfigError
from library.files.atomic import write_text

PRESETS = {"sd35": "lean", "pocket": "demo"}
"""The preset for each model."""
LENGTHS = {"quick": 0.5, "normal": 1.0, "thorough": 2.0}
"""Steps for each training time, as a share of the preset's."""
SHEETS = 4
"""Contact sheets per run. The LoRA is saved with each, so that the best one can be chosen."""
OWN = frozenset({"output_dir", "output_name", "cache_dir", "dataset_config", "resume", "overwrite", "sample_prompts"})
"""Settings that the window itself sets."""
PLAN = "plan.toml"


def preset_of(project: Project) -> Path:
    """The preset that a project starts from."""
    return ROOT / "presets" / f"{PRESETS[project.model]}.toml"


def settings_before_changes(project: Project, machine: Machine) -> dict[str, Any]:
    """Settings of preset and project by name, without the user's changes."""
    values: dict[str, Any] = {}
    for name, value in TomlFile(preset_of(project)).tables.items():
        values |= value if isinstance(value, dict) else {name: value}
    known = paths()
    for name in known & values.keys():
        values[name] = str(ROOT / values[name]) if (ROOT / values[name]).exists() else values[name]
    values |= _model(project, machine)
    values["max_train_steps"] = round(LENGTHS[project.effort] * values["max_train_steps"])
    steps = project.changed.get("max_train_steps", values["max_train_steps"])
    every = max(1, steps // SHEETS)
    values |= {"sample_every_n_steps": every, "save_every_n_steps": every}
    values["resolution"] = pocket_side() if project.model == "pocket" else project.resolution
    values.pop("dataset_config", None)
    return values


def _model(project: Project, machine: Machine) -> dict[str, Any]:
    if project.model == "pocket":
        return {"pretrained_model_name_or_path": str(POCKET_MODEL)}
    files = {name: getattr(machine, name) for name in FILES if getattr(machine, name)}
    return {"pretrained_model_name_or_path": machine.model, **files} if machine.model else files


def tables_of(project: Project, machine: Machine, cache: Path, output: Path, prompts: Path | None) -> dict[str, Any]:
    """The tables of a TOML file with everything that a run needs.

    Args:
        cache: cache folder.
        output: folder of the run's results.
        prompts: file of prompts for the sheets; None: the trainer's own.
    """
    values = settings_before_changes(project, machine)
    values.pop("sample_prompts", None)
    values |= {name: value for name, value in project.changed.items() if name not in OWN}
    values |= {"output_dir": str(output), "output_name": project.slug, "cache_dir": str(cache)}
    if prompts is not None:
        values["sample_prompts"] = str(prompts)
    size = values.pop("resolution")
    sections, tables = setting_names(), dict[str, Any]()
    for name, value in values.items():
        tables.setdefault(sections.get(name, "data"), {})[name] = value
    return tables | _what_to_learn(project, size)


def concept_table(project: Project) -> dict[str, Any]:
    """The project's concept as a table of a dataset config.

    Raises:
        ConfigError: trigger or class word is missing.
    """
    return {key: value for key, value in dataclasses.asdict(project.concept()).items() if value is not None}


def _what_to_learn(project: Project, size: Any) -> dict[str, Any]:
    concept = concept_table(project)
    subset = {
        "image_dir": str(project.pictures),
        "concept": concept["name"],
        "num_repeats": 10,
        "class_tokens": captions.fallback(project),
    }
    dataset: dict[str, Any] = {"resolution": size, "subsets": [subset]}
    if project.model == "pocket":
        dataset["batch_size"] = subset["num_repeats"] = 8
    else:
        dataset |= {"enable_bucket": True, "min_bucket_reso": 256, "max_bucket_reso": 1536, "bucket_reso_steps": 64}
    return {"concepts": [concept], "datasets": [dataset]}


def write(target: Path, tables: Mapping[str, Any]) -> Path:
    """Writes a run's settings and reads them back like the trainer.

    Raises:
        ConfigError: lists every mistake, as the trainer would.
    """
    write_text(target, to_toml(dict(tables)))
    file = TomlFile(target)
    read_concepts_and_pictures(file, read_settings(file))
    return target


def plan_of(project: Project, machine: Machine, cache: Path) -> Path:
    """Rewrites the project's plan.toml: what a run started now would do.

    Raises:
        ConfigError: something is missing: pictures, class word, model files.
    """
    check_ready(project, machine)
    return write(project.folder / PLAN, tables_of(project, machine, cache, project.runs / "next", None))


def check_ready(project: Project, machine: Machine) -> None:
    """Refuses a plan that is not possible yet.

    Raises:
        ConfigError: see `plan_of`.
    """
    if not pictures_of(project):
        raise ConfigError("You haven't added any pictures yet.", "Add 3 to 10 on the first page.")
    project.concept()
    if project.model == "sd35" and "pretrained_model_name_or_path" not in project.changed:
        if not machine.model:
            raise ConfigError("You haven't chosen a model yet.", "Set ComfyUI's folder on the home page.")
        if not Path(machine.model).exists():
            raise ConfigError(f"The model {machine.model} no longer exists.", "Choose it again on the home page.")


def digest_of(project: Project, plan: Path) -> str:
    """Changes whenever the plan's forecast would: with settings, pictures or captions."""
    digest = hashlib.sha256(plan.read_bytes())
    for picture in pictures_of(project):
        digest.update(
            f"{picture.name} {picture.stat().st_mtime_ns} {captions.caption_of(project, picture).text}".encode()
        )
    return digest.hexdigest()


def prompts_for(project: Project) -> str:
    """The prompts of a run's sheets, one per line: with the concept, of its class, and unrelated."""
    word, own = (
        project.class_word or "house",
        [one.text for one in captions.captions_of(project) if PLACEHOLDER in one.text],
    )
    if project.model == "pocket":
        lines = [
            f"a {PLACEHOLDER} {word} in the snow by day",
            f"a {word} on the beach by day",
            "a blue house in the forest",
        ]
    elif project.kind == "style":
        lines = [f"a lighthouse on a cliff, in {PLACEHOLDER} style", "a lighthouse on a cliff", "a red car in a street"]
    else:
        lines = [
            f"a photo of a {PLACEHOLDER} {word} on a beach",
            f"a photo of a {word} on a beach",
            "a red car in a street",
        ]
    return "\n".join([*dict.fromkeys([*own[:1], *lines])]) + "\n"
