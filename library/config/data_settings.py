"""The settings of the data: what a dataset file may set for a dataset or subset, with sd-scripts' names."""

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
    }
)
"""Settings of this group that can't be in a dataset file."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """[data]: images and captions. These are the defaults for datasets and subsets that don't set their own values."""

    dataset_config: str | None = setting(
        None,
        "TOML or JSON file with concepts, datasets and subsets. They can also be in the main file.",
        shapes_training=False,
        holds="path",
    )
    train_data_dir: str | None = setting(
        None,
        "Instead of a dataset file: a folder of folders such as 10_sks dog, with repeats and class tokens in the name.",
        holds="path",
    )
    reg_data_dir: str | None = setting(
        None, "The same for regularisation images, in addition to train_data_dir.", holds="path"
    )
    trigger: str | None = setting(
        None, "The concept's trigger word, if the files have no [[concepts]]. Unset: the first word of class_tokens."
    )
    class_word: str | None = setting(
        None, "The concept's class word, if the files have no [[concepts]]. Unset: the rest of class_tokens."
    )
    kind: Kind | None = setting(
        None,
        'The kind of concept, if the files have no [[concepts]]. Unset: a style if the class word is "style", '
        "otherwise a subject.",
    )
    resolution: int | list[int] = setting(512, "Size of the training images: one number, or [width, height].")
    train_batch_size: int = setting(2, "Images per step. In a dataset file: batch_size.", at_least=1)
    enable_bucket: bool = setting(
        False, "Keep each image's aspect ratio by sorting images into buckets of similar shapes."
    )
    min_bucket_reso: int = setting(256, "Shortest side of a bucket, in pixels.", at_least=8)
    max_bucket_reso: int = setting(2048, "Longest side of a bucket, in pixels.", at_least=8)
    bucket_reso_steps: int = setting(64, "Bucket sides are multiples of this number of pixels.", at_least=8)
    bucket_no_upscale: bool = setting(False, "Never enlarge an image to fill its bucket.")
    resize_interpolation: (
        Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"] | None
    ) = setting(None, "How images are resized. Unset: lanczos.")
    validation_split: float = setting(
        0.0,
        "Share of a dataset's images kept out of training and used for the validation loss.",
        at_least=0,
        at_most=0.9,
    )
    validation_seed: int | None = setting(None, "Seed that chooses the validation images. Unset: seed.", at_least=0)
    dataset_repeats: int = setting(
        1, "How often an epoch shows each image. 0 leaves a subset out. In a dataset file: num_repeats.", at_least=0
    )
    flip_aug: bool = setting(False, "Mirror images half of the time. Don't use it for text or asymmetric subjects.")
    random_crop: bool = setting(False, "Crop images at random places instead of at the center.")
    random_crop_variants: int = setting(
        4, "Number of crops that random_crop makes of each image. All are cached.", at_least=1
    )
    caption_extension: str | None = setting(
        None, "Extension of the caption file next to each image. Unset: .txt, or else .caption.", holds="ending"
    )
    class_tokens: str | None = setting(None, "Caption of images that have no caption file.")
    caption_templates: list[str] = setting(
        [], "Captions for images that have no caption file, drawn at random, as in the paper."
    )
    caption_prefix: str | None = setting(None, "Text added before every caption.")
    caption_suffix: str | None = setting(None, "Text added after every caption.")
    caption_separator: str = setting(",", "Separator between the tags of a caption.")
    shuffle_caption: bool = setting(False, "Shuffle the tags of captions.")
    keep_tokens: int = setting(
        0, "Number of tags at the start of a caption that are neither shuffled nor dropped.", at_least=0
    )
    keep_tokens_separator: str = setting(
        "",
        'Text such as "|||" that ends the tags kept at the start of a caption. A second one starts the tags '
        "kept at the end.",
    )
    secondary_separator: str | None = setting(
        None, 'Text such as ";;;" that joins several tags into one. It is replaced by caption_separator at the end.'
    )
    enable_wildcard: bool = setting(
        False, "Choose one of {one|other} in a caption, and one line of a caption file with several lines, at random."
    )
    caption_variants: int = setting(
        8, "Number of variants of each caption from shuffling, tag dropout and wildcards. All are cached.", at_least=1
    )
    caption_dropout_rate: float = setting(0.0, "Share of captions replaced by an empty caption.", at_least=0, at_most=1)
    caption_dropout_every_n_epochs: int = setting(
        0, "Replace all captions by an empty caption every N epochs. 0: never.", at_least=0
    )
    caption_tag_dropout_rate: float = setting(
        0.0, "Share of tags dropped from captions. The tag with [V] is never dropped.", at_least=0, at_most=1
    )
    alpha_mask: bool = setting(False, "Ignore transparent parts of an image in the concept loss.")
    masked_loss: bool = setting(
        False, "Use the masks in conditioning_data_dir: dark parts are ignored in the concept loss."
    )
