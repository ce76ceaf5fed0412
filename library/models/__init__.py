"""Pretrained models, each family in a folder.

Importing this registers what families add to the settings, at no cost. `library.models.opening` has the families
themselves, and needs PyTorch.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path


def folders_with(module: str) -> list[str]:
    """The modules of this name in the families' folders, by their full names."""
    folders = [one.name for one in pkgutil.iter_modules(__path__)]
    return [f"{__name__}.{one}.{module}" for one in folders if (Path(__path__[0]) / one / f"{module}.py").is_file()]


for _name in folders_with("settings"):
    importlib.import_module(_name)
