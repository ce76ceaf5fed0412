"""Writes `docs/reference/settings.md`, the list of all settings: python -m library.config.reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from library.config.data_settings import RUN_ONLY, DataSettings
from library.config.dataset import Concept, Source
from library.config.dataset_file import DATASET_LEVEL, IN_THE_FILE
from library.config.fields import default_of, describe, hints_of, name_of
from library.config.groups import groups

HEAD = """# Settings

Written by `python -m library.config.reference`. In a TOML file a setting may stand at the top or in any section; on the
command line it is `--name value`, and `--name` / `--no_name` for true / false. The command line beats the file, the
file beats the default.
"""
DATASET_HEAD = """## In a dataset file

Of `[data]`, these may stand in `[general]` and `[[datasets]]` only: {dataset}. These may stand in
`[[datasets.subsets]]`, too: {subset}. A subset also has:

{source}

### [[concepts]]
"""


def _table(group: type) -> str:
    """The settings of a group as a Markdown table."""
    hints = hints_of(group)
    rows = ["| setting | type | default | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(group):
        default = default_of(field)
        shown = "must be given" if default is dataclasses.MISSING else "unset" if default is None else f"`{default}`"
        cells = [f"`{name_of(field)}`", describe(hints[field.name]), shown, field.metadata["help"]]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def settings_reference() -> str:
    """All settings, by section."""
    parts = [HEAD]
    for section, group in groups().items():
        about = group.__doc__.partition(": ")[2].splitlines()[0]
        parts.append(f"## [{section}]\n\n{about[0].upper()}{about[1:]}\n\n{_table(group)}\n")
    names = [IN_THE_FILE.get(name_of(field), name_of(field)) for field in dataclasses.fields(DataSettings)]
    in_both = [f"`{name}`" for name in names if name not in DATASET_LEVEL and name not in RUN_ONLY]
    dataset = ", ".join(f"`{name}`" for name in names if name in DATASET_LEVEL)
    parts.append(
        DATASET_HEAD.format(dataset=dataset, subset=", ".join(in_both), source=_table(Source))
        + "\n"
        + _table(Concept)
        + "\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    Path("docs/reference/settings.md").write_text(settings_reference(), encoding="utf-8")
