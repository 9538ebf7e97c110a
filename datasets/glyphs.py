"""Glyphs: characters as classes, rendered on first use, so that everything runs without a download.

240 characters from the DejaVu and STIX fonts that come with matplotlib, 20 images of each, varied
in font, weight, slant, size, rotation, colour, background, clutter, blur and noise. No two
characters look alike in one font. Their order is random, so both halves mix all scripts. The layout
is that of `datasets.class_folders`.
"""

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from datasets import Samples, class_folders
from utilities.errors import UserError
from utilities.files import fault

CHARACTERS = (
    "!#$%&*+0123456789<=>?@ABCDEFGHJKLMNOPQRSTUVWXYZabdefghkmnqrt{~¢£¤¥§©«¬®±¶¿ÅÆÇÑÔ×"
    "ØÞæð÷þđĞŁŊŋŐŒœŘŮƈƐƒƕƙƛƞƪƫƭƺƾɐɑɒɓɔɕɖɗɘəɚɜɝɞɟɠɡɢɤɥɧɬɮɯɰɱɲɳɵɷɸɹɺɻɼɾʁʂʅʆʇʉʊʋʌʍʎʏʐʑʒʓ"
    "ʔʖʚʛʞʠʣʤʥʦʧʨΓΔΘΞΠΣΦΨΩαβγδζηκλμξπςστυφωϘϚϝϞϟϠ϶ЂЄЉЊЋЏБДЖЛУЧШЩЪЫЬЭЮЯгифцчэђѢ†‰€№∂ﬁﬂ")
FONTS = ([f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
         + [f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
         + [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")]
         + [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")])
IMAGES_PER_CLASS = 20
SEED = 0            # of the images, whatever --seed: runs that differ in the seed share them
POINTS = 96         # glyphs are drawn at this size, then transformed
SIDES = (64, 96)    # of the images, in pixels
INVERTED = 0.25     # share of images that are light on dark


def read(folder: Path) -> dict[str, Samples]:
    """{"training", "testing"}: (path, class) of each image; renders the set where it is missing."""
    if fault(folder / "images"):
        render_set(folder)
    return class_folders.read(folder)


def render_set(folder: Path, characters: str = CHARACTERS, images_per_class: int = IMAGES_PER_CLASS,
               seed: int = SEED) -> None:
    """Writes `folder/images/<number>.<character's name>/<number>.jpg`, all of it or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(seed).permutation(len(characters))
        fonts = load_fonts()
        with tempfile.TemporaryDirectory(prefix=".images-", dir=folder,
                                         ignore_cleanup_errors=True) as unfinished:
            images = Path(unfinished, "images")
            for c, i in enumerate(tqdm(order, f"Rendering glyphs into {folder}", disable=None)):
                character = characters[i]
                name = unicodedata.name(character).replace(" ", "_")
                class_folder = images / f"{c + 1:03d}.{name}"
                class_folder.mkdir(parents=True)
                for n in range(images_per_class):
                    image = render(character, fonts, np.random.default_rng([seed, c, n]))
                    image.save(class_folder / f"{n + 1:02d}.jpg", quality=92)
            try:
                images.rename(folder / "images")
            except OSError:
                if fault(folder / "images", "folder"):  # else another process made the same images
                    raise
    except OSError as error:
        raise UserError(f"--source_path: cannot write the glyphs into {str(folder)!r}: "
                        f"{error.strerror or error}; accepted: a folder that you may write, with "
                        "room for them, or one that holds them") from error


def load_fonts() -> list[ImageFont.FreeTypeFont]:
    """The FONTS, from matplotlib's files."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [ImageFont.truetype(str(folder / f"{name}.ttf"), POINTS,
                               layout_engine=ImageFont.Layout.BASIC) for name in FONTS]


def render(character: str, fonts: list[ImageFont.FreeTypeFont],
           rng: np.random.Generator) -> Image.Image:
    """One square RGB image of `character`."""
    side = int(rng.integers(SIDES[0], SIDES[1] + 1))
    dark, light = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    paper, ink = (dark, light) if rng.random() < INVERTED else (light, dark)
    ground = background(side, paper, rng)
    draw_clutter(ground, rng)
    mask = placed(stencil(character, fonts[rng.integers(len(fonts))]), side, rng)
    ground.paste(tuple(ink.astype(int).tolist()), mask=mask)
    image = ground.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    noise = rng.normal(0, rng.uniform(0, 12), (side, side, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def background(side: int, colour: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Shades of `colour` (3,) that vary smoothly over a random number of cells."""
    cells = int(rng.integers(1, 5))
    shades = colour + rng.uniform(-40, 40, (cells, cells, 3))
    coarse = Image.fromarray(shades.clip(0, 255).astype(np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def draw_clutter(image: Image.Image, rng: np.random.Generator) -> None:
    """Up to two lines and arcs behind the glyph."""
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(3)):
        ends = np.sort(rng.integers(0, image.width, (2, 2)), axis=0).ravel().tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        width = int(rng.integers(1, 3))
        if rng.random() < 0.5:
            pen.line(ends, colour, width)
        else:
            pen.arc(ends, *rng.integers(0, 360, 2).tolist(), colour, width)


def stencil(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """The glyph, white on black, cut to its box."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, 255, font=font)
    return image


def placed(glyph: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """`glyph` scaled, slanted, turned and moved into a mask of (side, side)."""
    size = side * rng.uniform(0.5, 0.85) / max(glyph.size)
    angle, slant = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.2, 0.2)
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = size * turn @ np.array([[stretch, slant], [0, 1 / stretch]])
    centre = side / 2 + rng.uniform(-0.08, 0.08, 2) * side
    backward = np.linalg.inv(forward)                       # PIL maps output to input
    offset = np.array(glyph.size) / 2 - backward @ centre
    coefficients = np.hstack([backward, offset[:, None]]).ravel().tolist()
    return glyph.transform((side, side), Image.Transform.AFFINE, coefficients,
                           Image.Resampling.BICUBIC)
