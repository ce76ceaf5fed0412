"""What the window needs to know about this computer: ComfyUI and Forge, their model files, GPU and disk."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from gui.places import ROOT
from library.config.files import to_toml
from library.errors import ConfigError, ModelError
from library.files.atomic import write_text
from library.models.loading.tensor_file import read_entries
from library.models.opening import kind_of

FILE = "machine.toml"
SD35 = "Stable Diffusion 3.5 Medium"
FILES = {"clip_l": "CLIP-L", "clip_g": "CLIP-G", "t5xxl": "a T5 text encoder"}
"""Settings for text encoders in separate files, and what `what_is` calls such a file."""
INSIDE = {"clip_l": "text_encoders.clip_l.", "clip_g": "text_encoders.clip_g.", "t5xxl": "text_encoders.t5xxl."}
"""The start of their tensors' names if one file holds everything."""
DOWNLOADS = {
    "model": ("sd3.5_medium.safetensors", "https://huggingface.co/stabilityai/stable-diffusion-3.5-medium"),
    "clip_l": ("clip_l.safetensors", "https://huggingface.co/Comfy-Org/stable-diffusion-3.5-fp8"),
    "clip_g": ("clip_g.safetensors", "https://huggingface.co/Comfy-Org/stable-diffusion-3.5-fp8"),
    "t5xxl": ("t5xxl_fp8_e4m3fn.safetensors", "https://huggingface.co/Comfy-Org/stable-diffusion-3.5-fp8"),
}
"""The name of each missing file, and a page that offers it."""
MODEL_FOLDERS = ("checkpoints", "diffusion_models", "unet", "Stable-diffusion")
ENCODER_FOLDERS = ("text_encoders", "clip", "text_encoder")
MOST_LOOKED_AT = 400
"""Most model files of a UI whose headers are read."""
SECONDS_FOR_CARD = 3


@dataclass(frozen=True)
class Machine:
    """What the user said about this computer; "" for what is not known.

    Args:
        comfyui, forge: their folders.
        model, clip_l, clip_g, t5xxl: files of the pretrained model; `model` may be a folder in diffusers format.
    """

    comfyui: str = ""
    forge: str = ""
    model: str = ""
    clip_l: str = ""
    clip_g: str = ""
    t5xxl: str = ""

    def save(self, root: Path) -> Machine:
        """Writes it into the folder of projects."""
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / FILE, to_toml(dataclasses.asdict(self)))
        return self

    def missing(self) -> list[str]:
        """Fields whose files are missing or have moved."""
        if not self.model or not Path(self.model).exists():
            return ["model"]
        held = _held_by(self.model, _age(self.model)) if Path(self.model).is_file() else frozenset(FILES)
        apart = [name for name in FILES if name not in held]
        return [name for name in apart if not Path(getattr(self, name) or "?").is_file()]


def load(root: Path) -> Machine:
    """What the user said; empty if the file is missing or can't be read."""
    try:
        tables = tomllib.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Machine()
    return Machine(**{one.name: str(tables.get(one.name, "")) for one in dataclasses.fields(Machine)})


def _age(path: str) -> int:
    return Path(path).stat().st_mtime_ns


@cache
def _kind_of(path: str, age: int) -> str:
    """What a model file is. The age is part of the key, so a new file under an old name is read again."""
    try:
        return kind_of(Path(path))
    except (ModelError, OSError):
        return ""


@cache
def _held_by(path: str, age: int) -> frozenset[str]:
    """The text encoders in a checkpoint."""
    try:
        names = read_entries(Path(path)).keys()
    except (ModelError, OSError):
        return frozenset()
    return frozenset(part for part, begin in INSIDE.items() if any(name.startswith(begin) for name in names))


def likely_places() -> list[Path]:
    """The usual folders of ComfyUI and Forge that exist on this computer."""
    home = Path.home()
    bases = [ROOT.parent, home, home / "Documents", home / "Desktop", home / "AI"]
    bases += [Path(f"{letter}:/") for letter in "CDEF"] if os.name == "nt" else [Path("/opt")]
    names = ("ComfyUI", "ComfyUI_windows_portable/ComfyUI", "stable-diffusion-webui-forge", "webui_forge/webui")
    found = []
    for base in bases:
        for name in names:
            with suppress(OSError):
                if (base / name / "models").is_dir():
                    found.append(base / name)
    return list(dict.fromkeys(found))


def with_ui(machine: Machine, folder: str) -> Machine:
    """What follows from a UI's folder: its model files, and where LoRAs go.

    Raises:
        ConfigError: it is not ComfyUI's or Forge's folder.
    """
    path = Path(folder.strip().strip('"')).expanduser()
    if path.name == "models" and not (path / "models").is_dir():
        path = path.parent
    models = path / "models"
    if not models.is_dir():
        raise ConfigError(f"{path} contains no folder named models.", "Give the folder of ComfyUI or Forge.")
    path = path.absolute()
    is_forge = (models / "Lora").is_dir() and not (path / "custom_nodes").is_dir()
    machine = replace(machine, forge=str(path)) if is_forge else replace(machine, comfyui=str(path))
    found = dict(_model_files(models))
    return replace(machine, **{name: value for name, value in found.items() if not getattr(machine, name)})


def _model_files(models: Path) -> Iterator[tuple[str, str]]:
    """The files of the pretrained model that a UI has, by the setting that names them; the last one of each counts."""
    checkpoints = [path for path in _files_in(models, MODEL_FOLDERS) if _kind_of(str(path), _age(str(path))) == SD35]
    for path in sorted(checkpoints, key=lambda one: len(_held_by(str(one), _age(str(one))))):
        yield "model", str(path)
    for path in _files_in(models, ENCODER_FOLDERS):
        kind = _kind_of(str(path), _age(str(path)))
        yield from ((name, str(path)) for name, what in FILES.items() if what == kind)


def _files_in(models: Path, folders: tuple[str, ...]) -> list[Path]:
    found = [path for name in folders if (models / name).is_dir() for path in (models / name).rglob("*.safetensors")]
    return sorted(path for path in found if path.is_file())[:MOST_LOOKED_AT]


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU: its name and its memory in bytes."""

    name: str
    free: int
    total: int


def card() -> Card | None:
    """The first NVIDIA GPU, as its driver sees it; None without one."""
    words = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        said = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_FOR_CARD, check=True).stdout
        name, free, total = (part.strip() for part in said.splitlines()[0].rsplit(",", 2))
        return Card(name, int(free) * 2**20, int(total) * 2**20)
    return None


def free_disk(folder: Path) -> int | None:
    """Free bytes on a folder's disk; None if unknown."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None
