"""What is likely to go wrong with a run, seen before it, each with its remedy: pictures, captions, trigger, steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from library.config.dataset import PLACEHOLDER, Concept
from library.data.captions import caption_file_of, captions_of
from library.data.inspection import Look, look_at, nearly_same, same_files, surroundings_differ
from library.data.pictures import Picture
from library.prompts import triggers_in
from library.report.progress import bar_over
from library.training.finding import Finding
from library.training.plan import Plan, cut_off

MANY_TOKENS = 4
"""A trigger of more CLIP tokens than this is spread thin."""
KNOWN_WORD = 4
"""A trigger of at least so many letters that CLIP reads as one token is a word that it knows."""
RARE_WORDS = frozenset({"ohwx"})
"""Words that CLIP reads as one token and that mean nothing to it."""
ENLARGED = 1.5
"""A picture that has to be enlarged by more than this is too small."""
BLURRED_SHARE = 0.1
"""A picture whose sharpness is below this share of the others' median may be blurred."""
ONE_BACKGROUND = 0.06
"""Below this difference of their edges, pictures have one background."""
FEW_STEPS = 100
FEW_PICTURES = 3
MOST_LOOKED_AT = 300
"""Pictures of a concept that are decoded; of more, so many that lie evenly among them."""
MOST_PAIRS = 12
"""Pairs of alike pictures that are named."""
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that of in on at by to with and or is are its his her photo picture image drawing painting",
    )
)


def findings(plan: Plan) -> list[Finding]:
    """All that was found; pictures are decoded for it, no model is loaded."""
    found = [*_steps(plan), *_texts(plan)]
    for concept in plan.config.concepts:
        shown = [one for one in plan.pictures if one.concept.name == concept.name and not one.subset.is_reg]
        pictures = list({picture.path: picture for picture in shown}.values())
        found += [
            *_trigger(plan, concept),
            *_captions(pictures, concept),
            *_looks(pictures, concept, plan.settings.context.context_vectors > 0),
        ]
    return found


def _names(pictures: list[Picture], most: int = 4) -> str:
    names = [picture.path.name for picture in pictures]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _steps(plan: Plan) -> Iterator[Finding]:
    for stage, steps in plan.stage_steps.items():
        if steps < FEW_STEPS:
            setting = plan.counted_by if stage == "student" else "extractor_train_steps"
            usual = "400 steps are the default" if setting == "max_train_epochs" else "the default is 400"
            yield Finding(f"The {stage} trains for {steps} steps only.", f"Give it more: {setting}; {usual}.")


def _texts(plan: Plan) -> Iterator[Finding]:
    cut = cut_off(plan, [triple.complete for triple in plan.triples])
    if cut:
        yield Finding(
            f"{len(cut)} times a caption is cut off: {cut[0].strip()}{' ...' if len(cut) > 1 else ''}",
            "Shorten captions, or raise t5xxl_max_token_length (CLIP always reads 77 tokens at most).",
        )


def _trigger(plan: Plan, concept: Concept) -> Iterator[Finding]:
    tokens, words = plan.parts.layouts[concept.name].clip, concept.trigger.split()
    known = [word for word in words if word.isalpha() and len(word) >= KNOWN_WORD and word not in RARE_WORDS]
    if tokens > MANY_TOKENS:
        yield Finding(
            f'The trigger "{concept.trigger}" is {tokens} CLIP tokens long.',
            'Choose a shorter one, for instance "ohwx".',
        )
    elif known and tokens == len(words):
        yield Finding(
            f'The trigger "{concept.trigger}" is a word that the model knows, so it brings its own meaning.',
            'Choose one that means nothing, for instance "ohwx".',
        )
    if concept.trigger.lower() in concept.class_word.lower():
        yield Finding(
            f'The trigger "{concept.trigger}" is part of the class word "{concept.class_word}".', "Choose another one."
        )


def _captions(pictures: list[Picture], concept: Concept) -> Iterator[Finding]:
    raw = {picture.path: captions_of(picture.path, picture.subset)[0] for picture in pictures}
    bare = [picture for picture in pictures if not caption_file_of(picture.path, picture.subset)]
    if bare:
        yield Finding(
            f"{len(bare)} of {len(pictures)} pictures have no caption of their own: {_names(bare)}.",
            "Write one for each that names place, light and everything else but the concept; it matters most of all.",
        )
    captionless = {picture.path for picture in bare}
    own = [picture for picture in pictures if picture.path not in captionless]
    without = [one for one in own if not any(_names_concept(text, concept) for text in raw[one.path])]
    if without:
        yield Finding(
            f"{len(without)} captions hold neither {PLACEHOLDER} nor the trigger: {_names(without)}.",
            f"{PLACEHOLDER} was put in for you; look at the table of texts, and write it yourself where it is wrong.",
        )
    if concept.kind == "subject":
        classless = [one for one in pictures if not triggers_in(one.prompts[0].base, concept.class_word)]
        if classless:
            yield Finding(
                f'{len(classless)} captions lack the class word "{concept.class_word}": {_names(classless)}.',
                f'Write "{PLACEHOLDER} {concept.class_word}", so that the base text still says what is there.',
            )
        yield from _described(raw, concept)
    yield from _said_by_all(pictures, concept)


def _names_concept(text: str, concept: Concept) -> bool:
    return PLACEHOLDER in text or bool(triggers_in(text, concept.trigger))


def _described(raw: dict[Path, list[str]], concept: Concept) -> Iterator[Finding]:
    """Words inside the noun phrase of the concept, such as "red" in "a red [V] dog" or "[V] red dog"."""
    mark = rf"(?:{re.escape(PLACEHOLDER)}|{re.escape(concept.trigger)})"
    inside = re.compile(
        rf"(?:\b(?:a|an|the)\s+((?:[\w-]+\s+){{1,2}}))?{mark}\s+((?:[\w-]+\s+){{0,2}}){re.escape(concept.class_word)}\b",
        flags=re.IGNORECASE,
    )
    own = {}
    for path, texts in raw.items():
        match = next((found for text in texts if (found := inside.search(text))), None)
        words = [word for word in f"{match[1] or ''} {match[2]}".split() if word not in STOP_WORDS] if match else []
        if words:
            own[path.name] = " ".join(words)
    if own:
        yield Finding(
            f"{len(own)} captions describe the concept itself: "
            + ", ".join(f'"{words}" in {name}' for name, words in list(own.items())[:3])
            + ".",
            "Take such words out unless they change from picture to picture: what a caption names is not learned.",
        )


def _said_by_all(pictures: list[Picture], concept: Concept) -> Iterator[Finding]:
    if len({picture.prompts[0].base for picture in pictures}) < FEW_PICTURES:
        return
    sets = [set(re.findall(r"[^\W\d_]{3,}", picture.prompts[0].base.lower())) for picture in pictures]
    common = set.intersection(*sets) - STOP_WORDS - set(concept.class_word.lower().split())
    if common:
        words = ", ".join(f'"{word}"' for word in sorted(common))
        yield Finding(
            f"Every caption of {concept.name} says {words}, so that is learned as meant by these words.",
            "Right for what is around the concept in every picture; take out what belongs to the concept itself.",
        )


def _looks(pictures: list[Picture], concept: Concept, in_context: bool) -> Iterator[Finding]:
    if len(pictures) < FEW_PICTURES:
        yield Finding(
            f"{concept.name} has {len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'} only.",
            "Take 3 to 10 that differ in place, light and pose.",
        )
    some = pictures[:: -(-len(pictures) // MOST_LOOKED_AT) or 1]
    looks = [look_at(picture.path) for picture in bar_over("pictures")(some)]
    yield from _twice(pictures, some, looks)
    small = [picture for picture in pictures if _enlarged(picture) > ENLARGED]
    if small:
        yield Finding(
            f"{len(small)} pictures are small for their size in training and get enlarged: {_names(small)}.",
            "Take larger ones, lower resolution, or set enable_bucket and bucket_no_upscale.",
        )
    median = float(np.median([look.sharpness for look in looks])) if looks else 0.0
    blurred = [one for one, look in zip(some, looks, strict=True) if look.sharpness < BLURRED_SHARE * median]
    if blurred:
        yield Finding(
            f"{len(blurred)} pictures have far less fine detail than the others, maybe blurred: {_names(blurred)}.",
            "Look at them, and take out what is out of focus.",
        )
    several = [one for one, look in zip(some, looks, strict=True) if look.has_several]
    if several:
        yield Finding(
            f"{len(several)} files hold more than one picture: {_names(several)}.",
            "The first of each is learned; save the one that you mean as PNG or JPEG.",
        )
    repeated = {two for _, two in same_files([picture.path for picture in some])}
    distinct = [look for one, look in zip(some, looks, strict=True) if one.path not in repeated]
    if len(distinct) >= FEW_PICTURES and surroundings_differ(distinct) < ONE_BACKGROUND:
        what_is_done = "Context vectors will learn it apart from [V], as far as they can. " if in_context else ""
        yield Finding(
            f"All pictures of {concept.name} have nearly one background, which is likely to be learned with it.",
            f"{what_is_done}Add pictures from other places, or name the background in every caption; or take it out "
            "of the loss by alpha_mask, or by masked_loss with conditioning_data_dir.",
        )


def _twice(pictures: list[Picture], some: list[Picture], looks: list[Look]) -> Iterator[Finding]:
    """Pictures that are there twice.

    Args:
        some: those of the pictures that were looked at.
    """
    found = dict.fromkeys(same_files([picture.path for picture in pictures]), "the same file")
    for one, two in nearly_same(looks) if looks else ():
        found.setdefault((some[one].path, some[two].path), "nearly the same")
    for (one, two), how in list(found.items())[:MOST_PAIRS]:
        yield Finding(
            f"{one.name} and {two.name} are {how}.",
            "Keep one of them: what is shown twice is learned twice as hard, background and all.",
        )
    if len(found) > MOST_PAIRS:
        yield Finding(
            f"{len(found) - MOST_PAIRS} more pairs of pictures are the same, or nearly.", "Look at them, too."
        )


def _enlarged(picture: Picture) -> float:
    return max(side / original for side, original in zip(picture.size, picture.original_size, strict=True))
