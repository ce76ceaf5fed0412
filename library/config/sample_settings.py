"""Settings of the sheets: what to draw, how and when. The defaults draw as ComfyUI does with Stable Diffusion 3.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """[samples]: contact sheets with base model and student side by side, validation, and the report card."""

    sample_prompts: str | None = setting(
        None,
        "Text file with one prompt per line; [V] stands for the trigger. You can edit it during the run. "
        "Unset: prompts made from the captions.",
        shapes_training=False,
        holds="path",
    )
    sample_every_n_minutes: float | None = setting(
        None, "Draw a contact sheet N minutes after the last one.", above=0, shapes_training=False
    )
    sample_strengths: list[float] = setting(
        [0.75, 1.0, 1.25],
        "LoRA strengths on the strength sheet drawn at the end. An empty list: no such sheet.",
        shapes_training=False,
    )
    sample_every_n_steps: int | None = setting(
        None,
        "Draw a contact sheet every N steps of stage 2. There is always one at the end.",
        at_least=1,
        shapes_training=False,
    )
    sample_at_first: bool = setting(
        False, "Draw a contact sheet before the first step of stage 2, too.", shapes_training=False
    )
    sample_every_n_epochs: int | None = setting(
        None, "Draw a contact sheet every N epochs.", at_least=1, shapes_training=False
    )
    validate_every_n_steps: int | None = setting(
        None,
        "Measure the validation loss every N steps of stage 2, if validation_split is set. Unset: every epoch.",
        at_least=1,
        shapes_training=False,
    )
    validate_every_n_epochs: int | None = setting(
        None, "Measure the validation loss every N epochs.", at_least=1, shapes_training=False
    )
    max_validation_steps: int | None = setting(
        None, "Largest number of batches for a validation loss. Unset: all.", at_least=1, shapes_training=False
    )
    audit: bool = setting(
        True,
        "Make a drift report card after training: what the LoRA learned, and what it changed that it "
        "shouldn't. It takes a few percent of the training time.",
        shapes_training=False,
    )
    audit_prompts: str | None = setting(
        None,
        "Text file with prompts for the report card, one per line, with and without [V]; {class} stands for "
        "the class word. Unset: the project's own.",
        shapes_training=False,
        holds="path",
    )
    sample_seeds: int = setting(
        1, "Number of images per prompt, each from its own seed.", at_least=1, shapes_training=False
    )
    sample_steps: int = setting(20, "Sampling steps of an image.", at_least=1, shapes_training=False)
    guidance_scale: float = setting(
        4.0, "Classifier-free guidance scale of contact sheets and replayed images. 1 turns it off.", at_least=1
    )
    sample_shift: float | None = setting(
        None,
        "Shift of the noise levels of contact sheets. Unset: the model's own, 3 for Stable Diffusion 3 and "
        "3.5, as in ComfyUI.",
        above=0,
        shapes_training=False,
    )
    sample_scheduler: Literal["simple", "sgm_uniform", "normal"] = setting(
        "simple",
        'Scheduler of contact sheets, by ComfyUI\'s names. "simple" is ComfyUI\'s default, "normal" is that of '
        "diffusers.",
        shapes_training=False,
    )
    skip_layer_guidance_scale: float = setting(
        0.0,
        "Scale of skip-layer guidance in contact sheets. 0 turns it off. ComfyUI's node for it uses 3.",
        at_least=0,
        shapes_training=False,
    )
    skip_guidance_layers: list[int] = setting(
        [7, 8, 9], "Blocks that skip-layer guidance skips.", shapes_training=False
    )
    skip_layer_guidance_start: float = setting(
        0.01,
        "Where skip-layer guidance starts: 0 is noise, 1 is the image.",
        at_least=0,
        at_most=1,
        shapes_training=False,
    )
    skip_layer_guidance_stop: float = setting(
        0.15, "Where skip-layer guidance stops.", at_least=0, at_most=1, shapes_training=False
    )

    @property
    def passes_of_guidance(self) -> int:
        """How many predictions a sampling step makes for each image."""
        return 2 if self.guidance_scale > 1 else 1
