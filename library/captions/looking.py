"""Lets a model look at each picture once. The facts are kept, so that composing again needs no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL.Image import Image

from library.captions.composition import Composed, compose
from library.captions.facts import (
    AGAIN,
    BrokenAnswer,
    Facts,
    question_for,
    question_of_looks,
    read_facts,
    read_looks,
)
from library.captions.record import Record
from library.captions.source import Source, token_counts
from library.captions.viewer import Viewer
from library.config.dataset import Concept
from library.data.images import open_image
from library.files.fingerprint import of_bytes
from library.files.picture_files import read_bytes
from library.prompts import derive
from library.report.progress import bar_over

SEEN_TOGETHER = 6
"""Most pictures shown with the question about a subject's looks."""

T = TypeVar("T")


class Looking:
    """What is known about a concept's pictures.

    Args:
        records: of each folder.
        model: which must have seen them; None: any.
    """

    def __init__(self, concept: Concept, records: Mapping[Path, Record], model: str | None) -> None:
        self.concept = concept
        self.records = records
        self.model = model
        self._question = question_for(concept)

    def known(self, source: Source) -> Facts | None:
        """The facts about a picture in its current state."""
        content = of_bytes(read_bytes(source.picture))
        return self.records[source.folder].facts_of(source.picture, content, self._question, self.model)

    def known_looks(self) -> tuple[str, ...]:
        """What describes the subject, if known."""
        asked = question_of_looks(self.concept)
        found = [look for record in self.records.values() for look in record.looks(asked, self.model)]
        return tuple(dict.fromkeys(found))

    def look_at(self, sources: Sequence[Source], open_viewer: Callable[[], Viewer]) -> dict[str, str]:
        """Asks for what is not known yet; loads the model only if needed.

        Returns:
            Names of pictures whose answer can't be used, and why.
        """
        unseen = [source for source in sources if self.known(source) is None]
        no_looks = self.concept.kind == "subject" and not self.known_looks()
        if not unseen and not no_looks:
            return {}
        viewer, broken = open_viewer(), dict[str, str]()
        for source in bar_over("looking")(unseen):
            content = read_bytes(source.picture)
            try:
                facts = _asked(viewer, [open_image(source.picture, content)], self._question, read_facts)
            except BrokenAnswer as why:
                broken[source.picture.name] = str(why)
                continue
            record = self.records[source.folder]
            record.keep_facts(source.picture, of_bytes(content), self._question, viewer.name, facts)
        if no_looks:
            broken |= self._look_for_looks(sources, viewer)
        return broken

    def _look_for_looks(self, sources: Sequence[Source], viewer: Viewer) -> dict[str, str]:
        """Asks once what the subject itself looks like."""
        some = sources[:: -(-len(sources) // SEEN_TOGETHER)]
        question = question_of_looks(self.concept)
        try:
            looks = _asked(viewer, [open_image(source.picture) for source in some], question, read_looks)
        except BrokenAnswer as why:
            return {f"What the {self.concept.class_word} looks like": str(why)}
        self.records[some[0].folder].keep_looks(question, viewer.name, looks)
        return {}

    def _fits(self, caption: str) -> bool:
        """Whether the encoders read all of a caption."""
        complete = derive(caption, self.concept, caption).complete
        return all(one.needed <= one.limit for one in token_counts([complete])[0])

    def composed(self, source: Source) -> Composed | None:
        """A picture's caption; None if nothing is known about it."""
        facts = self.known(source)
        return None if facts is None else compose(facts, self.concept, self.known_looks(), self._fits)


def _asked(viewer: Viewer, images: Sequence[Image], question: str, read: Callable[[str], T]) -> T:
    """The facts of an answer; asks once more if it is broken.

    Raises:
        BrokenAnswer: the second one is broken, too.
    """
    try:
        return read(viewer.answer(images, question))
    except BrokenAnswer:
        return read(viewer.answer(images, question + AGAIN))
