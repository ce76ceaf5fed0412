"""The settings of the data: what a dataset file may say of a dataset or subset, with sd-scripts' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.dataset import Kind
from library.config.fields import setting

RUN_ONLY = frozenset(
    {
        "dataset_config",
        "train_data_dir",
        "reg_data_dir",
        "trigger",
        "class_word",
        "kind",
        "masked_loss",
        "caption_variants",
        "random_crop_variants",
        "clip_l_dropout_rate",
        "clip_g_dropout_rate",
        "t5_dropout_rate",
    }
)
"""Settings of this group that a dataset file does not know."""


def _dropout_of(encoder: str) -> float:
    return setting(
        0.0,
        f"Share of pictures, replayed ones too, seen without {encoder}: its states are 0 in all of their prompts.",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """[data]: what a dataset file may say of a dataset or subset; said here, it holds wherever the file is silent."""

    dataset_config: str | None = setting(
        None,
        "TOML or JSON file with the concepts, datasets and subsets; they may stand in the main file as well.",
        shapes_training=False,
        holds="path",
    )
    train_data_dir: str | None = setting(
        None,
        "Instead of a dataset file: a folder of folders such as 10_sks dog, repeats and class tokens in the name.",
        holds="path",
    )
    reg_data_dir: str | None = setting(
        None, "The same for regularisation pictures, beside train_data_dir.", holds="path"
    )
    trigger: str | None = setting(
        None, "The concept's trigger, where the files have no [[concepts]]. Unset: first word of class_tokens."
    )
    class_word: str | None = setting(
        None, "The concept's class word, where the files have no [[concepts]]. Unset: the rest of class_tokens."
    )
    kind: Kind | None = setting(
        None, 'The concept\'s kind, where the files have no [[concepts]]. Unset: a style if the class word is "style".'
    )
    resolution: int | list[int] = setting(512, "Size of the pictures, one number or [width, height].")
    train_batch_size: int = setting(2, "Images of a step. In a dataset file: batch_size.", at_least=1)
    enable_bucket: bool = setting(False, "Keep each picture's shape, by sorting them into buckets of alike shapes.")
    min_bucket_reso: int = setting(256, "Shortest side of a bucket.", at_least=8)
    max_bucket_reso: int = setting(2048, "Longest side of a bucket.", at_least=8)
    bucket_reso_steps: int = setting(64, "Sides of buckets are multiples of it.", at_least=8)
    bucket_no_upscale: bool = setting(False, "Never enlarge a picture to fill its bucket.")
    resize_interpolation: (
        Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"] | None
    ) = setting(None, "How pictures are scaled. Unset: lanczos.")
    validation_split: float = setting(
        0.0, "Share of a dataset's pictures kept from training, for the validation loss.", at_least=0, at_most=0.9
    )
    validation_seed: int | None = setting(None, "Which pictures those are follows from it. Unset: seed.", at_least=0)
    dataset_repeats: int = setting(
        1, "How often an epoch shows each picture; 0 leaves a subset out. In a dataset file: num_repeats.", at_least=0
    )
    flip_aug: bool = setting(False, "Show pictures mirrored half of the time; breaks text and lopsided subjects.")
    random_crop: bool = setting(False, "Cut pictures to their bucket at random places instead of evenly.")
    random_crop_variants: int = setting(
        4, "Places at which random_crop cuts each picture, all in the cache.", at_least=1
    )
    caption_extension: str | None = setting(
        None, "Ending of the caption file beside each picture. Unset: .txt or else .caption.", holds="ending"
    )
    class_tokens: str | None = setting(None, "Caption of pictures that have no caption file.")
    caption_templates: list[str] = setting(
        [], "Captions of pictures that have no caption file, drawn at random: the paper's own habit."
    )
    caption_prefix: str | None = setting(None, "Put before every caption.")
    caption_suffix: str | None = setting(None, "Put after every caption.")
    caption_separator: str = setting(",", "What stands between the tags of a caption.")
    shuffle_caption: bool = setting(False, "Tags in random order.")
    keep_tokens: int = setting(0, "Tags at a caption's begin that are neither shuffled nor dropped.", at_least=0)
    keep_tokens_separator: str = setting(
        "", 'Text such as "|||" that ends the tags kept at the begin and, once more, begins those kept at the end.'
    )
    secondary_separator: str | None = setting(
        None, 'Text such as ";;;" inside a tag that holds several together; it becomes caption_separator.'
    )
    enable_wildcard: bool = setting(
        False, "{one|other} in a caption draws one of them, and a caption file of several lines one of its lines."
    )
    caption_variants: int = setting(
        8, "Variants of each caption that shuffling, dropped tags and wildcards make, all in the cache.", at_least=1
    )
    caption_dropout_rate: float = setting(0.0, "Share of captions replaced by the empty one.", at_least=0, at_most=1)
    caption_dropout_every_n_epochs: int = setting(
        0, "Every so many epochs, all captions are replaced by the empty one. 0: never.", at_least=0
    )
    clip_l_dropout_rate: float = _dropout_of("CLIP-L")
    clip_g_dropout_rate: float = _dropout_of("CLIP-G")
    t5_dropout_rate: float = _dropout_of("T5")
    caption_tag_dropout_rate: float = setting(
        0.0, "Share of tags left out of captions; never the one that holds [V].", at_least=0, at_most=1
    )
    alpha_mask: bool = setting(False, "Transparent places of a picture do not count in the concept loss.")
    masked_loss: bool = setting(
        False, "Use the masks in conditioning_data_dir: dark places do not count in the concept loss."
    )
