"""Data sets: the parts are disjoint and fixed, what is missing is said in a line, and hostile files are refused."""

from __future__ import annotations

import csv
import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import DATASETS, DataSet, draw, from_torchvision, load, own, own_folder, own_npz
from engine.data.base import Images
from engine.data.splits import shuffled, split_off, train_and_pool

CIFAR_LIKE = ("cifar10", "gtsrb", "mnist", "imagenette")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def refusal(action: Callable[[], object]) -> str:
    """The one line in which something is refused."""
    with pytest.raises(ValueError, match="^expected .*, got ") as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def disjoint(data: DataSet, same_numbers: bool = False) -> bool:
    """No image in two parts; ``same_numbers``: the test images are numbered together with the others."""
    parts = [set(p.ids.tolist()) for p in (data.train, data.pool, *([data.test] if same_numbers else []))]
    return len(set().union(*parts)) == sum(map(len, parts))


# ---- registry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tuple(DATASETS))
def test_entries_are_complete(name: str) -> None:
    entry = DATASETS[name]
    assert entry.title
    assert entry.about.endswith(".")
    assert entry.licence
    assert entry.origin.startswith("http")
    assert isinstance(entry.offline(), bool)
    data = entry.open()
    assert data.name == name
    assert len(data.classes) == len(set(data.classes)) == (43 if name == "gtsrb" else 10)


def test_embedded_fashion_mnist() -> None:
    data = load("fashion-mnist")
    assert [len(data.train), len(data.pool), len(data.test)] == [8_000, 2_000, 10_000]
    assert data.test.x.shape[1:] == data.shape == (1, 28, 28)
    assert torch.bincount(data.test.y).tolist() == [1_000] * 10
    assert disjoint(data)
    assert DATASETS["fashion-mnist"].offline()


@pytest.mark.parametrize("name", ["fashion-mnits", "", " ", "no/such/folder", "a" * 5_000, "x\0y"])
def test_unknown_names(name: str) -> None:
    text = refusal(lambda: load(name))
    assert "fashion-mnist, fashion-mnist:full, cifar10" in text
    assert "the path of an .npz or image folder" in text
    assert ("did you mean 'fashion-mnist'?" in text) == (name == "fashion-mnits")


# ---- splits ---------------------------------------------------------------------------------------------------


def numbered(labels: list[int]) -> Images:
    return Images.of(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels))


def test_split_is_fixed_complete_and_holds_every_class() -> None:
    images = numbered([0] * 900 + [1] * 95 + [2] * 3 + [3] * 2)
    parts, again = train_and_pool(shuffled(images)), train_and_pool(shuffled(images))
    assert all(torch.equal(parts[p].ids, again[p].ids) for p in parts)
    assert sorted(torch.cat([parts["train"].ids, parts["pool"].ids]).tolist()) == list(range(1_000))
    for part in parts.values():
        assert torch.bincount(part.y, minlength=4).min() >= 1
        assert torch.equal(images.y[part.ids], part.y)
    assert len(parts["pool"]) == 100


def test_every_class_is_on_both_sides() -> None:
    rest, part = split_off(numbered([0] * 8 + [1] * 2), 0.3)
    assert rest.ids.tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert part.ids.tolist() == [6, 7, 9]


def test_the_pool_has_a_limit() -> None:
    rest, part = split_off(numbered([0, 1] * 100), 0.5, most=10)
    assert len(part) == 10
    assert len(rest) == 190


def test_draw_refuses_more_than_there_are() -> None:
    assert "between 1 and 20 samples" in refusal(lambda: draw(numbered([0, 1] * 10), 21, torch.Generator()))


# ---- torchvision ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace; its data folder."""
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "data"


class NoNetwork:
    """Stands for a torchvision class: begins to download and fails."""

    def __init__(self, root: str, download: bool = False, **_: object) -> None:
        assert download
        half = Path(root) / "cifar-10-batches-py"
        half.mkdir()
        (half / "data_batch_1").write_bytes(b"half")
        raise URLError("[Errno -2] Name or service\nnot known")


@pytest.mark.parametrize("name", [*CIFAR_LIKE, "fashion-mnist:full"])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_torchvision, "_torchvision_class", lambda _: NoNetwork)
    monkeypatch.setattr("engine.data.fashion_mnist.DEBIAN", home / "none")
    assert not DATASETS[name].offline()
    text = refusal(lambda: load(name).train)
    assert f"expected the files of {name} in {home}" in text
    assert "Name or service not known" in text
    assert "by hand" in text
    assert "embedded fashion-mnist" in text
    assert list(home.iterdir()) == []
    assert not DATASETS[name].offline()


def test_a_file_in_the_way_is_a_line(home: Path) -> None:
    home.parent.mkdir()
    home.write_text("not a folder")
    assert "expected the files of mnist" in refusal(lambda: load("mnist").train)


def test_leftovers_of_a_killed_download_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_torchvision, "_torchvision_class", lambda _: NoNetwork)
    monkeypatch.setattr(from_torchvision.process, "began", lambda pid: "" if pid == os.getpid() else None)
    (home / ".partial-123456-abc").mkdir(parents=True)
    (home / f".partial-{os.getpid()}-abc").mkdir()
    refusal(lambda: load("cifar10").train)
    assert [path.name for path in home.iterdir()] == [f".partial-{os.getpid()}-abc"]


class TinyCifar:
    """Stands for torchvision's CIFAR10: 50 + 10 images, written into the root by the first call."""

    def __init__(self, root: str, train: bool, download: bool = False) -> None:
        file = Path(root) / "cifar-10-batches-py" / "data.npy"
        if download and not file.exists():
            sys.stdout.write("Downloading")
            file.parent.mkdir()
            (file.parent / "rest.zip").write_bytes(b"")
            np.save(file, rng().integers(0, 256, (60, 32, 32, 3), np.uint8))
        self.data = np.load(file)[slice(50) if train else slice(50, 60)]
        self.targets = [i % 10 for i in range(len(self.data))]


def test_a_download_is_moved_into_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(from_torchvision, "_torchvision_class", lambda _: TinyCifar)
    data = load("cifar10")
    assert not home.exists()
    assert [len(data.train), len(data.pool), len(data.test)] == [40, 10, 10]
    assert disjoint(data)
    assert [path.name for path in home.iterdir()] == ["cifar-10-batches-py"]
    assert not list(home.rglob("*.zip"))
    assert DATASETS["cifar10"].offline()
    published = np.load(home / "cifar-10-batches-py" / "data.npy")
    assert np.array_equal(data.pool.x[3].permute(1, 2, 0), published[int(data.pool.ids[3])])
    assert data.test.ids.tolist() == list(range(10))
    assert capsys.readouterr().out == ""


def test_files_put_by_hand_that_are_incomplete(home: Path) -> None:
    (home / "cifar-10-batches-py").mkdir(parents=True)
    text = refusal(lambda: load("cifar10").test)
    assert "expected the complete files of cifar10" in text
    assert "remove that folder" in text


def test_mnist_through_torchvision(home: Path) -> None:
    raw = home / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 10)):
        x = rng().integers(0, 256, (n, 28, 28), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + x.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + labels)
    data = load("mnist")
    assert data.train.x.shape[1:] == (1, 28, 28)
    assert [len(data.train), len(data.pool), len(data.test)] == [30, 10, 10]
    assert disjoint(data)


def test_gtsrb_through_torchvision(home: Path) -> None:
    base = home / "gtsrb"
    for c in range(43):
        (base / "GTSRB" / "Training" / f"{c:05d}").mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (30 + c, 40), (c, 0, 200)).save(base / "GTSRB" / "Training" / f"{c:05d}" / f"{i}.ppm")
    images = base / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    with (base / "GT-final_test.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Filename", "ClassId"])
        for i in range(5):
            Image.new("RGB", (50, 50), (i, 0, 0)).save(images / f"{i}.ppm")
            rows.writerow([f"{i}.ppm", i])
    data = load("gtsrb")
    assert data.train.x.shape[1:] == data.shape == (3, 32, 32)
    assert [len(data.train), len(data.pool), len(data.test)] == [43, 43, 5]
    assert all(int(image[0, 5, 5]) == label for image, label in zip(data.pool.x, data.pool.y, strict=True))
    # Decoded once: the second reading needs the pictures no more, and a damaged copy is made anew.
    kept = base / ".decoded-32-test.npz"
    assert kept.is_file()
    assert not list(base.glob(".decoding-*"))
    (images / "0.ppm").unlink()
    assert torch.equal(load("gtsrb").test.x, data.test.x)
    kept.write_bytes(b"damaged")
    assert "expected the complete files of gtsrb" in refusal(lambda: load("gtsrb").test)


def test_imagenette_through_torchvision(home: Path) -> None:
    wnids = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
    for split, n in (("train", 2), ("val", 1)):
        for c, wnid in enumerate(wnids.split()):
            (home / "imagenette2-160" / split / wnid).mkdir(parents=True)
            for i in range(n):
                picture = Image.new("RGB", (200, 160), (10 * c, 0, 0))
                picture.paste((255, 255, 255), (0, 0, 20, 160))
                picture.save(home / "imagenette2-160" / split / wnid / f"{i}.jpeg", quality=95)
    data = load("imagenette")
    assert data.train.x.shape == (10, 3, 128, 128)
    assert sorted(data.test.ids.tolist()) == list(range(10))
    assert data.test.ids.tolist() != list(range(10))
    # The centre square leaves out the white border, and labels follow their pictures through the shuffle.
    assert all(abs(int(x[0, 64, 2]) - 10 * int(y)) < 8 for x, y in zip(data.test.x, data.test.y, strict=True))


# ---- one's own .npz -------------------------------------------------------------------------------------------


def arrays(n: int = 60, **changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "x_train": rng().integers(0, 256, (n, 12, 10, 3), np.uint8),
        "y_train": np.arange(n) % 3,
        "x_test": rng(1).integers(0, 256, (9, 12, 10, 3), np.uint8),
        "y_test": np.arange(9) % 3,
        "class_names": np.array(["cat", "dog", "owl"]),
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def npz(folder: Path, **changes: Any) -> str:
    np.savez_compressed(folder / "data.npz", **arrays(**changes))
    return str(folder / "data.npz")


def test_npz_with_test_images(tmp_path: Path) -> None:
    data = load(npz(tmp_path, y_train=(np.arange(60) % 3).astype(np.uint8)))
    assert data.classes == ("cat", "dog", "owl")
    assert data.shape == (3, 12, 10)
    assert [len(data.train), len(data.pool), len(data.test)] == [54, 6, 9]
    assert disjoint(data)
    assert np.array_equal(data.pool.x[2].permute(1, 2, 0), arrays()["x_train"][int(data.pool.ids[2])])
    assert np.array_equal(data.test.y, arrays()["y_test"][data.test.ids])
    assert load(data.name).train.ids.tolist() == data.train.ids.tolist()


def test_npz_grey_without_test_images_or_names(tmp_path: Path) -> None:
    grey = rng().integers(0, 256, (50, 9, 9), np.uint8)
    data = load(npz(tmp_path, x_train=grey, y_train=np.arange(50) % 2, x_test=None, y_test=None, class_names=None))
    assert data.classes == ("0", "1")
    assert data.shape == (1, 9, 9)
    assert [len(data.train), len(data.pool), len(data.test)] == [36, 4, 10]
    assert disjoint(data, same_numbers=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "expected the arrays x_train, y_train, x_test, y_test in 'data.npz', got 'y_train'"),
        ({"y_test": None}, "expected the arrays x_train, y_train, x_test, y_test"),
        ({"x_train": np.zeros((60, 12, 10, 3))}, "got float64 (60, 12, 10, 3)"),
        ({"x_train": np.zeros((60, 12, 10, 4), np.uint8)}, "got uint8 (60, 12, 10, 4)"),
        ({"x_train": np.zeros((60, 3, 12, 10), np.uint8)}, "with C 1 or 3, got uint8 (60, 3, 12, 10)"),
        ({"x_train": np.zeros((60, 12), np.uint8)}, "got uint8 (60, 12)"),
        ({"x_train": np.zeros((0, 12, 10, 3), np.uint8), "y_train": np.zeros(0, int)}, "images in x_train, got 0"),
        ({"x_train": np.zeros((60, 4, 4, 3), np.uint8), "x_test": None, "y_test": None}, "8x8 pixels, got 4x4"),
        ({"x_test": np.zeros((9, 14, 10, 3), np.uint8)}, "training images' shape (12, 10, 3), got (14, 10, 3)"),
        ({"y_train": np.arange(59) % 3}, "expected y_train as integers (60,), one for each image, got int64 (59,)"),
        ({"y_train": np.arange(60)[:, None] % 3}, "got int64 (60, 1)"),
        ({"y_train": np.arange(60) % 3 * 1.0}, "got float64 (60,)"),
        ({"y_train": np.arange(60) % 4}, "expected labels between 0 and 2 in y_train, got 3"),
        ({"y_train": np.arange(60) % 3 - 1}, "expected labels between 0 and 2 in y_train, got -1"),
        ({"y_test": np.full(9, 7)}, "expected labels between 0 and 2 in y_test, got 7"),
        ({"y_train": np.full(60, 2**62), "class_names": None}, "expected labels between 0 and 999, got 4,6"),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64), "class_names": None}, "expected labels between 0 and 999"),
        ({"y_train": np.full(60, -3), "y_test": np.full(9, -3), "class_names": None}, "got -3"),
        (
            {"y_train": np.arange(60) % 2},
            "at least 2 training images of each class, for train and pool, got 0 of 'owl'",
        ),
        ({"class_names": np.array([1, 2, 3])}, "expected class_names as 2 to 1,000 texts, got int64 (3,)"),
        ({"class_names": np.array(["cat", "cat", "owl"])}, "expected each class name once, got 'cat' twice"),
        ({"class_names": np.array(["cat", "d\nog", "owl"])}, "printable characters, got 'd\\nog'"),
        ({"class_names": np.array(["cat", " ", "owl"])}, "printable characters, got ' '"),
        ({"class_names": np.array(["cat", "dog" * 999, "owl"])}, "at most 80 characters"),
        ({"class_names": np.array(["cat", "dog", "owl"], object)}, "pickled objects, which are not opened"),
        ({"y_train": np.array([0] * 60, object)}, "expected y_train as plain numbers or text, got pickled objects"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: load(npz(tmp_path, **changes)))


def raw_npz(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return str(path)


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


GOOD_LABELS = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", bytes(4))


@pytest.mark.parametrize(
    ("x_train", "message"),
    [
        (
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 99999999, 99999999), }"),
            "as its header says, got 128",
        ),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, -8, 8), }"), ""),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 8, 8), }", b"cposix\nsystem\n"), "pickled objects"),
        (npy("{'descr': '|u1', 'shape': (4, 8, 8), }"), "readable .npz archive"),
        (npy("__import__('os').system('false')"), "readable .npz archive"),
        (
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 8, 8), }", version=b"\x09\x00"),
            "1.0 or 2.0, got 9.0",
        ),
        (b"not an array", "readable .npz archive"),
        (b"", "readable .npz archive"),
    ],
)
def test_hostile_arrays(tmp_path: Path, x_train: bytes, message: str) -> None:
    path = raw_npz(tmp_path / "evil.npz", {"x_train.npy": x_train, "y_train.npy": GOOD_LABELS})
    assert message in refusal(lambda: load(path))


def test_broken_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"PK\x03\x04 not a zip", b"\x80\x04\x95pickle"):
        (tmp_path / "bad.npz").write_bytes(content)
        assert "readable .npz archive" in refusal(lambda: load(str(tmp_path / "bad.npz")))
    whole = Path(npz(tmp_path)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "readable .npz archive" in refusal(lambda: load(str(tmp_path / "cut.npz")))
    damaged = bytearray(whole)
    damaged[2_000:2_100] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    assert "readable .npz archive" in refusal(lambda: load(str(tmp_path / "damaged.npz")))
    monkeypatch.setattr(own_npz, "MAX_BYTES", 10_000)
    assert "at most 10,000 bytes" in refusal(lambda: load(npz(tmp_path)))


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_npz, "MAX_BYTES", 100_000)
    path = npz(tmp_path, n=400, x_train=np.zeros((400, 12, 10, 3), np.uint8), y_train=np.arange(400) % 3)
    assert Path(path).stat().st_size < 100_000
    assert "expected at most 100,000 bytes of images, got 147,240" in refusal(lambda: load(path))


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("data.zip", "pipe.npz"):
        assert "expected a folder of images or an .npz file" in refusal(lambda name=name: load(str(tmp_path / name)))


# ---- one's own folder -----------------------------------------------------------------------------------------


def picture(value: int = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode in ("L", "1") else (value, 0, 255 - value))


def folder(root: Path, n: int = 10, size: tuple[int, int] = (16, 16), mode: str = "RGB", suffix: str = "png") -> Path:
    for c, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(n):
            picture(100 * c + i, size, mode).save(root / name / f"{i:03d}.{suffix}")
    return root


def test_folder_without_test_images(tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    (root / "ant" / ".DS_Store").write_bytes(b"")
    (root / "ant" / "notes.txt").write_text("which ants these are")
    (root / "README.md").write_text("about")
    data = load(str(root))
    assert data.classes == ("ant", "bee")
    assert data.shape == (3, 16, 16)
    assert [len(data.train), len(data.pool), len(data.test)] == [14, 2, 4]
    assert disjoint(data, same_numbers=True)
    for part in (data.train, data.pool, data.test):
        # Pictures keep their numbers: by class, then by file name.
        assert torch.equal(part.x[:, 0, 0, 0].long(), 100 * part.y + part.ids % 10)
        assert torch.equal(part.ids // 10, part.y)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_with_test_images(tmp_path: Path, test_name: str) -> None:
    folder(tmp_path / "train", mode="L")
    folder(tmp_path / test_name, n=3, mode="L", suffix="bmp")
    data = load(str(tmp_path))
    assert data.shape == (1, 16, 16)
    assert [len(data.train), len(data.pool), len(data.test)] == [18, 2, 6]
    assert disjoint(data)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    assert load(str(folder(tmp_path / "own", n=4, suffix=suffix))).shape == (3, 16, 16)


def test_sizes(tmp_path: Path) -> None:
    """One size is kept, several are cut to the centre square and scaled to the median shorter side."""
    root = folder(tmp_path / "own", size=(48, 40))
    assert load(str(root)).shape == (3, 40, 48)
    assert own.load(root, side=20).shape == (3, 20, 20)
    wide = Image.new("RGB", (160, 40), (255, 255, 255))
    wide.paste((7, 7, 7), (60, 0, 100, 40))
    wide.save(root / "ant" / "000.png")
    data = load(str(root))
    assert data.shape == (3, 40, 40)
    images = torch.cat([part.x for part in (data.train, data.pool, data.test)])
    assert (images == 7).flatten(1).all(dim=1).sum() == 1
    folder(tmp_path / "large", n=3, size=(300, 300))
    assert load(str(tmp_path / "large")).shape == (3, 224, 224)


def test_grey_among_colour_is_colour(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", mode="L")
    assert load(str(root)).shape == (1, 16, 16)
    Image.new("P", (16, 16)).save(root / "ant" / "000.png")
    Image.new("RGBA", (16, 16), (1, 2, 3, 0)).save(root / "ant" / "001.png")
    assert load(str(root)).shape == (3, 16, 16)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds almost nothing."""
    file = io.BytesIO()
    picture().save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">2I", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def _cut(path: Path) -> None:
    Image.fromarray(rng().integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:300])


def _gif(path: Path) -> None:
    picture().save(path, "GIF")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "ant" / "x.png").write_bytes(b"nothing"), "to be a PNG, JPEG, WEBP or BMP image, got a broken"),
        (lambda r: _gif(r / "ant" / "x.png"), "'ant/x.png' to be a PNG, JPEG, WEBP or BMP image"),
        (lambda r: _gif(r / "ant" / "x.gif"), "expected PNG, JPEG, WEBP or BMP files in 'ant', got 'x.gif'"),
        (lambda r: (r / "ant" / "more").mkdir(), "files in 'ant', got 'more'"),
        (lambda r: os.mkfifo(r / "ant" / "x.png"), "files in 'ant', got 'x.png'"),
        (lambda r: (r / "ant" / "x.png").write_bytes(_png_header(9_000, 9_000)), "64,000,000 pixels, got 9000x9000"),
        (lambda r: (r / "ant" / "x.png").write_bytes(_png_header(60_000, 60_000)), "got one of too many pixels"),
        (lambda r: _cut(r / "ant" / "000.png"), "expected a complete image, got 'ant/000.png'"),
        (lambda r: picture(size=(16, 4)).save(r / "ant" / "x.png"), "at least 8x8 pixels, got 16x4 in 'ant/x.png'"),
        (lambda r: Image.new("I;16", (16, 16)).save(r / "ant" / "x.png"), "8 bits a channel, got mode I;16"),
        (lambda r: (r / "ant" / "x.png").symlink_to("/etc/hostname"), "link 'x.png' that leads out of it"),
        (lambda r: (r / "ant" / "x.png").symlink_to("x.png"), ", got "),
        (lambda r: (r / "cat").symlink_to("/etc"), "link 'cat' that leads out of it"),
        (lambda r: (r / "cat").mkdir(), "expected at least 3 training images of each class"),
        (lambda r: (r / "train").mkdir(), "training images of each class, for train, pool and test, got 0 of 'train'"),
        (
            lambda r: [(r / p).mkdir() for p in ("train", "test")],
            "nothing beside train and test in 'own', got the folder",
        ),
        (lambda r: (r / "ant" / "a\nb.txt.exe").write_bytes(b""), "got 'a\\nb.txt.exe'"),
        (lambda r: (r / "a\nt").mkdir(), "printable characters, got 'a\\nt'"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = folder(tmp_path / "own")
    change(root)
    assert message in refusal(lambda: load(str(root)))


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    assert "at least 2 class folders, got 0" in refusal(lambda: load(str(tmp_path)))
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    assert "expected images in the class folders" in refusal(lambda: load(str(tmp_path)))
    root = tmp_path / "divided"
    folder(root / "train")
    folder(root / "test")
    (root / "test" / "wasp").mkdir()
    assert "got the unknown class 'wasp'" in refusal(lambda: load(str(root)))


def test_limits_on_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "own")
    assert "expected side between 8 and 224, got 225" in refusal(lambda: own.load(root, side=225))
    monkeypatch.setattr(own_folder, "MAX_BYTES", 10_000)
    assert "choose a smaller side" in refusal(lambda: load(str(root)))
    monkeypatch.setattr(own_folder, "MAX_FILE_BYTES", 20)
    assert "at most 20 bytes" in refusal(lambda: load(str(root)))
    monkeypatch.undo()
    monkeypatch.setattr(own_folder, "MAX_IMAGES", 5)
    assert "at most 5 images" in refusal(lambda: load(str(root)))


def test_links_inside_the_folder_are_fine(tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    (root / "ant" / "again.png").symlink_to("000.png")
    (tmp_path / "link").symlink_to(root)
    assert len(load(str(tmp_path / "link")).train) == 15


# ---- real data, where it is there -----------------------------------------------------------------------------


@pytest.mark.skipif("UNMASK_TEST_NPZ" not in os.environ, reason="UNMASK_TEST_NPZ names no .npz")
def test_a_real_npz() -> None:
    data = load(os.environ["UNMASK_TEST_NPZ"])
    assert len(data.train) > len(data.pool) >= len(data.classes)
    assert disjoint(data)
