"""Labelled pictures of text: the generator of the package captcha, and text rendered onto plain grounds and photos.

The package draws from the module ``secrets``, which cannot be seeded. Its name for that module is bound to
:class:`SeededSecrets` while it draws, so that one seed gives one set.
"""

from __future__ import annotations

import random as standard_random
from collections.abc import Sequence
from typing import TypeVar
from unittest import mock

import captcha.image
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.tasks.task import Images

Item = TypeVar("Item")
DIGITS = "0123456789"
ALPHANUMERICS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without 0, 1, i, l and o, which people cannot tell apart either."""


class SeededSecrets:
    """The three functions of ``secrets`` that the package captcha uses, from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = standard_random.Random(seed)

    def randbelow(self, bound: int) -> int:
        return self._random.randrange(bound)

    def randbits(self, bits: int) -> int:
        return self._random.getrandbits(bits)

    def choice(self, items: Sequence[Item]) -> Item:
        return self._random.choice(items)


def draw_captchas(alphabet: str, lengths: tuple[int, int], count: int, seed: int) -> tuple[list[Images], list[str]]:
    """``count`` captchas, RGB ``[60, 160, 3]``, of ``lengths[0]`` to ``lengths[1]`` characters, and their texts."""
    random = standard_random.Random(seed)
    texts = ["".join(random.choices(alphabet, k=random.randint(*lengths))) for _ in range(count)]
    generator = captcha.image.ImageCaptcha(width=160, height=60)
    with mock.patch.object(captcha.image, "secrets", SeededSecrets(seed)):
        return [np.asarray(generator.generate_image(text)) for text in texts], texts


def render_texts(alphabet: str, lengths: tuple[int, int], count: int, seed: int) -> tuple[list[Images], list[str]]:
    """``count`` lines of upright text, RGB: two fonts, sizes, colours, shades, slight rotation, blur and noise."""
    random = standard_random.Random(seed)
    texts = ["".join(random.choices(alphabet, k=random.randint(*lengths))) for _ in range(count)]
    return [_render_line(text, random) for text in texts], texts


def letter_photo(photo: Images, seed: int) -> Images:
    """Three to six large characters scattered over a photo, as click captchas do; RGB of the same size."""
    random = standard_random.Random(seed)
    picture = Image.fromarray(np.ascontiguousarray(photo))
    width, height = picture.size
    for _ in range(random.randint(3, 6)):
        size = int(min(width, height) * random.uniform(0.14, 0.24))
        glyph = _draw_glyph(random.choice(ALPHANUMERICS).upper(), size, random)
        place = (random.randint(0, max(0, width - glyph.width)), random.randint(0, max(0, height - glyph.height)))
        picture.paste(glyph, place, glyph)
    return np.asarray(picture)


def _font(size: int, random: standard_random.Random) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if random.random() < 0.5:
        return ImageFont.truetype(captcha.image.DEFAULT_FONTS[0], size)
    return ImageFont.load_default(size)


def _draw_glyph(character: str, size: int, random: standard_random.Random) -> Image.Image:
    glyph = Image.new("RGBA", (2 * size, 2 * size))
    color = (*(random.randint(0, 255) for _ in range(3)), 255)
    pen = ImageDraw.Draw(glyph)
    pen.text(
        (size, size), character, font=_font(size, random), fill=color, anchor="mm", stroke_width=2, stroke_fill="white"
    )
    return glyph.rotate(random.uniform(-35, 35), Image.Resampling.BILINEAR).crop(glyph.getbbox())


def _render_line(text: str, random: standard_random.Random) -> Images:
    size = random.randint(14, 40)
    font = _font(size, random)
    ground = tuple(random.randint(190, 255) for _ in range(3))
    ink = tuple(random.randint(0, 110) for _ in range(3))
    left, top, right, bottom = font.getbbox(text)
    margin = size // 3
    picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), ground)
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, font=font, fill=ink)
    picture = picture.rotate(random.uniform(-4, 4), Image.Resampling.BILINEAR, fillcolor=ground)
    if random.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.4)))
    noise = np.random.default_rng(random.getrandbits(32)).normal(
        0, random.uniform(0, 25), (picture.height, picture.width, 3)
    )
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
