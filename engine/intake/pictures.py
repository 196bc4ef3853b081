"""One picture from a stranger: judged by its header before it is decoded, in four formats only."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from engine.intake.limits import Refused

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
_MODES = {"1": "L", "L": "L", "P": "RGBA", "PA": "RGBA", "LA": "RGBA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB"}


def decode(data: bytes, what: str, *, most: int = MAX_PIXELS, alpha: bool = False) -> np.ndarray:
    """The pixels uint8 (H, W, C): C is 1 or 3, or always 4 with ``alpha``.

    Raises:
        Refused: in one line naming ``what``, for other formats, broken files, and more than ``most`` pixels.
    """
    if len(data) > MAX_BYTES:
        raise Refused(f"expected a picture of at most {MAX_BYTES:,} bytes, got {len(data):,} in {what}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if 1 <= width * height <= most and picture.mode in _MODES and getattr(picture, "n_frames", 1) == 1:
                    found = picture.convert("RGBA" if alpha else _plain(picture.mode))
                    return np.asarray(found).reshape(height, width, -1)
                mode, frames = picture.mode, getattr(picture, "n_frames", 1)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refused(f"expected at most {most:,} pixels, got more in {what}") from None
        except MemoryError:
            raise Refused(f"expected a picture that fits the memory, got another in {what}") from None
        except Exception:
            raise Refused(f"expected a complete PNG, JPEG, WEBP or BMP picture, got something else in {what}") from None
    if not 1 <= width * height <= most:
        raise Refused(f"expected at most {most:,} pixels, got {width}x{height} in {what}")
    if frames != 1:
        raise Refused(f"expected a still picture, got {frames} frames in {what}")
    raise Refused(f"expected 8 bits a channel, got mode {mode} in {what}")


def _plain(mode: str) -> str:
    return "L" if _MODES[mode] == "L" or mode == "LA" else "RGB"
