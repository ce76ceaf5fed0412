"""The objectives of stage 2 to compare, each applied over a run's own settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from library.config.settings import Settings

NOTHING = {
    "eta": 0.0,
    "anchor_weight": 0.0,
    "replay_weight": 0.0,
    "surroundings_weight": 0.0,
    "word_weight": 0.0,
    "ties": "all",
}
TIES = {"anchor_weight": 1.0, "replay_weight": 1.0, "surroundings_weight": 3.0}
TURNS = {"word_weight": 1.0, "ties": "turns"}
"""What the presets have now: the tie for the word, and one tie per step."""
PLAIN = "plain LoRA"
AUTHORS = "the authors' release"
PEER = "diffusers + PEFT, plain LoRA"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: NOTHING,
    "L_CC + anchor (DOP)": {**NOTHING, "anchor_weight": 1.0},
    "paper: live base": {**NOTHING, "eta": 1.0, "v_original": "live", "guidance_against": "null"},
    "PureCC, base detached": {**NOTHING, "eta": 1.0, "v_original": "detached"},
    "PureCC, base frozen": {**NOTHING, "eta": 1.0, "v_original": "frozen"},
    "PureCC + anchor": {**NOTHING, "eta": 1.0, "anchor_weight": 1.0},
    "PureCC + anchor + replay": {**NOTHING, "eta": 0.5, "anchor_weight": 1.0, "replay_weight": 1.0},
    "lean: without PureCC, + surroundings": {**NOTHING, **TIES},
    "pure: all of it": {**NOTHING, **TIES, "eta": 0.5},
    "lean, with the word, in turns": {**NOTHING, **TIES, **TURNS},
    "pure, with the word, in turns": {**NOTHING, **TIES, **TURNS, "eta": 0.5},
}
"""Settings of [pure_learning] by their names in the tables."""


def settings_of(settings: Settings, variant: str) -> Settings:
    """A run's settings with a variant's objective."""
    return replace(settings, pure_learning=replace(settings.pure_learning, **VARIANTS[variant]))
