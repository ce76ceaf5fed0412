"""User texts follow the style page of CONTRIBUTING.md: pages, help, messages and the window."""

import ast
import dataclasses
import html
import re
from pathlib import Path

import pytest

from library.config.dataset import Concept, Source
from library.config.fields import name_of
from library.config.groups import groups
from tests.helpers.places import ROOT

PATTERNS = {
    r"\b(?:which|that) (?:is|are) none\b": "isn't one",
    r"(?<!\bthere )\b(?:is|are) no (?!longer\b|more\b|less\b|one\b)[a-z]+\b": "is not a ...",
    r"\b(?:is|are) (?:said|told)\b": "is reported, is logged",
    r"\b(?:go|goes|going) on\b": "continue",
    r"\banew\b": "again, from scratch",
    r"\bsuffic(?:e|es|ed)\b": "is enough",
    r"\bby (?:itself|themselves)\b": "automatically, on its own",
    r"\bso many (?!as\b)": "N",
    r"\b(?:prompt|line|file|image|picture|vector|prediction)s? a (?:line|step|block|second|layer)\b": "per",
    r"\bone (?:\w+ )?a (?:line|step|block|layer|concept)\b": "one per",
    r"\bstands? (?:in(?! for)|beside|there|nowhere|twice)\b": "is in",
    r"\bl(?:ie|ies|ay|ying) (?:in|beside|there|where)\b": "is in, is next to",
    r"\b(?:the|its|their|a|'s) begin\b|\bbegin of\b": "the start",
    r"(?<!report )(?<!graphics )\bcards?\b": "GPU",
    r"\bno numbers?\b": "NaN or infinite",
    r"\bpassed over\b": "is ignored",
    r"\bunasked\b|\bcom(?:e|es|ing) along\b": "leaks in",
    r"\bat hand\b": "in this computer",
    r"\balike\b": "both",
    r"\bthe (?:latter|former)\b": "name the thing",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bshall\b": "will",
    r"\bwhoever\b": "anyone who",
    r"\bhence\b": "so",
    r"\bas far as known\b": "as far as we know",
    r"\bat whatever moment\b": "at any moment",
    r"\bhow (?:a|the|its) \w+ stands\b|\bhow it stands\b": "its status",
    r"\bin (?:words|a sentence)\b": "with a clear error",
    r"\bmay only be read\b": "is read-only",
    r"\b(?:is|are) to be had\b": "is available, where to get it",
    r"\blooks whether\b": "checks whether, checks that",
    r"\bthe (?:newest|oldest|best|worst|last|longest|largest) first\b": "newest first",
    r"\bnone of both\b": "neither",
    r"\b(?:word|trigger|file|that) lacks?(?=[,.;:]| or\b| and\b)": "is missing",
    r"\bwithout numbers\b": "on the meta device",
}
"""What a translation sounds like, and what to write instead."""
RESULTS = {ROOT / "docs" / "bench", ROOT / "docs" / "pocket"}
"""Measurements, with pages that are written together with them."""
FOLDERS = (ROOT / "docs", ROOT / "comfyui_purecc", ROOT / "pocket")
PAGES = sorted(
    page
    for pages in (*(folder.rglob("*.md") for folder in FOLDERS), [ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
    for page in pages
    if not RESULTS & set(page.parents)
)
TEMPLATES = sorted((ROOT / "gui" / "templates").rglob("*.html"))
COMMANDS = sorted([*ROOT.glob("purecc_*.py"), *(ROOT / "library").rglob("*.py")])
SPEAKING = sorted(
    path
    for room in ("library", "gui", "tools", "comfyui_purecc")
    for path in (ROOT / room).rglob("*.py")
    if path not in {ROOT / "library" / "captions" / "facts.py"}  # its questions are for a model
) + sorted(ROOT.glob("purecc_*.py"))
"""Code with messages in it."""
MEANT_IN_DOCSTRINGS = (": GPU", ": both", ": NaN or infinite", ": with a clear error", ": on the meta device")
"""Patterns with an ordinary meaning in docstrings: a report card, pictures that are alike, shapes without numbers."""
LONGEST = 40
"""Words of a sentence of a help; with more, it holds more than one thought."""


def faults(text: str) -> list[str]:
    """Each match of a pattern in a text, with what to write instead."""
    found = [
        (match.start(), match[0], instead)
        for pattern, instead in PATTERNS.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    return [
        f'"{words}" in "...{text[max(at - 40, 0) : at + 40]}...": {instead}' for at, words, instead in sorted(found)
    ]


def prose_of(page: Path) -> str:
    """A page without code, comments and targets of links."""
    text = re.sub(
        r"^(```|~~~).*?^\1|`[^`\n]*`|<!--.*?-->",
        "CODE",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"\]\([^)]*\)", "]", text).replace("\n", " ")


def text_of(template: Path) -> str:
    """The visible text of a template, without tags and expressions, and the attributes that are read or spoken."""
    source = template.read_text(encoding="utf-8")
    spoken = re.findall(r'(?:aria-label|placeholder|title|alt|hx-confirm)="([^"]*)"', source)
    bare = re.sub(r"\{%.*?%\}|\{#.*?#\}|<[^>]*>", " ", source, flags=re.DOTALL)
    written = " ".join(re.findall(r'"([^"{}]+)"', " ".join(re.findall(r"\{\{.*?\}\}", bare))))
    return html.unescape(" ".join([re.sub(r"\{\{.*?\}\}", "VALUE", bare), written, *spoken]))


def prose_in(path: Path) -> dict[str, list[str]]:
    """The texts in a file of code: "messages" with spaces in them, and "docstrings". Settings and paths become CODE."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    docs = {line.value for body in bodies for line in body if isinstance(line, ast.Expr)}
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    found: dict[str, list[str]] = {"messages": [], "docstrings": []}
    for node in ast.walk(tree):
        text = _text_of(node)
        if text is not None and node not in parts and " " in text.strip():
            prose = re.sub(r"`[^`]*`|--\w+|\b\w+ = |\b\w+:(?= )|\S+/\S+", "CODE", text)
            found["docstrings" if node in docs else "messages"].append(" ".join(prose.split()))
    return found


def _text_of(node: ast.AST) -> str | None:
    """The text of a literal, with VALUE for inserted values."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def settings() -> dict[str, str]:
    """The sentence of each setting."""
    every = [*groups().values(), Concept, Source]
    return {
        f"{one.__name__}.{name_of(field)}": field.metadata["help"] for one in every for field in dataclasses.fields(one)
    }


def options_of(path: Path) -> list[str]:
    """The sentences of a command's own options."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    helps = [
        keyword.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for keyword in call.keywords
        if keyword.arg == "help"
    ]
    texts = [[part for part in ast.walk(one) if isinstance(part, ast.Constant)] for one in helps]
    return ["".join(str(part.value) for part in parts) for parts in texts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_in_plain_english(page):
    assert faults(prose_of(page)) == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_the_window_speaks_plain_english(template):
    assert faults(text_of(template)) == []


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_and_docstrings_are_in_plain_english(path):
    prose = prose_in(path)
    assert [fault for text in prose["messages"] for fault in faults(text)] == []
    found = [fault for text in prose["docstrings"] for fault in faults(text)]
    assert [fault for fault in found if not fault.endswith(MEANT_IN_DOCSTRINGS)] == []


def test_the_help_of_settings_is_in_plain_english():
    assert [f"{name}: {fault}" for name, text in settings().items() for fault in faults(text)] == []


def test_the_help_of_commands_is_in_plain_english():
    found = [f"{path.name}: {fault}" for path in COMMANDS for text in options_of(path) for fault in faults(text)]
    assert found == []


def test_a_sentence_of_help_holds_one_thought():
    sentences = [(name, one) for name, text in settings().items() for one in re.split(r"(?<=[.?]) ", text)]
    assert [(name, one) for name, one in sentences if len(one.split()) > LONGEST] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a part's own file that is none is said", 2),
        ("Where the memory does not suffice, it goes on anew.", 3),
        ("A step whose loss is no number is passed over.", 3),
        ("It lies beside the card, one prompt a line.", 4),
        ("There is no file. It is no longer there. See the report card.", 0),
    ],
)
def test_the_patterns_find_what_they_are_for(text, found):
    assert len(faults(text)) == found, faults(text)


def test_each_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    kinds = ("tutorials", "how-to", "reference", "explanation")
    pages = {str(page.relative_to(ROOT / "docs")) for kind in kinds for page in (ROOT / "docs" / kind).glob("*.md")}
    assert pages == {link for link in re.findall(r"\]\(([^)#]+)", index) if link.split("/")[0] in kinds}
