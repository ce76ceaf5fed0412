"""Contact sheets: rows of pictures with their prompts."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from library.errors import DataError
from library.files.atomic import written
from library.files.picture_files import opened

ABOUT = "purecc_sheet"
"""The PNG's text chunk with title, columns and rows."""
GAP = 6
LABEL_WIDTH = 190
LEAST_SIDE = 128
"""Smaller pictures are enlarged to this size or more, by whole factors and without smoothing."""
MOST_SIDE = 512
TEXT, FAINT, PAPER = (25, 25, 25), (115, 115, 115), (255, 255, 255)


@dataclass(frozen=True)
class SheetRow:
    """One prompt's pictures.

    Args:
        kind: the kind of prompt, such as "concept".
        prompt: its text.
        pictures: (3, H, W) in -1 .. 1 each, one per column.
    """

    kind: str
    prompt: str
    pictures: list[Tensor]


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which draws Latin with all its accents, Greek and Cyrillic; Pillow's own font draws only ASCII.

    It comes with matplotlib, which is found without an import, because that takes a second.

    Args:
        size: in pixels.
    """
    found = find_spec("matplotlib")
    assert found is not None and found.origin is not None, "requirements.txt has it"
    folder = Path(found.origin).parent
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def as_image(pixels: Tensor) -> Image.Image:
    """A picture from (3, H, W) in -1 .. 1."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def as_pixels(image: Image.Image) -> Tensor:
    """The inverse of `as_image`, within eight bits."""
    array = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return array.float() / 127.5 - 1


def _shown(pixels: Tensor) -> tuple[Image.Image, int]:
    """A picture as the sheet shows it, and how many times enlarged."""
    image = as_image(pixels)
    longest = max(image.size)
    if longest < LEAST_SIDE:
        times = math.ceil(LEAST_SIDE / longest)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST), times
    if longest > MOST_SIDE:
        image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
    return image, 1


def save_sheet(path: Path, title: str, columns: list[str], rows: list[SheetRow]) -> None:
    """Writes a contact sheet as PNG. Its title, columns and rows are in the file, too, for `read_sheet`.

    Args:
        columns: the headings.
        rows: one per prompt, with a picture for each column.
    """
    font, small = font_of(14), font_of(11)
    images = [[_shown(picture) for picture in row.pictures] for row in rows]
    width = max(image.width for row in images for image, _ in row)
    heights = [max(image.height for image, _ in row) for row in images]
    head = 58
    size = (LABEL_WIDTH + len(columns) * (width + GAP) + GAP, head + sum(height + GAP for height in heights) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, TEXT, font)
    for index, column in enumerate(columns):
        left = LABEL_WIDTH + index * (width + GAP)
        draw.multiline_text((left, head - 30), "\n".join(textwrap.wrap(column, max(8, width // 7))[:2]), FAINT, small)
    top, places = head, []
    for row, row_images, height in zip(rows, images, heights, strict=True):
        draw.text((GAP, top), row.kind, FAINT, small)
        draw.multiline_text((GAP, top + 18), "\n".join(textwrap.wrap(row.prompt or '""', 26)[:6]), TEXT, small)
        boxes = []
        for index, (image, times) in enumerate(row_images):
            left = LABEL_WIDTH + index * (width + GAP)
            sheet.paste(image, (left, top))
            boxes.append([left, top, *image.size, times])
        places.append({"kind": row.kind, "prompt": row.prompt, "boxes": boxes})
        top += height + GAP
    about = PngInfo()
    about.add_itxt(ABOUT, json.dumps({"title": title, "columns": columns, "rows": places}))
    with written(path) as temporary:
        sheet.save(temporary, pnginfo=about)


def read_sheet(path: Path) -> tuple[str, list[str], list[SheetRow]] | None:
    """Title, columns and rows of our own sheet; None if the file isn't one, or is damaged."""

    def read(sheet: Image.Image) -> tuple[str, list[str], list[SheetRow]]:
        sheet.load()
        about = json.loads(sheet.info[ABOUT])
        rows = [
            SheetRow(str(row["kind"]), str(row["prompt"]), [_cut_out(sheet, *box) for box in row["boxes"]])
            for row in about["rows"]
        ]
        return str(about["title"]), [str(column) for column in about["columns"]], rows

    try:
        return opened(path, read)
    except DataError:
        return None


def _cut_out(sheet: Image.Image, left: int, top: int, width: int, height: int, times: int) -> Tensor:
    cut = sheet.crop((left, top, left + width, top + height))
    return as_pixels(cut.resize((width // times, height // times), Image.Resampling.NEAREST))
