"""Settings of the sheets: what is drawn, how and when. Unset, as ComfyUI draws with Stable Diffusion 3.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """[samples]: the contact sheets, pretrained model and student side by side."""

    sample_prompts: str | None = setting(
        None,
        "Text file with one prompt a line; [V] stands for the trigger. It may be changed while the run goes on. Unset: "
        "made from the captions.",
        shapes_training=False,
        holds="path",
    )
    sample_every_n_minutes: float | None = setting(
        None, "A sheet as soon as so many minutes have passed since the last one.", above=0, shapes_training=False
    )
    sample_strengths: list[float] = setting(
        [0.5, 0.75, 1.0, 1.25],
        "Strengths of the LoRA on the sheet of strengths that is drawn at the end. An empty list: no such sheet.",
        shapes_training=False,
    )
    sample_every_n_steps: int | None = setting(
        None,
        "A sheet every so many steps of stage 2. There is always one at the end.",
        at_least=1,
        shapes_training=False,
    )
    sample_at_first: bool = setting(False, "A sheet before the first step of stage 2, too.", shapes_training=False)
    sample_every_n_epochs: int | None = setting(None, "The same in epochs.", at_least=1, shapes_training=False)
    validate_every_n_steps: int | None = setting(
        None,
        "Validation loss every so many steps of stage 2, if validation_split keeps pictures for it. Unset: each epoch.",
        at_least=1,
        shapes_training=False,
    )
    validate_every_n_epochs: int | None = setting(None, "The same in epochs.", at_least=1, shapes_training=False)
    max_validation_steps: int | None = setting(
        None, "Most batches that make a validation loss. Unset: all.", at_least=1, shapes_training=False
    )
    audit: bool = setting(
        True,
        "A drift report card after training: what the LoRA learned and what it changed that it should not. It takes a "
        "few percent of the time of the training.",
        shapes_training=False,
    )
    audit_prompts: str | None = setting(
        None,
        "Text file with the prompts of purecc_evaluate.py audit, one a line, with and without [V]; {class} stands for "
        "the class word. Unset: those that come with the project.",
        shapes_training=False,
        holds="path",
    )
    sample_seeds: int = setting(1, "Pictures of each prompt, from the same seeds.", at_least=1, shapes_training=False)
    sample_steps: int = setting(20, "Sampling steps of a picture.", at_least=1, shapes_training=False)
    guidance_scale: float = setting(
        4.0, "Classifier-free guidance of sheets and replayed pictures. 1 turns it off.", at_least=1
    )
    sample_shift: float | None = setting(
        None,
        "Shift of the noise levels of sheets. Unset: the model's own, 3 for Stable Diffusion 3 and 3.5 as in ComfyUI.",
        above=0,
        shapes_training=False,
    )
    sample_scheduler: Literal["simple", "sgm_uniform", "normal"] = setting(
        "simple",
        'The noise levels of the steps of sheets, by ComfyUI\'s names: "simple" is its default, "normal" diffusers\'.',
        shapes_training=False,
    )
    skip_layer_guidance_scale: float = setting(
        0.0,
        "Skip-layer guidance of sheets, away from what the model draws without some blocks. 0 turns it off; ComfyUI's "
        "node SkipLayerGuidanceSD3 has 3.",
        at_least=0,
        shapes_training=False,
    )
    skip_guidance_layers: list[int] = setting([7, 8, 9], "The blocks it leaves out.", shapes_training=False)
    skip_layer_guidance_start: float = setting(
        0.01, "Where it begins, 0 for noise and 1 for the picture.", at_least=0, at_most=1, shapes_training=False
    )
    skip_layer_guidance_stop: float = setting(0.15, "Where it ends.", at_least=0, at_most=1, shapes_training=False)
