"""A picture of one's own: how it becomes what the network sees, and what the suspect answers to it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.compute import Compute
from engine.data.base import DataSet
from engine.intake import desk, uploads
from engine.intake.limits import Refused
from engine.models import build
from engine.questions import Questions
from tests.engine.test_ask import decode, suspect_like, value
from tests.engine.test_intake_desk import handed, home  # noqa: F401 (a workspace of its own)
from tests.tiny import Planted


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def given(pixels: np.ndarray) -> str:
    """A picture as the intake writes it anew, without the process that decodes strangers' files."""
    return base64.b64encode(encoded(pixels)).decode()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name), compute)


# --- from a file to what the network sees ----------------------------------------------------------------------------


def test_a_picture_that_has_the_size_of_the_data_is_left_as_it_is() -> None:
    for pixels in (noise(12, 12), noise(12, 12, 3)):
        written = uploads.picture(encoded(pixels))
        shape = (3 if pixels.ndim == 3 else 1, 12, 12)
        assert np.array_equal(uploads.fitted(written, shape), np.atleast_3d(pixels).transpose(2, 0, 1))


def test_grey_is_luminance_and_a_grey_picture_has_three_equal_colours() -> None:
    pixels = noise(9, 9, 3)
    grey = uploads.fitted(given(pixels), (1, 9, 9))[0]
    assert np.abs(grey - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 1
    flat = noise(9, 9)
    assert np.array_equal(uploads.fitted(given(flat), (3, 9, 9)), np.stack([flat] * 3))


def test_the_largest_centred_part_is_scaled_and_smoothed() -> None:
    wide = np.zeros((40, 120), np.uint8)
    wide[:, 40:80:2] = 200  # stripes of one pixel, in the middle square only
    found = uploads.fitted(given(wide), (1, 10, 10))[0]
    assert found[:, 1:-1].min() > 80  # without smoothing some would be 0 and some 200
    assert found.max() < 120
    tall = np.zeros((90, 10), np.uint8)
    tall[28:62] = 255
    assert uploads.fitted(given(tall), (1, 4, 2)).min() == 255  # data that is no square keeps its proportions


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (3, 1500), (2, 2)])
def test_tiny_and_narrow_pictures(shape: tuple[int, ...]) -> None:
    found = uploads.fitted(uploads.picture(encoded(np.full(shape, 77, np.uint8))), (3, 12, 12))
    assert found.shape == (3, 12, 12)
    assert set(found.ravel()) == {77}


def test_a_large_picture_becomes_a_small_question() -> None:
    written = uploads.picture(encoded(noise(1300, 1100, 3), "BMP"))
    assert len(base64.b64decode(written)) <= uploads.MAX_QUESTION_BYTES
    height, width = decode(written).shape[:2]
    assert (height, width) == (512, 433)  # noise: a PNG of 1,024 pixels a side would be too large
    flat = uploads.picture(encoded(np.full((1300, 1100), 9, np.uint8)))
    assert decode(flat).shape == (1024, 866)


def test_the_desk_keeps_nothing_of_a_picture(home: Any) -> None:  # noqa: F811
    raw = encoded(noise(20, 20, 3), "BMP")
    look = handed("good", "picture", io.BytesIO(raw))
    assert (look.state, look.path) == ("done", None)
    assert look.value is not None
    assert base64.b64decode(look.value["png"]).startswith(b"\x89PNG")
    assert np.array_equal(decode(look.value["png"]), noise(20, 20, 3))
    bad = handed("bad", "picture", io.BytesIO(b"GIF89a, or so"))
    assert bad.state == "refused"
    assert bad.error == "expected a complete PNG, JPEG, WEBP or BMP picture, got something else in 'the picture'"
    assert not (home / "uploads").exists()
    assert desk.LIMITS["picture"] == 20 * 2**20


# --- what is answered ------------------------------------------------------------------------------------------------


def test_a_test_picture_that_is_uploaded_is_answered_as_by_its_number(asker: Questions, planted: Planted) -> None:
    picture = uploads.picture(encoded(planted.data.test.x[6, 0].numpy()))
    question = {"kind": "stranger", "picture": picture, "mode": "scale"}
    for cut in ([], [planted.unit]):
        (known,) = value(asker, kind="pictures", numbers=[6], cut=cut, mode="scale")["items"]
        found = value(asker, **question, cut=cut)
        end = "_cut" if cut else ""
        for kind in ("clean", "triggered"):
            assert found[kind] == known[kind]
            assert found[f"p_{kind}{end}"] == known[f"p_{kind}"]
    uncut = value(asker, **question, cut=[])
    assert uncut["p_triggered_cut"] is uncut["p_clean_cut"] is None
    assert int(np.argmax(found["p_triggered"])) == planted.attack.target != int(planted.data.test.y[6])
    assert found["p_triggered_cut"] != found["p_triggered"]
    blind = value(asker, **question, cut=[planted.unit], triggered=False)
    assert blind == {**found, "triggered": None, "p_triggered": None, "p_triggered_cut": None}


def test_colour_data_and_no_trigger(planted: Planted, compute: Compute) -> None:
    model = build("cnn4", classes=4, channels=3, width=4, rng=torch.Generator().manual_seed(0)).net
    x, y = planted.data.test.x.repeat(1, 3, 1, 1), planted.data.test.y
    parts = type(planted.data.test).of(x, y)
    data = DataSet("colour", planted.data.classes, (3, 12, 12), lambda _part: parts)
    asker = Questions(lambda name, _c: suspect_like(planted, name, model=model, data=data, attack=None), compute)
    found = value(asker, kind="stranger", picture=given(noise(30, 20)), cut=[], mode="scale")
    assert decode(found["clean"]).shape == (12, 12, 3)
    assert sum(found["p_clean"]) == pytest.approx(1, abs=1e-4)
    assert found["triggered"] is found["p_triggered"] is None


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("", "expected a complete PNG picture, got something else"),
        ("\u00e9\n\u2028", "expected a picture in base64, got something else"),
        ("A", "expected a picture in base64, got something else"),
        ("QUJD", "expected a complete PNG picture, got something else"),
        (base64.b64encode(encoded(noise(9, 9), "BMP")).decode(), "expected a complete PNG picture, got something else"),
        (given(noise(9, 9))[:-40], "expected a complete PNG picture, got something else"),
        (given(np.zeros((1025, 1024), np.uint8)), "expected at most 1,048,576 pixels, got 1024x1025"),
        ("A" * 1_400_000, "expected a picture of at most 1,398,104 characters in base64, got 1,400,000"),
    ],
    ids=["empty", "no ascii", "odd", "no picture", "another format", "torn", "too many pixels", "too long"],
)
def test_what_the_intake_did_not_write_is_refused_in_one_line(asker: Questions, picture: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        value(asker, kind="stranger", picture=picture, cut=[], mode="scale")
    assert str(caught.value) == message


def test_an_unknown_unit_is_refused(asker: Questions) -> None:
    with pytest.raises(ValueError, match="expected units between 0 and 23, got 24"):
        value(asker, kind="stranger", picture=given(noise(9, 9)), cut=[24], mode="scale")
