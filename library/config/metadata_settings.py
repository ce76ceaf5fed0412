"""Settings for the information in the header of the saved LoRA files."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting

DATA_URL = "data:"
"""Start of a picture that is written as text."""


@dataclass(frozen=True, kw_only=True)
class MetadataSettings:
    """[metadata]: information in the saved LoRA that UIs and websites show."""

    metadata_title: str | None = setting(
        None, "Title of the LoRA, in its files. Unset: output_name.", shapes_training=False
    )
    metadata_author: str | None = setting(None, "Author, in the files.", shapes_training=False)
    metadata_description: str | None = setting(None, "Description, in the files.", shapes_training=False)
    metadata_license: str | None = setting(None, "Licence, in the files.", shapes_training=False)
    metadata_tags: str | None = setting(None, "Tags separated by commas, in the files.", shapes_training=False)
    metadata_usage_hint: str | None = setting(
        None, "How to use the LoRA, in the files. Unset: what to write in the prompt.", shapes_training=False
    )
    metadata_trigger_phrase: str | None = setting(
        None,
        "Trigger phrase, in the files. Unset: the concepts' triggers. If nothing else sets the trigger, the "
        "part before the first comma becomes the trigger.",
        shapes_training=False,
    )
    metadata_thumbnail: str | None = setting(
        None,
        "Thumbnail in the finished files and next to them: an image file or a data: URL. Unset: the first "
        "image of the last sheet that shows the concept.",
        shapes_training=False,
        holds="path",
    )
    metadata_merged_from: str | None = setting(
        None, "What the LoRA was merged from, in the files.", shapes_training=False
    )
    metadata_preprocessor: str | None = setting(None, "Preprocessor, in the files.", shapes_training=False)
    metadata_is_negative_embedding: str | None = setting(
        None, '"true" or "false", in the files. It has no meaning for a LoRA.', shapes_training=False
    )
    training_comment: str | None = setting(
        None, "Your comment on the training, in the files. Unset: the method and its weights.", shapes_training=False
    )
    no_metadata: bool = setting(
        False,
        "Leave images, captions and settings out of the files. They keep what UIs need, title, author and the like.",
        shapes_training=False,
    )
