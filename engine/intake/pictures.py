"""Pictures from a stranger: decoded in a process of their own, after their headers, in four formats only.

Decoders are the parts of an image library in which memory errors are found, and no pickle is needed to reach them. So
:func:`decode` hands encoded pictures to a confined process and gets plain pixels back. :func:`decode_here` is what that
process calls, and what reads the pictures that this project wrote itself.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from engine.intake.limits import READER_MEMORY, Refused
from engine.paths import ROOT
from engine.runs import process

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 16_000_000
MAX_BATCH_BYTES = 64 * 2**20
_MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "RGB"}
_SECONDS = 20
_START = (
    "import sys; sys.path.insert(0, {root!r}); sys.path += {path!r}; "
    "from engine.intake.pictures import child; child(sys.argv[1:])"
)
# The library imports its decoders when a file asks for them, which the lock would not let it do.
_PLUGINS = (BmpImagePlugin, ExifTags, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)


def decode_here(data: bytes, *, most: int, alpha: bool, formats: Sequence[str] = FORMATS) -> Image.Image:
    """A picture in mode L or RGB, or with ``alpha`` always RGBA.

    Raises:
        Refused: for other formats, broken files, animations, and more than ``most`` pixels (before they are decoded).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=list(formats)) as picture:
                (width, height), mode = picture.size, picture.mode
                frames = getattr(picture, "n_frames", 1)
                if 1 <= width * height <= most and mode in _MODES and frames == 1:
                    return picture.convert("RGBA" if alpha else _MODES[mode])
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refused(f"expected at most {most:,} pixels, got more") from None
        except MemoryError:
            raise Refused("expected a picture that fits the memory, got a larger one") from None
        except Exception:
            raise Refused(f"expected a complete {_either(formats)} picture, got something else") from None
    if not 1 <= width * height <= most:
        raise Refused(f"expected at most {most:,} pixels, got {width}x{height}")
    if frames != 1:
        raise Refused(f"expected a still picture, got {frames} frames")
    raise Refused(f"expected 8 bits a channel, got mode {mode}")


def _either(formats: Sequence[str]) -> str:
    return f"{', '.join(formats[:-1])} or {formats[-1]}" if len(formats) > 1 else formats[0]


def decode(
    pictures: Sequence[tuple[str, bytes]], *, most: int = MAX_PIXELS, alpha: bool = False
) -> list[np.ndarray[Any, Any]]:
    """The pixels uint8 (H, W, C) of encoded pictures, given with the names that a refusal shows; C is 1 or 3, or 4.

    Raises:
        Refused: in one line that names the picture, for the reasons of :func:`decode_here`.
    """
    import numpy as np

    if not process.can_confine():
        raise Refused("expected a system on which a process's memory can be limited (Linux, macOS), got another")
    for name, data in pictures:
        if len(data) > MAX_BYTES:
            raise Refused(f"expected a picture of at most {MAX_BYTES:,} bytes, got {len(data):,} in {shown(name)}")
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out:
        for _, data in pictures:
            source.write(struct.pack("<Q", len(data)) + data)
        source.seek(0)
        path = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
        line = _START.format(root=str(ROOT), path=path)
        numbers = [str(n) for n in (out.fileno(), READER_MEMORY, _SECONDS, most, int(alpha))]
        command = [sys.executable, "-I", "-c", line, *numbers]
        code = process.run_confined(
            command, stdin=source, files=(out.fileno(),), memory=READER_MEMORY, seconds=2 * _SECONDS
        )
        out.seek(0)
        found = []
        for name, _ in pictures:
            head = out.read(16)
            if len(head) < 16:
                what = "took too long" if code is None else "ended its process"
                raise Refused(f"expected a readable picture, got {shown(name)}, whose reading {what}")
            width, height, channels, length = struct.unpack("<IIII", head)
            body = out.read(length)
            if channels == 0:
                raise Refused(f"{body.decode('utf-8', 'replace')[:300]} in {shown(name)}")
            if (
                length != width * height * channels
                or len(body) != length
                or channels not in ((4,) if alpha else (1, 3))
            ):
                raise Refused(f"expected a readable picture, got {shown(name)}, whose reading failed")
            found.append(np.frombuffer(body, np.uint8).reshape(height, width, channels).copy())
    return found


def shown(name: str) -> str:
    """A stranger's file name, short and on one line."""
    return repr(name if len(name) <= 80 else "..." + name[-77:])


def child(arguments: list[str]) -> None:
    """The decoding process: pictures from standard input, pixels or a line of refusal to the descriptor given."""
    from engine.intake.child import lock

    out, memory, seconds, most, alpha = (int(a) for a in arguments)
    for mode in ("L", "RGB", "RGBA"):
        for kind in FORMATS:
            buffer = io.BytesIO()
            Image.new(mode if kind != "JPEG" or mode != "RGBA" else "RGB", (4, 4)).save(buffer, kind)
            decode_here(buffer.getvalue(), most=16, alpha=True)
    source = os.fdopen(0, "rb", closefd=False)
    target = os.fdopen(out, "wb", closefd=False)
    process.confine(memory=memory, seconds=seconds, file_bytes=4 * 2**30)
    lock()
    while head := source.read(8):
        _answer(source.read(int.from_bytes(head, "little")), target, most, bool(alpha))
    os._exit(0)


def _answer(data: bytes, target: BinaryIO, most: int, alpha: bool) -> None:
    try:
        picture = decode_here(data, most=most, alpha=alpha)
        body = picture.tobytes()
        head = struct.pack("<IIII", *picture.size, len(picture.getbands()), len(body))
    except (Refused, MemoryError) as refusal:
        body = str(refusal).encode() or b"expected a picture that fits the memory, got a larger one"
        head = struct.pack("<IIII", 0, 0, 0, len(body))
    target.write(head + body)
    target.flush()
