"""Settings of what the saved LoRA says of itself, in the header of its files."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.fields import setting

DATA_URL = "data:"
"""Begin of a picture that is written out as text."""


@dataclass(frozen=True, kw_only=True)
class MetadataSettings:
    """[metadata]: what the saved LoRA says of itself; UIs and sites show it."""

    metadata_title: str | None = setting(
        None, "Title of the LoRA in its files. Unset: output_name.", shapes_training=False
    )
    metadata_author: str | None = setting(None, "Author, in the files.", shapes_training=False)
    metadata_description: str | None = setting(None, "Description, in the files.", shapes_training=False)
    metadata_license: str | None = setting(None, "Licence, in the files.", shapes_training=False)
    metadata_tags: str | None = setting(None, "Tags with commas between them, in the files.", shapes_training=False)
    metadata_usage_hint: str | None = setting(
        None, "How to use the LoRA. Unset: what to write in the prompt.", shapes_training=False
    )
    metadata_trigger_phrase: str | None = setting(
        None,
        "Trigger phrase in the files. Unset: the concepts' triggers. Where nothing else says what the trigger is, its "
        "begin up to a comma is the trigger, too.",
        shapes_training=False,
    )
    metadata_thumbnail: str | None = setting(
        None,
        "Picture in the finished files and beside them: a file, or a data: URL. Unset: the first one of the last sheet "
        "that shows the concept.",
        shapes_training=False,
        holds="path",
    )
    metadata_merged_from: str | None = setting(None, "What it was merged from, in the files.", shapes_training=False)
    metadata_preprocessor: str | None = setting(None, "Preprocessor, in the files.", shapes_training=False)
    metadata_is_negative_embedding: str | None = setting(
        None, '"true" or "false", in the files; says nothing of a LoRA.', shapes_training=False
    )
    training_comment: str | None = setting(
        None, "Your words on the training, in the files. Unset: the method and its weights.", shapes_training=False
    )
    no_metadata: bool = setting(
        False,
        "The files say nothing of pictures, captions and settings: only what UIs need to load them, title, author and "
        "the like.",
        shapes_training=False,
    )
