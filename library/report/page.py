"""`report.html`: one page that needs no other file and no network. It is a list of sections; anyone may add one.

A section is a title and a function that makes its HTML. What the function is given, `Pictures`, turns pictures into
`<img>` tags whose size on the disk is bounded:

    def drift(pictures: Pictures) -> Markup:
        return Markup("<p>{}</p>{}").format(sentence, pictures.tag(image, alt="what it shows"))

    run.listeners.tell(Listener.section_made, Section("drift", "Drift", drift))

Text goes in by `Markup.format`, by `escape` or by a template of `templates/`, all of which escape it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from library.files.atomic import write_text

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 8_000_000
"""Most bytes of a page. If pictures make it larger, all of them are shrunk."""
SIDES = (512, 384, 256, 160, 96)
"""Longest sides of pictures, in pixels, tried in this order until the page is small enough."""
TINY_SIDE = 128
"""Pictures up to this size are not shrunk; the page enlarges them without smoothing."""
JPEG_QUALITY = 86


class Pictures:
    """Makes `<img>` tags that hold their picture.

    Args:
        side: longest side of a picture, in pixels; larger ones are made smaller.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def source(self, image: Image.Image, most: int | None = None) -> str:
        """A picture as a data URL.

        Args:
            most: longest side, if it is less than that of other pictures.
        """
        image, file = image.convert("RGB"), BytesIO()
        side = min(self.side, most or self.side)
        tiny = max(image.size) <= min(side, TINY_SIDE)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(file, "PNG" if tiny else "JPEG", **({"optimize": True} if tiny else {"quality": JPEG_QUALITY}))
        return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

    def tag(self, image: Image.Image, alt: str, most: int | None = None) -> Markup:
        """An `<img>` tag.

        Args:
            alt: what it shows, as text.
            most: as for `source`.
        """
        tiny = Markup(' class="pixels"') if max(image.size) <= TINY_SIDE else ""
        tag = Markup('<img src="{}" alt="{}" width="{}" height="{}"{} loading="lazy">')
        return tag.format(self.source(image, most), alt, *image.size, tiny)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: what links call it.
        title: its heading.
        build: makes its HTML; "" leaves the section out.
    """

    name: str
    title: str
    build: Callable[[Pictures], str]


def render(template: str, **values: Any) -> Markup:
    """HTML from a file of `templates/`; inserted text is escaped."""
    return Markup(_environment.get_template(template).render(**values))


def page_of(title: str, lede: str, sections: Sequence[Section]) -> str:
    """The whole page, of at most `MOST_BYTES` if smaller pictures can bring it there.

    Args:
        lede: the sentence under the title.
    """
    page = ""
    for side in SIDES:
        pictures = Pictures(side)
        built = [(section, section.build(pictures)) for section in sections]
        shown = [(section, Markup(html)) for section, html in built if html]
        page = render(
            "page.html",
            title=title,
            lede=lede,
            sections=shown,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        )
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def write_page(path: Path, title: str, lede: str, sections: Sequence[Section]) -> None:
    """Writes the page."""
    write_text(path, page_of(title, lede, sections))


def _bytes_in_words(count: float | None) -> str:
    if count is None:
        return "unknown"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _seconds_in_words(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters |= {"size": _bytes_in_words, "duration": _seconds_in_words}
