"""A picture of one's own on the upload page: the answers, what a defender sees of them, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import demos
from engine.runs import ask
from tests.app import fake
from tests.app.test_open_view import open_page, uploaded
from tests.app.test_views import delivered, words

Asked = list[dict[str, Any]]
SURE = np.full(10, 0.01) + np.eye(10)[8] * 0.9
STAMPED = np.full(10, 0.001) + np.eye(10)[0] * 0.57621


def png(*shape: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What the warm worker would say; its figures of the trigger are there even if nobody asked for them."""
    seen = question["suspect"] != "demo:clean"
    after = np.roll(SURE, 1).tolist() if question["cut"] else None
    return {
        "clean": base64.b64encode(png(28, 28)).decode(), "p_clean": SURE.tolist(), "p_clean_cut": after,
        "triggered": base64.b64encode(png(29, 29)).decode() if seen else None,
        "p_triggered": STAMPED.tolist() if seen else None, "p_triggered_cut": after if seen else None,
    }  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A worker that answers at once; what it was asked."""
    shipped = tmp_path_factory.mktemp("demos")
    fake.build(shipped, {"badnets": fake.Figures(), "clean": fake.Figures(0.934, None, None)}, ("rnp",))
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    found: Asked = []
    monkeypatch.setattr(ask, "ask", lambda question, _session: found.append(json.loads(json.dumps(question))))
    monkeypatch.setattr(
        ask, "poll", lambda _session, _kind: ask.Answer(found[-1], "exact", value=answer(found[-1])) if found else None
    )
    return found


def test_a_picture_is_answered_with_and_without_the_trigger_and_the_cut(asked: Asked) -> None:
    at = open_page(run="demo:badnets", edits="bn1:3!", thr="none")
    assert "Try a picture on BadNets" in [h.value for h in at.header]
    assert asked == []
    uploaded(at, "Picture", "mine.png", png(60, 40, 3))
    assert not at.error
    (question,) = asked
    assert {k: v for k, v in question.items() if k != "picture"} == {
        "kind": "stranger", "suspect": "demo:badnets", "cut": [3], "mode": "scale", "triggered": True,
    }  # fmt: skip
    assert base64.b64decode(question["picture"]).startswith(b"\x89PNG")
    said = words(at)
    assert "your picture at 28 \u00d7 28 pixels, answered as Bag with 91.0\u202f% confidence" in said
    assert "changed from Bag" in said
    assert "57.7\u202f%" in said
    assert "1 unit cut" in said
    assert "scaled to their size (bilinear, smoothed); grey is luminance" in said


def test_a_defender_sees_nothing_of_the_trigger_until_the_commit(asked: Asked) -> None:
    at = open_page(run="demo:badnets", role="defender")
    uploaded(at, "Picture", "mine.png", png(28, 28))
    assert [question["triggered"] for question in asked] == [False]
    assert "With the trigger: hidden in the Defender view." in words(at)
    assert not [number for number in ("57.7", "0.577") if number in delivered(at)]
    at.session_state["defended"] = {"demo:badnets"}
    at.run()
    assert asked[-1]["triggered"]
    assert "57.7\u202f%" in words(at)


def test_a_model_without_a_trigger_says_so(asked: Asked) -> None:
    at = open_page(run="demo:clean", role="oracle")
    uploaded(at, "Picture", "mine.png", png(28, 28))
    assert "This model has no trigger." in words(at)


@pytest.mark.parametrize("data", [b"no picture at all", png(28, 28)[:60], b"GIF89a"])
def test_what_is_no_picture_is_one_line_and_nobody_is_asked(data: bytes, asked: Asked) -> None:
    at = open_page(run="demo:badnets")
    uploaded(at, "Picture", "<b>evil</b>.png", data)
    (line,) = [e.value for e in at.error]
    assert "xpected a complete PNG, JPEG, WEBP or BMP picture, got something else" in line
    assert "\n" not in line
    assert asked == []
    # Another one takes its place.
    uploaded(at, "Picture", "mine.png", png(28, 28))
    assert not at.error
    assert len(asked) == 1


def test_an_error_of_the_worker_is_a_line_with_a_way_on(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    at = open_page(run="demo:badnets")
    monkeypatch.setattr(
        ask, "poll", lambda _s, _k: ask.Answer(asked[-1], "error", error="expected luck") if asked else None
    )
    uploaded(at, "Picture", "mine.png", png(28, 28))
    assert [e.value for e in at.error] == ["Expected luck."]
    at.button(key="again-stranger").click().run()
    assert len(asked) == 2


def test_only_answers_to_the_present_picture_are_kept(asked: Asked) -> None:
    at = open_page(run="demo:badnets")
    for side in (20, 21, 22):
        uploaded(at, "Picture", f"{side}.png", png(side, side))
    kept = [a.question["picture"] for a in at.session_state["answers"].values() if "picture" in a.question]
    assert kept == [asked[-1]["picture"]]
    assert len(asked) == 3
    # Put away, it is gone; a picture is not lost by looking at another page.
    at.switch_page("views/prune.py").run()
    at.switch_page("views/open.py").run()
    assert "answered as Bag" in words(at)
    at.button(key="stranger-away").click().run()
    assert not at.exception
    assert "answered as Bag" not in words(at)
    assert "stranger-away" not in [b.key for b in at.button]
