"""A project is a folder: project.toml, pictures/ with their captions, runs/. Every change is written at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gui.places import NotHere, existing, inside, numbered
from library.config.dataset import Concept
from library.config.file_names import why_not_a_name
from library.config.files import to_toml
from library.errors import ConfigError
from library.files.atomic import remove, write_text

FILE = "project.toml"
KINDS, MODELS, USES = ("subject", "style"), ("sd35", "pocket"), ("anywhere", "nodes")
RESOLUTIONS, EFFORTS = (512, 768, 1024), ("quick", "normal", "thorough")
CHOICES = {"kind": KINDS, "model": MODELS, "use": USES, "resolution": RESOLUTIONS, "effort": EFFORTS}
"""Fields of a project that have one of a few values."""
LONGEST_NAME = 60


@dataclass(frozen=True)
class Project:
    """What to learn, from which pictures, and how.

    Args:
        folder: of the project; its name is the project's address.
        name: as the user wrote it.
        model: "sd35", or the small one that comes with the project.
        use: where the LoRA will be used: with any UI, or with our ComfyUI nodes.
        changed: settings that the user changed, by name.
    """

    folder: Path
    name: str
    kind: str = "subject"
    trigger: str = "ohwx"
    class_word: str = ""
    model: str = "sd35"
    use: str = "anywhere"
    resolution: int = 512
    effort: str = "normal"
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Its address, and the start of its files' names."""
        return self.folder.name

    @property
    def pictures(self) -> Path:
        """The folder of its pictures and captions."""
        return inside(self.folder, "pictures")

    @property
    def runs(self) -> Path:
        """The folder of its runs, each a folder."""
        return inside(self.folder, "runs")

    def concept(self) -> Concept:
        """The concept as the trainer takes it.

        Raises:
            ConfigError: trigger or class word is missing, or they are the same.
        """
        of_pocket = {"target": f"a [V] {self.class_word}"} if self.model == "pocket" and self.kind == "subject" else {}
        name = self.slug if re.fullmatch(r"[\w-]+", self.slug) else "concept"
        if self.kind == "subject" and not self.class_word:
            raise ConfigError("The class word is missing.", "On the first page, enter what it is, such as dog.")
        return Concept(name=name, trigger=self.trigger, class_word=self.class_word, kind=self.kind, **of_pocket)

    def with_values(self, given: dict[str, str]) -> Project:
        """The project with a form's fields; unknown ones are ignored.

        Raises:
            ConfigError: an invalid value.
        """
        values: dict[str, Any] = {}
        for name, text in given.items():
            if name in CHOICES:
                chosen = next((one for one in CHOICES[name] if str(one) == text), None)
                if chosen is None:
                    raise ConfigError(f"{name} can't be {text!r}.")
                values[name] = chosen
            elif name in ("name", "trigger", "class_word"):
                values[name] = _one_line(text)
        return replace(self, **values)

    def save(self) -> Project:
        """Writes project.toml.

        Raises:
            StorageError: the disk is full or read-only.
        """
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "folder"}
        write_text(self.folder / FILE, to_toml(values))
        return self


def _one_line(text: str) -> str:
    return " ".join("".join(one for one in text if unicodedata.category(one) not in ("Cc", "Cs")).split())[:200]


def slug_of(name: str) -> str:
    """A name for folders and files: letters of all languages, digits, - and _."""
    slug = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name)).strip("-_")[:LONGEST_NAME]
    return slug if slug and not why_not_a_name(slug) else f"project-{slug}".strip("-")


def create(root: Path, name: str, **values: Any) -> Project:
    """Makes a new project.

    Args:
        root: the folder of projects.

    Raises:
        ConfigError: it has no name.
    """
    name = _one_line(name)
    if not name:
        raise ConfigError("Your project needs a name.", "Enter one, such as My dog.")
    taken = {one.name.lower() for one in root.iterdir()} if root.is_dir() else set()
    folder = root / numbered(slug_of(name), taken, "-")
    try:
        (folder / "pictures").mkdir(parents=True)
        (folder / "runs").mkdir()
        return Project(folder, name, **values).save()
    except Exception:  # usually a full disk; half a project would keep the name taken
        remove(folder)
        raise


def load(root: Path, slug: str) -> Project:
    """The project with this address.

    Raises:
        NotHere: there is none.
        ConfigError: its file can't be read.
    """
    folder = existing(root, slug)
    try:
        tables = tomllib.loads(existing(folder, FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / FILE} can't be read: {error}.", "Fix it, or move the folder away.") from error
    known = {one.name for one in dataclasses.fields(Project)} - {"folder"}
    project = Project(folder, str(tables.get("name", slug)))
    texts = {key: str(value) for key, value in tables.items() if key in known - {"changed"}}
    changed = tables.get("changed")
    return replace(project.with_values(texts), changed=changed if isinstance(changed, dict) else {})


def all_in(root: Path) -> list[Project]:
    """All projects that can be read, last changed first."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        if (folder / FILE).is_file():
            try:
                found.append(load(root, folder.name))
            except (NotHere, ConfigError):  # a link to elsewhere, or a damaged file: its own page says so
                continue
    return sorted(found, key=lambda one: -(one.folder / FILE).stat().st_mtime)
