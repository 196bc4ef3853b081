"""The load benchmark's short version: a few visitors at once get every page and every answer. No times are asserted."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from app import panels
from engine.paths import ROOT
from engine.runs import ask
from tests.app.browser import alone, server
from tests.benchmarks import load
from tests.benchmarks.visitor import Lost, Visitor


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    return tmp_path


def test_four_visitors_look_and_two_ask(room: Path) -> None:
    with server(ROOT / "app" / "main.py", {"UNMASK_HOME": str(room)}) as url:
        seen = alone(load.crowd(load.look, 4, url, 2, 0.1))
        assert (seen.lost, seen.errors) == ([], [])
        assert (len(seen.opened), len(seen.reruns)) == (4, 8)
        try:
            # Two cuts by two visitors: whoever asks second does not take the first one's answer away.
            seen = alone(load.crowd(partial(load.wonder, exact=False), 2, url, 1, 0.1))
        finally:
            ask.stop()
        assert (seen.lost, seen.errors) == ([], [])
        assert len(seen.first) == 2

        async def nowhere() -> None:
            async with Visitor(url, "prune") as visitor:
                await visitor.open()
                with pytest.raises(ValueError, match="expected a widget 'nothing'"):
                    await visitor.click("nothing")
                with pytest.raises(Lost, match="within 0.1 s"):
                    await visitor.until(lambda: False, 0.1)

        alone(nowhere())


class Order(Visitor):
    """Remembers in which order the messages of the page came."""

    def _take(self, message: ForwardMsg) -> None:
        self.kinds = [*getattr(self, "kinds", []), message.WhichOneof("type")]
        super()._take(message)


def test_a_page_is_whole_before_it_is_looked_at_again(room: Path) -> None:
    """A look while the page is still being drawn can make Streamlit drop the page's last messages."""

    async def ask_and_watch(url: str) -> list[str]:
        async with Order(url, "prune", f"run={load.DEMO}") as visitor:
            await visitor.open()
            await visitor.toggle("check-always", True)
            visitor.kinds = []
            await load.drag(visitor, random.Random(0), load.scores())
            return visitor.kinds

    with server(ROOT / "app" / "main.py", {"UNMASK_HOME": str(room)}) as url:
        try:
            kinds = alone(ask_and_watch(url))
        finally:
            ask.stop()
    assert "auto_rerun" in kinds
    after = kinds[len(kinds) - kinds[::-1].index("auto_rerun") :]
    assert kinds.count("auto_rerun") == 1
    assert after.count("delta") <= 8  # the fragment itself
    assert kinds.count("delta") > 20


def test_pages_look_less_often_while_many_wait(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_asked", type(ask._asked)())
    monkeypatch.setattr(ask, "_deliver", lambda asked, session: None)
    assert panels.pace() == pytest.approx(0.35)
    for k in range(60):
        ask.ask({"kind": "check"}, f"session {k}")
    assert panels.pace() == pytest.approx(1.8)
    for asked in list(ask._asked.values())[:55]:
        asked.looked -= 11  # a page that was closed looks no more
    assert panels.pace() == pytest.approx(0.35)
