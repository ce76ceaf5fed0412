"""Copies a trained LoRA into the folders of a UI: which file goes where, and what to write there."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path

from gui.machine import Machine
from gui.places import ROOT, existing, inside
from gui.runs import Run
from library.errors import ConfigError
from library.files.atomic import written

NODES = "comfyui_purecc"
LORA_FOLDERS = {"comfyui": "loras", "forge": "Lora"}


@dataclass(frozen=True)
class Delivered:
    """What was copied, and what to do with it there.

    Args:
        files: where they are now.
        advice: a sentence each.
    """

    files: list[Path]
    advice: list[str]


def lora_of(run: Run, step: int | None) -> str:
    """The name of the LoRA that UIs load, by step; None for the end of the run.

    Raises:
        ConfigError: nothing of this step is saved.
    """
    stem = run.project.slug
    plain = [name for name in run.files().get(step, []) if name.startswith(stem) and "_" not in name[len(stem) :]]
    if not plain:
        raise ConfigError("This step has no saved file.", "Choose another one.")
    return plain[0]


def deliver(run: Run, machine: Machine, ui: str, step: int | None) -> Delivered:
    """Copies a LoRA and the files that belong to it into ComfyUI's or Forge's folders.

    Raises:
        ConfigError: the UI's folder is not known or gone, or nothing is saved.
        StorageError: the disk is full or read-only.
    """
    folder = Path(getattr(machine, ui) if ui in LORA_FOLDERS else "")
    if not folder.name or not (folder / "models").is_dir():
        said = {"comfyui": "ComfyUI", "forge": "Forge"}.get(ui, "This UI")
        raise ConfigError(f"The folder of {said} is unknown or no longer exists.", "Set it on the home page.")
    lora, stem = lora_of(run, step), run.project.slug
    loras = folder / "models" / LORA_FOLDERS[ui]
    copied = [_copied(existing(run.folder, lora), loras, f"{stem}.safetensors")]
    prompt = run.project.concept().target.replace("[V]", run.project.trigger)
    advice = [f"Load {copied[0].name} with a LoRA loader, strength 1, and write “{prompt}” in your prompt."]
    base = lora.removesuffix(".safetensors")
    vectors = run.folder / f"{base}_concept.safetensors"
    if ui == "comfyui" and run.project.use == "nodes" and vectors.is_file():
        copied.append(_copied(vectors, loras, f"{copied[0].stem}_concept.safetensors"))
        nodes = folder / "custom_nodes"
        if nodes.is_dir() and not (nodes / NODES).exists():
            shutil.copytree(ROOT / NODES, nodes / NODES, ignore=shutil.ignore_patterns("__pycache__"))
            copied.append(nodes / NODES)
            advice.insert(0, "Restart ComfyUI so that it finds the new nodes.")
        names = f"{copied[0].name} and {copied[1].name}"
        advice[-1] = f"In ComfyUI, add a PureCC Concept Loader, choose {names}, and write “{prompt}” in your prompt."
    else:
        copied += _beside(run, base, loras, copied[0].stem)
    return Delivered(copied, advice)


def _beside(run: Run, base: str, loras: Path, stem: str) -> list[Path]:
    """The preview image and the text that UIs show, if the run made them."""
    names = {f"{base}{ending}": f"{stem}{ending}" for ending in (".preview.png", ".json")}
    return [
        _copied(run.folder / name, loras, target) for name, target in names.items() if (run.folder / name).is_file()
    ]


def _copied(source: Path, folder: Path, name: str) -> Path:
    """Copies a file. If the name is taken, the copy gets a number."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, dot, ending = name.partition(".")
    target, number = inside(folder, name), 2
    while target.exists() and not filecmp.cmp(source, target, shallow=False):
        target, number = inside(folder, f"{stem}-{number}{dot}{ending}"), number + 1
    if not target.exists():
        with written(target) as temporary:
            shutil.copyfile(source, temporary)
    return target
