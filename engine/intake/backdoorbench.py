"""BackdoorBench's ``attack_result.pt`` and ``defense_result.pt``: the fields that an import needs.

Both hold ``model_name``, ``num_classes`` and ``model``, a state dictionary. An attack result also says which test
images carry the trigger, where they lie as files, and which label each of them had and should get. The paths in it are
a stranger's: :func:`located` uses only their last three parts, and only below the folder of the file itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.intake.checkpoint import mapping
from engine.intake.limits import Refused
from engine.intake.pickles import Made, plain_scalar, printable

_MAX_IMAGES = 100_000


def fields(root: Any) -> dict[str, Any] | None:
    """What a result file says, as plain values; None for any other content.

    ``images`` are the triggered test images: [number in the test set, path, wanted label, true label].
    """
    pairs = mapping(root)
    found = {k: v for k, v in pairs if isinstance(k, str)} if pairs is not None else {}
    if not {"model_name", "num_classes", "model"} <= found.keys():
        return None
    return {
        "model_name": _text(found["model_name"]),
        "num_classes": _int(found["num_classes"]),
        "clean_data": _text(found.get("clean_data")),
        "attack": "bd_test" in found,
        "images": _images(found.get("bd_test")),
    }


def _images(state: Any) -> list[tuple[int, str, int, int]]:
    container = _of(_of(state, "bd_data_container"), "data_dict")
    rows: list[tuple[int, str, int, int]] = []
    for index, value in mapping(container) or []:
        path, info = _of(value, "path"), _of(value, "other_info")
        if type(path) is not str or type(info) not in (list, tuple) or len(info) < 2:
            raise Refused("expected poisoned test images as files with two labels, got something else in bd_test")
        number, wanted, truth = _int(index), _int(info[0]), _int(info[1])
        if number is None or wanted is None or truth is None or len(rows) >= _MAX_IMAGES:
            raise Refused("expected whole numbers for poisoned test images and their labels, got something else")
        rows.append((number, path[:1000], wanted, truth))
    return rows


def _of(value: Any, key: str) -> Any:
    if type(value) is dict:
        return value.get(key)
    if type(value) is Made and len(value.pairs) > 100:
        return None
    return next((v for k, v in mapping(value) or [] if k == key), None)


def _int(value: Any) -> int | None:
    value = plain_scalar(value) if type(value) is Made else value
    return value if type(value) is int and 0 <= value < 2**31 else None


def _text(value: Any) -> str | None:
    return printable(value[:200]) if type(value) is str else None


def located(folder: Path, path: str) -> Path:
    """Where an image of an attack result lies: ``FOLDER/<split>/<label>/<index>.png`` beside the result file.

    Raises:
        Refused: for a path that could lead elsewhere, or a file that is not there.
    """
    parts = path.replace("\\", "/").split("/")[-3:]
    if len(parts) < 3 or any(not p or p.startswith(".") or not p.isprintable() or ":" in p for p in parts):
        raise Refused(f"expected image paths such as bd_test_dataset/3/17.png, got {path[:120]!r}")
    home = folder.resolve()
    found = home.joinpath(*parts)
    try:
        target = found.resolve()
    except (OSError, RuntimeError):
        raise Refused(f"expected no endless link, got {'/'.join(parts)!r}") from None
    if not target.is_relative_to(home):
        raise Refused(f"expected images below the folder of the checkpoint, got {'/'.join(parts)!r}, a link out of it")
    if not target.is_file():
        raise Refused(f"expected the poisoned test images beside the checkpoint, got no {'/'.join(parts)!r}")
    return target
