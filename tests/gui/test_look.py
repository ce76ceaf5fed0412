"""The appearance of pages as far as code can check it: contrast, labels, one heading."""

import re
from html.parser import HTMLParser

import pytest

from gui.pages.answers import GUI

CSS = (GUI / "static" / "window.css").read_text()
READABLE = 4.5
"""WCAG 2's least contrast of text (AA)."""
PAIRS = [
    *(("ink", paper) for paper in ("paper", "card", "soft")),
    *(("faint", paper) for paper in ("paper", "card", "soft")),
    *(("accent", paper) for paper in ("paper", "card", "soft")),
    ("on-accent", "accent"),
    ("bad", "bad-soft"),
    ("warn", "warn-soft"),
    ("good", "good-soft"),
]


def colours(scheme: str) -> dict[str, str]:
    light, dark = (
        dict(re.findall(r"--([\w-]+):(#\w+)", found)) for found in re.findall(r":root\{(.*?)\}", CSS, re.DOTALL)
    )
    return light if scheme == "light" else light | dark


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "paper"), PAIRS)
def test_text_can_be_read_on_its_paper(text, paper, scheme):
    known = colours(scheme)
    dark, light = sorted((luminance(known[text]), luminance(known[paper])))
    assert (light + 0.05) / (dark + 0.05) >= READABLE


class Page(HTMLParser):
    """The fields of a page without labels, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.unnamed, self.headings, self.images, self._open = [], [], [], 0
        self.labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', text))
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        if tag == "label":
            self._open += 1
        named = self._open or about.get("id") in self.labelled or about.get("aria-label")
        if tag in ("input", "textarea", "select") and about.get("type") != "hidden" and not named:
            self.unnamed.append(about)
        if tag == "h1":
            self.headings.append(tag)
        if tag == "img":
            self.images.append(about)

    def handle_endtag(self, tag):
        self._open -= tag == "label"


@pytest.mark.parametrize(
    "path",
    ["/", "/queue", *(f"/p/My-dog{end}" for end in ("", "/captions", "/plan", "/settings", "/training", "/result"))],
)
def test_every_field_has_a_name_and_every_picture_a_text(path, client, project, new_run):
    run = new_run({"state": "done", "total_steps": 4}, {})
    (run.folder / "My-dog.safetensors").write_bytes(b"")
    page = Page(client.get(path).text)
    assert page.unnamed == [] and page.headings == ["h1"]
    assert all("alt" in image for image in page.images)
