"""Trains a concept: python purecc_train.py --config_file presets/demo.toml"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import (
    add_settings_to,
    command_line_parser,
    config_file_of,
    output_config_of,
    read_settings,
    settings_given,
)
from library.environment import prepare_process
from library.errors import EXIT_DOES_NOT_FIT, ConfigError, exit_code_of, is_main_process

if TYPE_CHECKING:
    from library.config.dataset import DatasetConfig
    from library.config.files import TomlFile
    from library.config.settings import Settings
    from library.preflight.plan import Plan
    from library.training.processes import Processes


def main(log: list[Path]) -> None:
    """Reads the settings, makes the plan and runs it."""
    parser = command_line_parser("Trains a LoRA of a subject or style from a few images, and changes nothing else.")
    parser.add_argument("--dry_run", action="store_true", help="Check everything and show the plan, without training.")
    parser.add_argument(
        "--json", action="store_true", help="With --dry_run: print the plan as JSON, for another program."
    )
    parser.add_argument("--doctor", action="store_true", help="Report what is likely to go wrong, without training.")
    parser.add_argument("--clear_cache", action="store_true", help="Empty cache_dir before training.")
    parser.add_argument(
        "--output_config",
        nargs="?",
        const="",
        metavar="FILE",
        help="Write every setting in force to FILE, without training.",
    )
    add_settings_to(parser)
    arguments = parser.parse_args()
    if arguments.clear_cache and (arguments.dry_run or arguments.doctor):
        raise ConfigError("--clear_cache has no effect here, because nothing is computed.", "Remove it.")
    if arguments.json and (arguments.doctor or not arguments.dry_run):
        raise ConfigError("--json only works with --dry_run.", "Add --dry_run, or remove --json.")
    target = output_config_of(arguments)
    file = config_file_of(arguments)
    notices: list[str] = []
    settings = read_settings(file, settings_given(arguments), notices)
    config = read_concepts_and_pictures(file, settings, notices)

    if target:
        from library.config.in_force import in_force
        from library.files.atomic import write_text

        write_text(target, in_force(settings, config))
        print("\n".join([*dict.fromkeys(notices), f"Saved every setting in force to {target}."]))
        return

    if not arguments.json and is_main_process():
        print(beginning(settings, file), flush=True)

    # After the settings, since torch takes seconds to import.
    from library.training.processes import joined

    with joined(settings, notices) as processes:
        for notice in dict.fromkeys(notices if not arguments.json else ()):
            print(notice)
        execute(arguments, settings, config, processes, log)


def beginning(settings: Settings, file: TomlFile | None) -> str:
    """The first line, before anything that takes seconds."""
    model = settings.model.pretrained_model_name_or_path
    given = file.path if file else "the command line"
    return f"Settings: {given}. Model: {model}. Results: {settings.output_dir}. Loading PyTorch ..."


def execute(
    arguments: Namespace, settings: Settings, config: DatasetConfig, processes: Processes, log: list[Path]
) -> None:
    """Makes the plan and does what was asked for."""
    from library.evaluation.quick import QuickAudit
    from library.preflight.finding import describe_findings
    from library.preflight.fit import card_of, check_auto_fit, describe_fit, fitted
    from library.preflight.machine import this_machine, unused_card
    from library.preflight.plan import describe_plan, make_plan
    from library.preflight.times import counted_steps_after, planned_steps, speed_for, steps_after
    from library.training.run import Run

    plan = make_plan(settings, config, processes.count)
    card = card_of(settings, plan.parts.model.device)
    card = None if card is None else processes.least(card)
    check_auto_fit(settings, card)
    if arguments.doctor or arguments.dry_run:
        show(arguments, plan, card)
        return
    print(describe_plan(plan))
    if plan.parts.model.device.type == "cpu" and (unused := unused_card(this_machine(), settings.model)):
        print(describe_findings(unused))
    audit = QuickAudit.of(plan)
    planned: dict[str, float] = {}
    after = partial(counted_steps_after, plan, audit.passes)
    if card is not None:
        plan, predicted, taken = fitted(plan, card)
        print(describe_fit(plan, predicted, taken, card))
        planned = planned_steps(plan, predicted)
        after = partial(dict, steps_after(plan, predicted, speed_for(plan.settings, plan.parts.model), audit.passes))

    from library.files.cache_limit import CacheUse
    from library.files.folder_lock import FolderLock

    log.append(settings.output_dir / "log.jsonl")
    begin = time.monotonic()
    cache = CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes, arguments.clear_cache)
    with processes.main_holds(FolderLock(settings.output_dir)), processes.main_holds(cache):
        if arguments.clear_cache and processes.main:
            print(f"Cleared {cache.cleared / 1e6:.0f} MB of {settings.saving.cache_dir}.")
        run = Run(audit.planned(plan), processes)
        run.looks.append(audit)
        run.planned |= planned
        run.after = after
        files = run.train()
    if run.done:
        return
    print(f"Done in {time.monotonic() - begin:.0f} s. Look at {settings.output_dir / 'samples'} first. Saved:")
    print("\n".join(f"  {file}" for file in files))


def show(arguments: Namespace, plan: Plan, card: int | None) -> None:
    """What a run would do, and which problems it would have. Prepares the run without starting it.

    Args:
        card: bytes of the GPU; None: there is none.
    """
    from library.evaluation.quick import QuickAudit
    from library.preflight.checks import longest_paths
    from library.preflight.doctor import findings, hidden_triggers
    from library.preflight.dry_run import dry_run_tables
    from library.preflight.finding import describe_findings
    from library.preflight.fit import describe_fit, fitted
    from library.preflight.machine import machine_findings, this_machine
    from library.preflight.plan import describe_plan
    from library.preflight.windows import path_findings
    from library.training.run import Run

    # A state knows the precision that auto_fit chose. Everything else stops a run before its memory is counted.
    fit = fitted(plan, card) if plan.settings.model.auto_fit else None
    fitting = fit[0] if fit else plan
    Run(QuickAudit.of(fitting).planned(fitting))
    if arguments.dry_run and not arguments.json:
        print(describe_plan(plan))
    machine, blocks = this_machine(), plan.parts.model.transformer_config["num_layers"]
    found = [*machine_findings(machine, plan.settings.model, blocks), *findings(plan)]
    found += path_findings(longest_paths(plan), machine.longest_path)
    found += hidden_triggers(plan) if arguments.doctor else []
    if not arguments.json:
        print(describe_findings(found))
    if arguments.doctor:
        return
    fitting, predicted, taken = fit or fitted(plan, card)
    if arguments.json:
        print(json.dumps(dry_run_tables(fitting, found, predicted, taken, card)))
    else:
        print(describe_fit(fitting, predicted, taken, card))
    if card is not None and not predicted.fits(card):
        raise SystemExit(EXIT_DOES_NOT_FIT)


if __name__ == "__main__":
    prepare_process()
    where: list[Path] = []
    sys.exit(exit_code_of(lambda: main(where), lambda: str(where[0]) if where else None))
