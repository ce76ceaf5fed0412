"""A problem that a run is likely to have, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A likely problem and its remedy, one sentence each."""

    what: str
    remedy: str


def describe_findings(found: list[Finding]) -> str:
    """The findings as text."""
    if not found:
        return "No problems found."
    lines = [f"{len(found)} {'thing is' if len(found) == 1 else 'things are'} likely to cause problems:"]
    for number, finding in enumerate(found, 1):
        lines += [f"  {number}. {finding.what}", f"     {finding.remedy}"]
    return "\n".join(lines)
