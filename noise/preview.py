"""A contact sheet: images under corruptions at severities, labelled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from noise.corruption import corrupt

_GAP, _LABEL_WIDTH, _LABEL_HEIGHT, _MIN_CELL = 6, 170, 26, 96


def contact_sheet(
    image_1CHW: Tensor,
    names: Sequence[str],
    severities: Sequence[int],
    *,
    key: Tensor,
    scale: str = "nearest",
    diff: bool = False,
) -> Image.Image:
    """One image: a row for each corruption, a column for clean and each severity.

    Args:
        image_1CHW: float in [0, 1], one image.
        key: int64, (1,).
        diff: show 1/2 + (noisy - clean) / 2 in place of the noisy image.
    """
    rows = []
    for name in names:
        cells = [image_1CHW]
        for severity in severities:
            noisy = corrupt(image_1CHW, name, severity, keys=key, scale=scale)
            cells.append(0.5 + (noisy - image_1CHW) / 2 if diff else noisy)
        rows.append([_picture(cell) for cell in cells])
    return _sheet(rows, names, ["clean", *(f"severity {severity}" for severity in severities)])


def _picture(image_1CHW: Tensor) -> Image.Image:
    levels = image_1CHW[0].float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).convert("RGB")
    enlarge = -(-_MIN_CELL // min(picture.size))
    return picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST)


def _sheet(rows: list[list[Image.Image]], names: Sequence[str], columns: Sequence[str]) -> Image.Image:
    width, height = rows[0][0].size
    font = ImageFont.load_default(size=14)
    label_width = max(_LABEL_WIDTH, *(round(font.getlength(name)) + 2 * _GAP for name in names))
    size = (label_width + len(columns) * (width + _GAP), _LABEL_HEIGHT + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, column in enumerate(columns):
        draw.text((label_width + j * (width + _GAP), 5), column, fill="black", font=font)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        top = _LABEL_HEIGHT + i * (height + _GAP)
        draw.text((6, top + height // 2 - 8), name, fill="black", font=font)
        for j, picture in enumerate(row):
            sheet.paste(picture, (label_width + j * (width + _GAP), top))
    return sheet
