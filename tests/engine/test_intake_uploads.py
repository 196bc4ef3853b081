"""Uploads: pictures and zips of them come through as pixels; everything else is one line, and nothing stays behind."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import load
from engine.data.own_limits import SIDES
from engine.intake import clerk, pictures, uploads
from engine.intake.limits import Refused
from engine.paths import ROOT
from engine.suspects import make_attack
from tests.intake_corpus import Member, Zip


def pixels(seed: int = 0, side: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def encoded(x: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[2] == 1 else x).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_comes_through(kind: str, channels: int) -> None:
    x = pixels(channels=channels)
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "exif": Image.Exif()}}.get(kind, {})
    found = uploads.image(encoded(x, kind, **lossless))
    if kind == "WEBP":  # knows no grey
        x = np.repeat(x, 3, 2) if channels == 1 else x
    assert found.shape == x.shape
    if kind != "JPEG":
        assert (found == x).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels(k)) for k in range(3)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "something else"),
    "text": (lambda: b"<svg onload=alert(1)>", "something else"),
    "a pickle": (lambda: b"\x80\x02cos\nsystem\n", "something else"),
    "cut": (lambda: encoded(pixels(side=64))[:2000], "something else"),
    "gif": (lambda: encoded(pixels(), "GIF"), "something else"),
    "tiff": (lambda: encoded(pixels(), "TIFF"), "something else"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "something else"),
    "bomb of 4 gigapixels": (lambda: png(65_000, 65_000), "pixels"),
    "bomb of 2**62 pixels": (lambda: png(2**31 - 1, 2**31 - 1), "pixels"),
    "bomb of 25 megapixels": (lambda: png(5_000, 5_000, bytes(5_000 * 15_001)), "pixels, got 5000x5000"),
    "no pixels": (lambda: png(0, 0), "something else"),
    "missing rows": (lambda: png(100, 100, b"\0"), "something else"),
    "text bomb": (lambda: png(8, 8, bytes(200), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))), ""),
    "animation": (animated, "a still picture, got 3 frames"),
    "16 bits": (sixteen_bits, "8 bits a channel"),
    "35 MB": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(35 * 2**20), "of at most 33,554,432 bytes"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_what_is_no_picture_is_refused_in_one_line(case: str) -> None:
    make, expected = PICTURES[case]
    with pytest.raises(Refused) as error:
        uploads.image(make(), "a\nb.png")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_pictures_end_nothing() -> None:
    """Whatever damage does: pixels of the size that the header says, or a line."""
    rng = np.random.default_rng(0)
    originals = [encoded(pixels(side=16), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP")]
    read, refusals = 0, []
    for k in range(24):
        data = bytearray(originals[k % 4])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            read += uploads.image(bytes(data)).ndim == 3
        except Refused as error:
            refusals.append(str(error))
    assert read
    assert refusals
    assert not [line for line in refusals if "\n" in line]


def test_a_decoder_that_dies_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, word in {"import os; os.abort()": "ended its process", "import os, sys; os.write(int(sys.argv[1]), b'x' * 99)": "failed"}.items():  # fmt: skip  # noqa: E501
        monkeypatch.setattr(pictures, "_START", line)
        with pytest.raises(Refused, match=word):
            uploads.image(encoded(pixels()))


# Zips of pictures


def good(n: int = 4) -> dict[str, bytes]:
    return {f"{label}/{k}.png": encoded(pixels(k)) for label in ("cat", "dog") for k in range(n)}


def test_a_zip_of_class_folders_becomes_data(tmp_path: Path) -> None:
    files = {f"my data/{name}": data for name, data in good().items()}
    files["my data/dog/9.jpg"] = encoded(pixels(9), "JPEG")
    beside = {"my data/README.txt": b"hello", "__MACOSX/my data/._x": b"?", "my data/.DS_Store": b"?"}
    counts = uploads.image_folder(zipped({**files, **beside}), tmp_path / "data")
    assert counts == {"cat": 4, "dog": 5}
    found = load(str(tmp_path / "data"))
    assert found.classes == ("cat", "dog")
    assert found.shape == (3, 12, 12)
    assert len(found.train) + len(found.pool) + len(found.test) == 9
    everything = {tuple(x.flatten().tolist()) for part in (found.train, found.pool, found.test) for x in part.x}
    assert tuple(torch.from_numpy(pixels(2)).permute(2, 0, 1).flatten().tolist()) in everything
    # The pictures are written anew: nothing of the stranger's encoding is left.
    assert {p.suffix for p in (tmp_path / "data").rglob("*.*")} == {".png"}


def test_train_and_test_folders_stay(tmp_path: Path) -> None:
    files = {f"{part}/{name}": data for part in ("train", "test") for name, data in good().items()}
    assert uploads.image_folder(zipped(files), tmp_path / "data") == dict.fromkeys(
        ["train/cat", "train/dog", "test/cat", "test/dog"], 4
    )


def made(*members: Member) -> bytes:
    return Zip([*(Member(name, data) for name, data in good(1).items()), *members]).build()


PICTURE = encoded(pixels())
BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
PACKED = BOMB.compress(bytes(30 * 2**20)) + BOMB.flush()
ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "truncated"),
    "no zip": (lambda: PICTURE, "a zip archive"),
    "no pictures": (lambda: zipped({"a.txt": b"x"}).getvalue(), "got none"),
    "cut": (lambda: made()[:-10], "expected"),
    "up": (lambda: made(Member("../evil.png", PICTURE)), "leads out of it"),
    "up from within": (lambda: made(Member("cat/../../evil.png", PICTURE)), "leads out of it"),
    "absolute": (lambda: made(Member("/tmp/evil.png", PICTURE)), "leads out of it"),
    "drive": (lambda: made(Member("C:evil.png", PICTURE)), "leads out of it"),
    "backslashes": (lambda: made(Member("..\\evil.png", PICTURE)), "leads out of it"),
    "a link": (lambda: made(Member("cat/link.png", b"/etc/passwd", made_by=3, mode=0o120777)), "a link"),
    "a device": (lambda: made(Member("cat/dev.png", b"", made_by=3, mode=0o020666)), "a special file"),
    "twice": (lambda: made(Member("cat/0.png", PICTURE)), "each name once"),
    "twice by case": (lambda: made(Member("CAT/0.PNG", PICTURE)), "each name once"),
    "twice by suffix": (lambda: made(Member("cat/0.bmp", encoded(pixels(), "BMP"))), "differ only in their suffix"),
    "encrypted": (lambda: made(Member("cat/1.png", PICTURE, flags=1)), "encrypted"),
    "overlapping": (lambda: made(Member("cat/1.png", PICTURE, offset=0)), "expected"),
    "a script": (lambda: made(Member("cat/run.sh", b"#!/bin/sh")), "expected PNG, JPEG, WEBP or BMP"),
    "a zip": (lambda: made(Member("cat/more.zip", made())), "expected PNG, JPEG, WEBP or BMP"),
    "no picture": (lambda: made(Member("cat/1.png", b"hello")), "something else in 'cat/1.png'"),
    "deep": (lambda: made(Member("a/b/c/d/e/f/g/h/i/1.png", PICTURE)), "at most 8 deep"),
    "bomb": (lambda: made(Member("cat/1.png", b"", method=8, packed_data=PACKED, size=30 * 2**20)), "compression"),
    "bomb that lies": (lambda: made(Member("cat/1.png", b"", method=8, packed_data=PACKED, size=5_000)), "got more"),
    "picture bomb": (lambda: made(Member("cat/1.png", png(65_000, 65_000))), "pixels"),
    "tiny": (lambda: made(Member("cat/1.png", encoded(pixels(side=4)))), "at least 8 pixels"),
    "wrong checksum": (lambda: made(Member("cat/1.png", PICTURE, crc=1)), "checksum"),
    "60,000 entries": (lambda: Zip([Member(f"{i}.png") for i in range(60_000)]).build(), "at most 50,000 entries"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_zip_that_lies_leaves_nothing(case: str, tmp_path: Path) -> None:
    make, expected = ARCHIVES[case]
    with pytest.raises(Refused, match=r"^expected [^\n]*$") as error:
        uploads.image_folder(io.BytesIO(make()), tmp_path / "inner" / "data")
    assert expected in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if p.name != "inner"]


def test_too_much_when_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_DECODED_BYTES", 1_000)
    with pytest.raises(Refused, match="at most 1,000 bytes of decoded pictures"):
        uploads.image_folder(zipped(good()), tmp_path / "data")
    monkeypatch.setattr(uploads, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(Refused, match="an archive of at most 100 bytes"):
        uploads.image_folder(zipped(good()), tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(Refused, match="there already"):
        uploads.image_folder(zipped(good()), tmp_path / "data")


# Triggers


def test_the_picture_of_a_trigger_covers_where_it_is_opaque() -> None:
    rgba = np.zeros((12, 12, 4), np.uint8)
    rgba[9:11, 9:11] = (255, 0, 0, 255)
    attack = make_attack("picture", {"picture": uploads.trigger(encoded(rgba)), "target": 2, "opacity": 0.5})
    x = torch.full((2, 3, 12, 12), 0.5)
    stamped = attack.trigger(x)
    assert stamped[:, :, 9:11, 9:11].mean((0, 2, 3)).tolist() == [0.75, 0.25, 0.25]
    stamped[:, :, 9:11, 9:11] = 0.5
    assert stamped.equal(x)
    assert attack.label(torch.tensor([0, 1])).tolist() == [2, 2]
    # Grey images get the picture's brightness.
    grey = attack.trigger(torch.zeros(1, 1, 12, 12))
    assert grey[0, 0, 10, 10].item() == pytest.approx(0.5 * 0.299)
    with pytest.raises(ValueError, match="a trigger of 16x16 pixels, got 12x12"):
        attack.trigger(torch.zeros(1, 3, 16, 16))


def test_impossible_triggers() -> None:
    with pytest.raises(Refused, match="covers something"):
        uploads.trigger(encoded(np.zeros((12, 12, 4), np.uint8)))
    good = uploads.trigger(encoded(pixels()))
    with pytest.raises(ValueError, match="opacity"):
        make_attack("picture", {"picture": good, "opacity": 2})
    with pytest.raises(ValueError, match="target"):
        make_attack("picture", {"picture": good, "target": -1})
    with pytest.raises(Refused, match="1,048,576 pixels, got 1100x1100"):
        uploads.trigger(encoded(pixels(side=1100)))
    with pytest.raises(ValueError, match="base64"):
        make_attack("picture", {"picture": "?"}).trigger(torch.zeros(1, 3, 12, 12))
    with pytest.raises(ValueError, match="a picture for the trigger"):
        make_attack("picture", {"picture": ""}).trigger(torch.zeros(1, 3, 12, 12))


def test_pages_can_use_the_intake_without_torch() -> None:
    code = "import sys, engine.intake.uploads, engine.intake.reader; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert SIDES[0] == uploads.MIN_SIDE


def test_the_clerk_sums_up_pictures_and_arrays(
    tmp_path: Path, shapes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{c}/{k}.png": encoded(pixels(k)) for c in ("cat", "dog") for k in range(8)}
    (tmp_path / "a.zip").write_bytes(zipped(files).getvalue())
    assert clerk.main(["images", str(tmp_path / "a.zip"), str(tmp_path / "images")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], found["shape"]) == (["cat", "dog"], [3, 12, 12])
    assert found["train"] + found["pool"] + found["test"] == 16
    assert clerk.arrays(Path(shapes))["classes"] == ["row", "column", "diagonal", "square"]
    monkeypatch.setattr(uploads, "MAX_DECODED_BYTES", 1000)
    assert clerk.main(["arrays", shapes]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: expected arrays of at most 1,000 bytes, got ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "margin", "top", "left"),
    [
        ("lower right", 1, 8, 7),
        ("lower left", 0, 9, 0),
        ("upper right", 2, 2, 6),
        ("upper left", 1, 1, 1),
        ("centre", 3, 4, 4),
    ],
)
def test_a_trigger_is_placed_as_the_attack_takes_it(place: str, margin: int, top: int, left: int) -> None:
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    placed = uploads.placed(uploads.trigger(encoded(red)), (12, 12), place, margin)
    attack = make_attack("picture", {"picture": uploads.trigger(placed), "target": 2})
    covered = attack.trigger(torch.zeros(1, 3, 12, 12))[0, 0].bool()
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[top : top + 3, left : left + 4] = True
    assert covered.equal(expected)


def test_a_trigger_that_does_not_fit_is_refused_or_scaled() -> None:
    large = uploads.trigger(encoded(pixels(side=16)))
    assert uploads.size_of(large) == (16, 16)
    with pytest.raises(Refused, match="fits 12x12 pixels, got 16x16"):
        uploads.placed(large, (12, 12), "centre")
    with pytest.raises(Refused, match="got 16x16 with a margin of 3"):
        uploads.placed(large, (18, 18), "lower right", 3)
    assert uploads.size_of(uploads.trigger(uploads.placed(large, (12, 10), "everywhere"))) == (10, 12)
