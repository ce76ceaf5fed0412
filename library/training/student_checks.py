"""Checks of the finished student and its files: whether it learned little, and where the files load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from library.dual_branch_scheduler import Branch
from library.parts.parts import Attached
from library.predictions import STUDENT
from library.report.log import RunLog, mean_of_end, read_log
from library.saving.reload import ReloadCheck
from library.terminal import say
from library.training.listeners import Listener, Listeners

WEAK_COSINE = 0.2
"""A mean cosine below this at the end of stage 2 means that the extractor taught the student little."""


class WeakStudent(Listener):
    """Warns about a student that the extractor taught little."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def student_finished(self, parts: Attached, branch: Branch, files: Mapping[Path, str]) -> None:
        """Warns, if it is one."""
        rows = [row for row in read_log(self.log.path) if row["stage"] == STUDENT]
        cosine = mean_of_end(rows, "cosine")
        if cosine is not None and cosine < WEAK_COSINE:
            say(
                f"The student ended at a mean cosine of {cosine:.2f} with the extractor's guidance, which is low, so "
                "the extractor is weak. Train stage 1 longer (extractor_train_steps), or raise its learning rate."
            )


class FileCheck(Listener):
    """Reads back every saved LoRA file.

    Args:
        prompt: for the pass that compares the file's student with the saved one.
    """

    def __init__(self, prompt: str, listeners: Listeners) -> None:
        self.prompt = prompt
        self.listeners = listeners

    def student_finished(self, parts: Attached, branch: Branch, files: Mapping[Path, str]) -> None:
        """Reports for every LoRA file where it loads. If this fails, the files are still saved."""
        layouts = parts.model.family.lora_names.layouts
        if not set(files.values()) & set(layouts):
            return
        failed = "the saved files could not be checked"
        with self.listeners.harmless("check of the files", failed, "They are kept."):
            check = ReloadCheck(parts, self.prompt)
            for path, layout in files.items():
                if layout in layouts:
                    line = check.of(path, layout).line
                    self.listeners.tell(Listener.file_checked, path, line)
                    say(line)
