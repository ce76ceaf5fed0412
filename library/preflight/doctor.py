"""Finds likely problems before a run, each with a remedy: pictures, captions, trigger, steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from library.config.dataset import PLACEHOLDER, Concept
from library.data.captions import caption_file_of, captions_of
from library.data.folder import named
from library.data.inspection import Look, look_at, nearly_same, same_files, surroundings_differ
from library.data.pictures import Picture
from library.models.interface import TextStream
from library.preflight.caption_words import described, said_by_all
from library.preflight.checks import may_only_be_read
from library.preflight.finding import Finding
from library.preflight.plan import Plan, cut_off, shortened
from library.prepare.visibility import measured_visibility
from library.prompts import foreign_placeholders, triggers_in
from library.report.progress import bar_over

MANY_TOKENS = 4
"""With more tokens than this, the concept is spread too thin over its trigger."""
KNOWN_WORD = 4
"""A single-token trigger with at least this many letters is a word that the model knows."""
RARE_WORDS = frozenset({"ohwx"})
"""Single-token words that mean nothing to the model."""
ENLARGED = 1.5
"""A picture that has to be enlarged by more than this factor is too small."""
BLURRED_SHARE = 0.1
"""A picture may be blurred if its sharpness is below this share of the median."""
ONE_BACKGROUND = 0.06
"""If the edges of pictures differ by less than this, they share one background."""
MUCH_CUT_AWAY = 0.2
"""The doctor reports a picture if more than this share of it is cropped."""
FILLED = 0.6
"""The doctor reports batches if less than this share of their places is filled."""
FEW_STEPS = 100
FEW_PICTURES = 3
MOST_LOOKED_AT = 300
"""Most pictures of a concept that are decoded; of more, an evenly spaced selection."""
MOST_PAIRS = 12
"""Most pairs of similar pictures that are listed."""


def findings(plan: Plan) -> list[Finding]:
    """Everything the doctor finds. Decodes pictures, but loads no model."""
    found = [*_folders(plan), *_steps(plan), *_texts(plan), *_placeholders(plan), *_cropped(plan), *_half_empty(plan)]
    found += _cache(plan)
    for concept in plan.config.concepts:
        shown = [one for one in plan.pictures if one.concept.name == concept.name and not one.subset.is_reg]
        pictures = list({picture.path: picture for picture in shown}.values())
        found += [
            *_trigger(plan, concept),
            *_captions(pictures, concept),
            *_looks(pictures, concept, plan.settings.context.context_vectors > 0),
        ]
    return found


def _names(pictures: list[Picture]) -> str:
    return named([picture.path.name for picture in pictures])


def _folders(plan: Plan) -> Iterator[Finding]:
    for one in plan.left_out:
        yield Finding(str(one), one.remedy)


def _steps(plan: Plan) -> Iterator[Finding]:
    for stage, steps in plan.stage_steps.items():
        if steps < FEW_STEPS:
            setting = plan.counted_by if stage == "student" else "extractor_train_steps"
            usual = "400 steps are the default" if setting == "max_train_epochs" else "the default is 400"
            yield Finding(f"The {stage} trains for only {steps} steps.", f"Raise {setting}; {usual}.")


def _texts(plan: Plan) -> Iterator[Finding]:
    cut = cut_off(plan, [triple.complete for triple in plan.triples])
    if cut:
        yield Finding(
            f"Captions are cut off {len(cut)} times: {cut[0].strip()}{' ...' if len(cut) > 1 else ''}",
            f"{_to_read_more(plan.parts.model.streams)}.",
        )


def _to_read_more(streams: Sequence[TextStream]) -> str:
    """What helps if a text is cut off."""
    ways = ["Shorten captions", *(f"raise {one.setting}" for one in streams if one.setting)]
    fixed = [f"{one.name} always reads {one.length} tokens at most" for one in streams if not one.setting]
    return ", or ".join(ways) + (f" ({', '.join(fixed)})" if fixed else "")


def _placeholders(plan: Plan) -> Iterator[Finding]:
    """Finds placeholders of other programs in captions and prompts."""
    found = [
        (picture.path.name, "\n".join(captions_of(picture.path, picture.subset)[0]), _meant(picture.concept))
        for picture in {picture.path: picture for picture in plan.pictures}.values()
    ]
    if plan.settings.samples.sample_prompts:
        triggers = " ".join(map(_meant, plan.config.concepts))
        found += [(f'the prompt "{shortened(prompt.text)}"', prompt.text, triggers) for prompt in plan.samples]
    words = {where: foreign for where, *given in found if (foreign := foreign_placeholders(*given))}
    if words:
        said = ", ".join(dict.fromkeys(f'"{word}"' for foreign in words.values() for word in foreign))
        yield Finding(
            f"{said} has no meaning here and will be learned as plain text: {named(list(words))}.",
            f"Write {PLACEHOLDER} instead.",
        )


def _meant(concept: Concept) -> str:
    """What stands for the concept in captions, besides [V]."""
    return f"{concept.trigger} {concept.placeholder or ''}"


def _cropped(plan: Plan) -> Iterator[Finding]:
    for dataset, pictures in zip(plan.config.datasets, plan.datasets, strict=True):
        cut = {one.path: one for one in pictures if one.cut_away > MUCH_CUT_AWAY and not one.subset.random_crop}
        shares = [f"{path.name} {one.cut_away:.0%}" for path, one in cut.items()]
        if shares:
            yield Finding(
                f"{len(shares)} images lose much of their content, because their edges are cropped: {named(shares)}.",
                f"Crop them yourself, or lower min_bucket_reso and raise max_bucket_reso ({dataset.min_bucket_reso} "
                f"and {dataset.max_bucket_reso} now)."
                if dataset.enable_bucket
                else "Set enable_bucket so that each keeps its shape, or crop them yourself.",
            )


def _half_empty(plan: Plan) -> Iterator[Finding]:
    """Finds batches that buckets leave unfilled: a batch holds pictures of one size only."""
    order = plan.order
    batches = [order.batch(number) for number in range(order.batches_per_epoch)]
    for dataset, batch_size in zip(plan.config.datasets, order.batch_sizes, strict=True):
        subsets = set(map(id, dataset.subsets))
        sizes = [len(batch) for batch in batches if id(batch[0].picture.subset) in subsets]
        needed = -(-sum(sizes) // batch_size)
        if needed < len(sizes) and sum(sizes) < FILLED * len(sizes) * batch_size:
            yield Finding(
                f"Batches have {sum(sizes) / len(sizes):.1f} images on average instead of {batch_size}: the buckets "
                f"are so small that an epoch takes {len(sizes)} batches instead of {needed}.",
                "Raise num_repeats so that each bucket fills its batches, or crop the images to fewer shapes.",
            )


def _cache(plan: Plan) -> Iterator[Finding]:
    folder = plan.parts.cache.folder
    if may_only_be_read(folder):
        yield Finding(
            f"cache_dir: {folder} is read-only, so the run stops at the first item that isn't cached yet.",
            "Choose a folder you can write to, unless another run has filled this one.",
        )


def _trigger(plan: Plan, concept: Concept) -> Iterator[Finding]:
    tokens, words = plan.parts.layouts[concept.name].counts[0], concept.trigger.split()
    known = [word for word in words if word.isalpha() and len(word) >= KNOWN_WORD and word not in RARE_WORDS]
    if tokens > MANY_TOKENS:
        yield Finding(
            f'The trigger "{concept.trigger}" has {tokens} {plan.parts.model.streams[0].name} tokens.',
            'Choose a shorter one, for example "ohwx".',
        )
    elif known and tokens == len(words):
        yield Finding(
            f'The model already knows the trigger "{concept.trigger}", so it brings its own meaning.',
            'Choose a word without meaning, for example "ohwx".',
        )
    if concept.trigger.lower() in concept.class_word.lower():
        yield Finding(
            f'The trigger "{concept.trigger}" is part of the class word "{concept.class_word}".', "Choose another one."
        )


def hidden_triggers(plan: Plan) -> list[Finding]:
    """Finds triggers that the model hardly reacts to, if the LoRA has nothing else to go by. Loads the model."""
    if not plan.settings.teaches_word:
        return []
    seen = measured_visibility(plan.parts, plan.size, bar_over("trigger"))
    triggers = {concept.name: concept.trigger for concept in plan.config.concepts}
    return [
        Finding(
            f'The model hardly reacts to the trigger "{triggers[name]}": it changes the prediction by '
            f"{one.trigger:.1%}; a colour changes it by {one.colour:.0%}. Only this word can tell the LoRA the "
            "concept from its class.",
            f'Choose another one, for example "{one.best}", which changes it by {one.others[one.best]:.1%}.',
        )
        for name, one in seen.items()
        if one.hardly
    ]


def _captions(pictures: list[Picture], concept: Concept) -> Iterator[Finding]:
    raw = {picture.path: captions_of(picture.path, picture.subset)[0] for picture in pictures}
    bare = [picture for picture in pictures if not caption_file_of(picture.path, picture.subset)]
    if bare:
        yield Finding(
            f"{len(bare)} of {len(pictures)} images have no caption of their own: {_names(bare)}.",
            "For each, write a caption that describes place, light and everything but the concept. Nothing improves "
            "results more.",
        )
    foreign = {path: foreign_placeholders("\n".join(texts), _meant(concept)) for path, texts in raw.items()}
    captionless = {picture.path for picture in bare}
    own = [picture for picture in pictures if picture.path not in captionless]
    without = [
        one for one in own if not foreign[one.path] and not any(_names_concept(text, concept) for text in raw[one.path])
    ]
    if without:
        yield Finding(
            f"{len(without)} captions contain neither {PLACEHOLDER} nor the trigger: {_names(without)}.",
            f"{PLACEHOLDER} was added automatically. Check the prompts in --dry_run, and write it yourself where it "
            "is wrong.",
        )
    if concept.kind == "subject":
        classless = [one for one in pictures if not triggers_in(one.prompts[0].base, concept.class_word)]
        if classless:
            yield Finding(
                f'{len(classless)} captions lack the class word "{concept.class_word}": {_names(classless)}.',
                f'Write "{PLACEHOLDER} {concept.class_word}", so that the base text still names the class.',
            )
        yield from described(raw, concept)
    yield from said_by_all([picture.prompts[0].base for picture in pictures], concept)


def _names_concept(text: str, concept: Concept) -> bool:
    return PLACEHOLDER in text or bool(triggers_in(text, concept.trigger))


def _looks(pictures: list[Picture], concept: Concept, in_context: bool) -> Iterator[Finding]:
    if len(pictures) < FEW_PICTURES:
        yield Finding(
            f"{concept.name} has only {len(pictures)} {'image' if len(pictures) == 1 else 'images'}.",
            "Use 3 to 10 that differ in place, light and pose.",
        )
    some = pictures[:: -(-len(pictures) // MOST_LOOKED_AT) or 1]
    looks = [look_at(picture.path) for picture in bar_over("pictures")(some)]
    yield from _twice(pictures, some, looks)
    small = [picture for picture in pictures if _enlarged(picture) > ENLARGED]
    if small:
        yield Finding(
            f"{len(small)} images are smaller than the training resolution and get enlarged: {_names(small)}.",
            "Use larger ones, lower resolution, or set enable_bucket and bucket_no_upscale.",
        )
    median = float(np.median([look.sharpness for look in looks])) if looks else 0.0
    blurred = [one for one, look in zip(some, looks, strict=True) if look.sharpness < BLURRED_SHARE * median]
    if blurred:
        yield Finding(
            f"{len(blurred)} images have far less fine detail than the others and may be blurred: {_names(blurred)}.",
            "Check them, and remove any that are out of focus.",
        )
    several = [one for one, look in zip(some, looks, strict=True) if look.has_several]
    if several:
        yield Finding(
            f"{len(several)} files contain more than one image: {_names(several)}.",
            "Training uses the first one; save the one you want as PNG or JPEG.",
        )
    repeated = {two for _, two in same_files([picture.path for picture in some])}
    distinct = [look for one, look in zip(some, looks, strict=True) if one.path not in repeated]
    if len(distinct) >= FEW_PICTURES and surroundings_differ(distinct) < ONE_BACKGROUND:
        what_is_done = "Context vectors will try to separate it from [V]. " if in_context else ""
        yield Finding(
            f"All images of {concept.name} have nearly the same background, which may be learned with it.",
            f"{what_is_done}Add images from other places, describe the background in every caption, or mask it with "
            "alpha_mask or with masked_loss and conditioning_data_dir.",
        )


def _twice(pictures: list[Picture], some: list[Picture], looks: list[Look]) -> Iterator[Finding]:
    """Finds duplicate pictures.

    Args:
        some: the pictures that were decoded.
    """
    found = dict.fromkeys(same_files([picture.path for picture in pictures]), "the same file")
    for place, other in nearly_same(looks) if looks else ():
        found.setdefault((some[place].path, some[other].path), "nearly the same")
    for (one, two), how in list(found.items())[:MOST_PAIRS]:
        yield Finding(
            f"{one.name} and {two.name} are {how}.",
            "Keep one of them: duplicates are learned twice as strongly, background included.",
        )
    if len(found) > MOST_PAIRS:
        yield Finding(f"{len(found) - MOST_PAIRS} more pairs of images are the same, or nearly.", "Check them too.")


def _enlarged(picture: Picture) -> float:
    return max(side / original for side, original in zip(picture.size, picture.original_size, strict=True))
