"""What a page lets people upload: a zip of images, one image, the picture of a trigger.

Every function takes bytes or a file of a stranger and gives pixels, or pictures that were written anew from pixels;
each refusal is one line. Checkpoints go through :mod:`engine.intake.reader`.
"""

from __future__ import annotations

import base64
import binascii
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from engine.intake import pictures
from engine.intake.archive import Archive, Entry
from engine.intake.limits import Refused

MAX_ARCHIVE_BYTES = 512 * 2**20
MAX_DECODED_BYTES = 1 << 30
MAX_PICTURE_BYTES = pictures.MAX_BYTES
MAX_DEPTH = 8
MIN_SIDE = 8
"""That of :mod:`engine.data.own_limits`, which this module must not import: pages load no torch."""
MAX_TRIGGER_SIDE = 1024
MAX_SIDE = 1024
MAX_QUESTION_BYTES = 2**20
"""Of a picture that a suspect is asked about, as a PNG: it travels with the question."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BESIDE = (".txt", ".md", ".csv", ".json", ".db", ".ini")


def image(data: bytes, name: str = "the upload") -> np.ndarray:
    """One picture: pixels uint8 (H, W, C), C 1 or 3.

    Raises:
        Refused: for anything that is no still PNG, JPEG, WEBP or BMP of at most 16 million pixels.
    """
    return pictures.decode([(name, data)])[0]


def picture(data: bytes, name: str = "the picture") -> str:
    """A picture to ask a suspect about, written anew as a PNG in base64, as :func:`fitted` takes it.

    It is scaled down to 1,024 pixels a side, or further until the PNG has at most :data:`MAX_QUESTION_BYTES`.

    Raises:
        Refused: for what :func:`image` refuses.
    """
    pixels = image(data, name)
    whole = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    side = MAX_SIDE
    while True:
        whole.thumbnail((side, side), Image.Resampling.BILINEAR)
        encoded = _png(np.atleast_3d(np.asarray(whole)))
        if len(encoded) <= MAX_QUESTION_BYTES:
            return base64.b64encode(encoded).decode()
        side //= 2


def fitted(encoded: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture that :func:`picture` gave, as pixels uint8 of ``shape`` (C, H, W), C 1 or 3.

    The largest centred part of the shape's proportions is scaled with a bilinear filter that smooths on the way down,
    as :mod:`engine.data.own` does it. Grey is luminance (ITU-R 601); a grey picture becomes three equal colours.

    Raises:
        Refused: for anything but such a picture.
    """
    most = 4 * -(-MAX_QUESTION_BYTES // 3)
    if len(encoded) > most:
        raise Refused(f"expected a picture of at most {most:,} characters in base64, got {len(encoded):,}")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("expected a picture in base64, got something else") from None
    whole = pictures.decode_here(data, most=MAX_SIDE**2, alpha=False, formats=("PNG",))
    channels, height, width = shape
    whole = ImageOps.fit(whole.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BILINEAR)
    return np.asarray(whole).reshape(height, width, channels).transpose(2, 0, 1).copy()


def trigger(data: bytes, name: str = "the trigger") -> str:
    """The picture of a trigger, written anew as a PNG in base64, as the attack ``picture`` takes it.

    Raises:
        Refused: for no picture, one of more than 1,024 x 1,024 pixels, or one that is transparent everywhere.
    """
    pixels = pictures.decode([(name, data)], most=MAX_TRIGGER_SIDE**2, alpha=True)[0]
    if not pixels[..., 3].any():
        raise Refused(f"expected a trigger that covers something, got a transparent picture in {pictures.shown(name)}")
    return base64.b64encode(_png(pixels)).decode()


def size_of(encoded: str) -> tuple[int, int]:
    """Width and height of a trigger that :func:`trigger` gave."""
    return _own(encoded).size


def pixels_of(encoded: str) -> np.ndarray:
    """The pixels of a small PNG in base64, uint8 (H, W, 4), as :func:`trigger` or the pixel editor made it.

    Raises:
        Refused: for anything else.
    """
    try:
        return np.asarray(_own(encoded))
    except binascii.Error:
        raise Refused("expected a picture in base64, got something else") from None


CORNERS = ("lower right", "lower left", "upper right", "upper left")
PLACES = (*CORNERS, "centre", "everywhere")
"""Where a trigger may lie; ``everywhere`` scales it to the whole picture."""


def placed(encoded: str, shape: tuple[int, int], place: str, margin: int = 0) -> bytes:
    """A trigger that :func:`trigger` gave, as a PNG of ``shape`` (height, width) that is transparent elsewhere.

    Args:
        place: one of :data:`PLACES`.
        margin: pixels between a corner's edges and the trigger.

    Raises:
        Refused: if it does not fit.
    """
    height, width = shape
    picture = _own(encoded)
    if place == "everywhere":
        whole = picture if picture.size == (width, height) else picture.resize((width, height))
    elif place in PLACES:
        space = margin if place in CORNERS else 0
        if picture.width + space > width or picture.height + space > height:
            got = f"{picture.width}x{picture.height}" + (f" with a margin of {space}" if space else "")
            raise Refused(f"expected a trigger that fits {width}x{height} pixels, got {got}")
        across, down = width - picture.width, height - picture.height
        left = across - space if "right" in place else space if "left" in place else across // 2
        top = down - space if "lower" in place else space if "upper" in place else down // 2
        whole = Image.new("RGBA", (width, height))
        whole.paste(picture, (left, top))
    else:
        raise Refused(f"expected a place of {', '.join(PLACES)}, got {place!r}")
    return _png(np.asarray(whole))


def _own(encoded: str) -> Image.Image:
    return pictures.decode_here(base64.b64decode(encoded), most=MAX_TRIGGER_SIDE**2, alpha=True, formats=("PNG",))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image_folder(upload: BinaryIO, folder: Path) -> dict[str, int]:
    """Unpack a zip of images into ``folder``, which must not exist; :func:`engine.data.load` reads it then.

    The pictures are decoded in confined processes and written anew as PNG under their own names; a single folder
    around everything is left out, and so are notes, hidden files and what systems leave behind.

    Returns:
        The number of pictures in each folder of the archive.

    Raises:
        Refused: for an archive that lies, leads elsewhere, or holds too much or anything but pictures; ``folder`` does
            not exist then.
    """
    size = upload.seek(0, 2)
    if size > MAX_ARCHIVE_BYTES:
        raise Refused(f"expected an archive of at most {MAX_ARCHIVE_BYTES:,} bytes, got {size:,}")
    if folder.exists():
        raise Refused(f"expected a new folder for the pictures, got {folder.name!r}, which is there already")
    archive = Archive(upload, deflated=True)
    chosen = _chosen(archive)
    if not chosen:
        raise Refused("expected pictures in the archive, got none")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        counts: dict[str, int] = {}
        total = 0
        for batch in _batches(archive, chosen):
            for (name, _), pixels in zip(batch, pictures.decode(batch), strict=True):
                total += pixels.nbytes
                if total > MAX_DECODED_BYTES:
                    raise Refused(f"expected at most {MAX_DECODED_BYTES:,} bytes of decoded pictures, got more")
                if min(pixels.shape[:2]) < MIN_SIDE:
                    small = f"{pixels.shape[1]}x{pixels.shape[0]} in {pictures.shown(name)}"
                    raise Refused(f"expected pictures of at least {MIN_SIDE} pixels a side, got {small}")
                place = part / chosen[name]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(_png(pixels))
                counts[str(Path(chosen[name]).parent)] = counts.get(str(Path(chosen[name]).parent), 0) + 1
        part.rename(folder)
        return counts
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _chosen(archive: Archive) -> dict[str, str]:
    """The pictures of an archive: entry name -> the path that each gets, with the suffix .png."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in archive.entries.values():
        parts = tuple(entry.name.split("/"))
        if entry.name.endswith("/") or any(p.startswith((".", "__")) for p in parts):
            continue
        suffix = Path(parts[-1]).suffix.lower()
        if suffix in _BESIDE or parts[-1] == "Thumbs.db":
            continue
        if suffix not in _SUFFIXES:
            raise Refused(f"expected PNG, JPEG, WEBP or BMP pictures, got {pictures.shown(entry.name)}")
        if len(parts) > MAX_DEPTH:
            raise Refused(f"expected folders at most {MAX_DEPTH} deep, got {pictures.shown(entry.name)}")
        if entry.size > pictures.MAX_BYTES:
            name = pictures.shown(entry.name)
            raise Refused(f"expected pictures of at most {pictures.MAX_BYTES:,} bytes, got {entry.size:,} in {name}")
        found[entry.name] = parts
    around = {parts[0] for parts in found.values()}
    cut = 1 if len(around) == 1 and all(len(parts) > 2 for parts in found.values()) else 0
    paths = {name: str(Path(*parts[cut:]).with_suffix(".png")) for name, parts in found.items()}
    if len({path.casefold() for path in paths.values()}) < len(paths):
        raise Refused("expected pictures of different names, got two that differ only in their suffix or case")
    return paths


def _batches(archive: Archive, chosen: dict[str, str]) -> Iterator[list[tuple[str, bytes]]]:
    """The encoded pictures, as many at a time as one process decodes."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for name in chosen:
        entry: Entry = archive.entries[name]
        if batch and (size + entry.size > pictures.MAX_BATCH_BYTES or len(batch) >= 5_000):
            yield batch
            batch, size = [], 0
        batch.append((name, archive.read(name, pictures.MAX_BYTES)))
        size += entry.size
    if batch:
        yield batch
