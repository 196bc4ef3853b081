"""The process that looks at what a person handed in: ``python -m engine.intake.clerk KIND FILE [FOLDER]``.

Prints one JSON document, or exits with 2 and one line, as the commands do. Reading and decoding happen in confined
processes of their own. The document on a checkpoint holds the choices of the form too: pages load no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.intake import uploads
from engine.intake.archive import Archive
from engine.intake.limits import Refused

# What loads torch is imported where it is needed: most of what is refused is refused before.


def checkpoint(path: Path) -> dict[str, Any]:
    """What ``inspect`` says, and what an import can be asked for."""
    from engine.intake.importing import inspect

    return {**inspect(path), "choices": choices()}


def choices() -> dict[str, Any]:
    from engine import catalogue
    from engine.intake.preprocess import AUTO, KNOWN

    return {
        "models": catalogue.rows("models"),
        "datasets": catalogue.rows("datasets"),
        "attacks": catalogue.rows("attacks"),
        "preprocess": [AUTO, *(known.name for known in KNOWN)],
    }


def images(path: Path, folder: Path) -> dict[str, Any]:
    """Unpack a zip of images into ``folder`` and read it as the engine will."""
    with path.open("rb") as upload:
        uploads.image_folder(upload, folder)
    return _summary(folder)


def arrays(path: Path) -> dict[str, Any]:
    """Read an ``.npz`` as the engine will, after a look at what it would unpack to.

    Raises:
        Refused: for a zip that lies about itself or holds more than an upload may.
    """
    with path.open("rb") as upload:
        total = sum(entry.size for entry in Archive(upload, deflated=True).entries.values())
    if total > uploads.MAX_DECODED_BYTES:
        raise Refused(f"expected arrays of at most {uploads.MAX_DECODED_BYTES:,} bytes, got {total:,}")
    return _summary(path)


def _summary(path: Path) -> dict[str, Any]:
    from engine.data import own

    data = own.load(path)
    counts = {part: len(getattr(data, part)) for part in ("train", "pool", "test")}
    return {"classes": list(data.classes), "shape": list(data.shape), **counts}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {"checkpoint": checkpoint, "images": images, "arrays": arrays}


def main(arguments: list[str]) -> int:
    try:
        document = KINDS[arguments[0]](*(Path(a) for a in arguments[1:]))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    sys.stdout.write(json.dumps(document, ensure_ascii=True, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
