"""What is likely to be wrong with a project's captions, without a model: the review of `purecc_caption.py --review`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from gui.pictures import pictures_of
from gui.projects import Project
from gui.recipes import concept_table
from gui.tokens import one_at_a_time
from library.captions.facts import Facts, question_for, question_of_looks
from library.captions.record import Record
from library.captions.review import review
from library.captions.source import Source, captions_in, sources_of
from library.config.data_settings import DataSettings
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile
from library.files.fingerprint import of_bytes
from library.files.picture_files import read_bytes
from library.preflight.finding import Finding

REMEMBERED = 2000
"""Pictures whose hash is cached until they change."""


@lru_cache(REMEMBERED)
def _content(picture: Path, age: int) -> str:
    """Hash of a picture, cached by its time."""
    return of_bytes(read_bytes(picture))


def findings_of(project: Project) -> list[Finding]:
    """What to check. Shared but unnamed things are known only after a model has described the pictures.

    Raises:
        ConfigError: trigger or class word is missing.
    """
    concept, folder = project.concept(), project.pictures
    if not pictures_of(project):
        return []
    tables = {"concepts": [concept_table(project)], "datasets": [{"subsets": [{"image_dir": str(folder)}]}]}
    config = read_dataset_config(TomlFile.of_tables(folder, tables), DataSettings())
    record, asked = Record(folder), question_for(concept)

    def facts_of(source: Source) -> Facts | None:
        content = _content(source.picture, source.picture.stat().st_mtime_ns)
        return record.facts_of(source.picture, content, asked, None)

    with one_at_a_time:
        captions, problems = captions_in(sources_of(concept, config), concept, facts_of)
    return [*problems, *review(captions, concept, record.looks(question_of_looks(concept), None))]
