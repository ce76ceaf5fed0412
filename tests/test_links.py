"""Every link of every page works: the file exists and has the heading."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.helpers.places import ROOT

NOT_OURS = {".git", "output", "cache", "venv", ".venv", "node_modules", ".pytest_cache", ".ruff_cache"}
PAGES = sorted(
    page for page in ROOT.rglob("*.md") if not NOT_OURS & set(page.relative_to(ROOT).parts) and ROOT in page.parents
)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+(\S+)|(?:src|href)=\"([^\"]+)\"", re.MULTILINE
)


def links_of(text: str) -> list[str]:
    found = [next(filter(None, link)) for link in LINK.findall(CODE.sub("", text))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors for a page's headings: lower case, no punctuation, dashes for spaces; a repeated one gets -1."""
    found: dict[str, int] = {}
    anchors = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text(encoding="utf-8")))
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.replace("`", "").lower()).replace(" ", "-")
        anchors.add(name if name not in found else f"{name}-{found[name]}")
        found[name] = found.get(name, 0) + 1
    return anchors


def broken(page: Path) -> list[str]:
    missing = []
    for link in links_of(page.read_text(encoding="utf-8")):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        wrong = not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target))
        missing += [link] if wrong else []
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# A `name`, and\n## Twice\n## Twice\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](other.md) [2](other.md#a-name-and) [3](other.md#twice-1) [4](https://nowhere.test) `[5](code.md)`\n"
        "[6](gone.md) [7](other.md#no-heading) [8](#nothing) ![9](gone.png)\n"
    )
    assert broken(page) == ["gone.md", "other.md#no-heading", "#nothing", "gone.png"]


def test_there_are_pages():
    assert ROOT / "README.md" in PAGES and ROOT / "pocket" / "README.md" in PAGES
