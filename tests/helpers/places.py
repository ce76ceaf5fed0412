"""The project's folder, and the content of a folder."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
