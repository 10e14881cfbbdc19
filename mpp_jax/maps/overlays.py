"""Confidence maps drawn over their pictures: transparent heat maps, classes side by side.

As in the paper's Figures 5 and 6. A map is shown between two values: at and below the lower one the
picture stays as it is, from there to the upper one the heat becomes opaque and goes from dark red
over orange to white.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEAT = (
    (0.0, (110, 0, 60)),
    (0.35, (215, 30, 30)),
    (0.65, (250, 140, 0)),
    (0.85, (255, 220, 60)),
    (1.0, (255, 255, 235)),
)
"""Positions and colours of the heat between which is interpolated; lightness rises throughout."""
OPACITY = 0.85
GAP = 8
"""Pixels between panels."""


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) float in 0..255 of values (...) in 0..1."""
    stops, colours = [p for p, _ in HEAT], np.array([c for _, c in HEAT], np.float64)
    return np.stack([np.interp(values, stops, colours[:, i]) for i in range(3)], axis=-1)


def shown_range(maps: np.ndarray) -> tuple[float, float]:
    """Return the range (low, high) over which to show maps (n, h, w) side by side.

    From 0, or the maps' smallest value if none is positive, to their largest.
    """
    largest = float(np.max(maps))
    return (0.0, largest) if largest > 0 else (float(np.min(maps)), largest)


def overlay(picture: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Lay a map over its picture.

    Args:
        picture: (h, w, 3) uint8 RGB.
        values: (h, w) map.
        low: value at and below which nothing is shown.
        high: value from which on the heat is as opaque as it gets.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: shapes that do not fit.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or values.shape != picture.shape[:2]:
        raise ValueError(
            f"values must be (h, w) and picture (h, w, 3), got {values.shape} and {picture.shape}"
        )
    span = high - low
    level = np.clip((values - low) / span, 0, 1) if span > 0 else np.zeros(values.shape)
    alpha = OPACITY * level[..., None]
    grey = picture.mean(axis=2, keepdims=True)  # colours below the heat would be mistaken for it
    ground = (1 - alpha) * picture + alpha * grey
    mixed = (1 - alpha) * ground + alpha * heat_colours(level)
    return np.round(mixed).astype(np.uint8)


def caption_font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, at a size that suits panels of this height."""
    return ImageFont.load_default(size=min(max(height // 14, 11), 28))


def panels(picture: np.ndarray, maps: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Draw a picture and its maps side by side, all over one range (`shown_range`).

    Args:
        picture: (h, w, 3) uint8 RGB.
        maps: (n, h, w), one a class.
        captions: n of them, one below each map; cut off where they are too wide.

    Raises:
        ValueError: shapes or numbers that do not fit.
    """
    if maps.ndim != 3 or not len(maps) or len(captions) != len(maps):
        raise ValueError(
            f"maps must be (n, h, w) with n captions, got {maps.shape} and {len(captions)} captions"
        )
    low, high = shown_range(maps)
    drawn = [picture, *(overlay(picture, values, low, high) for values in maps)]
    height, width = picture.shape[:2]
    font = caption_font(height)
    below = 2 * GAP + round(font.getbbox("Ag")[3])
    # Narrow pictures get room for their captions.
    room = max(width, 96)
    sheet = Image.new("RGB", (len(drawn) * (room + GAP) - GAP, height + below), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, text) in enumerate(zip(drawn, ["", *captions], strict=True)):
        left = i * (room + GAP)
        sheet.paste(Image.fromarray(pixels), (left + (room - width) // 2, 0))
        draw.text((left + 2, height + GAP), fitted(text, font, room - 4), "black", font)
    return sheet


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shorten a text until it is at most so many pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
