"""The warm worker: whose turn it is, what it answers, and how it starts, dies and comes back."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import questions
from engine.compute import Compute
from engine.explain.activations import mean_outputs
from engine.explain.feature_maps import unit_maps
from engine.metrics import TestSet, answers, paired_interval
from engine.models import build
from engine.models.masking import masked
from engine.questions import Questions, histogram, png
from engine.runs import ask as client
from engine.runs.ask import Answer, ask, poll
from engine.runs.ask_server import Desk
from engine.runs.store import Run, new_run, open_run
from tests.tiny import Planted

# --- the desk -------------------------------------------------------------------------------------------------------


def counting(log: list[str], steps: int = 3) -> Any:
    def handler(question: dict[str, Any]) -> Iterator[Answer]:
        for k in range(steps):
            log.append(question["name"])
            yield Answer(question, "exact" if k == steps - 1 else "working", share=k / steps)

    return handler


def test_sessions_are_served_in_turn_and_one_cannot_crowd_out_another() -> None:
    desk, log = Desk(), []
    for kind in ("check", "unit", "pictures"):
        desk.ask("a", {"kind": kind, "name": f"a {kind}"})
    desk.ask("b", {"kind": "check", "name": "b"})
    desk.work(counting(log), idle=0)
    assert {*log[:6]} == {"a check", "b"}
    assert [name[0] for name in log[:6]].count("b") == 3
    assert sorted(log) == sorted(["a check", "a unit", "a pictures", "b"] * 3)
    assert desk.poll("b", "check") == Answer({"kind": "check", "name": "b"}, "exact", share=2 / 3)
    assert desk.closed
    assert not desk.ask("a", {"kind": "check"})


def test_first_figures_come_before_exact_ones_and_exact_ones_come_all_the_same() -> None:
    desk, log = Desk(), []

    def handler(question: dict[str, Any]) -> Iterator[Answer]:
        for k in range(8):
            log.append(question["name"])
            time.sleep(0.002)
            yield Answer(question, "estimate", value={"k": k}) if k else Answer(question, "working")
        yield Answer(question, "exact", value={})

    desk.ask("long", {"kind": "check", "name": "long"})
    worker = threading.Thread(target=desk.work, args=(handler,), kwargs={"idle": 0})
    for k in range(20):
        desk.ask(f"new {k}", {"kind": "check", "name": f"new {k}"})
    worker.start()
    worker.join()
    begun = [log.index(name) for name in {*log}]
    # 21 questions of nine steps, two of which lead to figures: they are there long before the exact answers are.
    second = [[k for k, name in enumerate(log) if name == one][1] for one in {*log}]
    assert max(second) < 70
    ends = [max(k for k, name in enumerate(log) if name == one) for one in {*log}]
    assert len(log) == 21 * 8
    assert min(ends) > max(begun)


def test_the_newest_question_wins_and_the_older_one_is_given_up() -> None:
    desk, log = Desk(), []

    def handler(question: dict[str, Any]) -> Iterator[Answer]:
        for k in itertools.count():
            log.append(question["name"])
            if question["name"] == "old" and k == 2:
                desk.ask("a", {"kind": "check", "name": "new"})
            yield Answer(question, "exact" if question["name"] == "new" else "estimate")

    desk.ask("a", {"kind": "check", "name": "old"})
    desk.work(handler, idle=0)
    assert log == ["old", "old", "old", "new"]
    answer = desk.poll("a", "check")
    assert answer is not None
    assert (answer.state, answer.question["name"]) == ("exact", "new")


def test_whatever_goes_wrong_is_one_line_and_the_next_question_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    def handler(question: dict[str, Any]) -> Iterator[Answer]:
        if question["name"] == "bad":
            raise ValueError("expected this,\n got that")
        if question["name"] == "bug":
            raise KeyError("lost\nkey")
        if question["name"] == "good":
            yield Answer(question, "exact", value={})

    desk = Desk()
    for name in ("bad", "bug", "silent", "good"):
        desk.ask(name, {"kind": "check", "name": name})
    desk.work(handler, idle=0)
    found = {name: desk.poll(name, "check") for name in ("bad", "bug", "silent", "good")}
    assert all(answer is not None and answer.final for answer in found.values())
    assert [answer.error for answer in found.values() if answer] == [
        "expected this, got that",
        "KeyError: 'lost\\nkey'",
        "the question has no answer",
        None,
    ]
    assert "Traceback" in capsys.readouterr().err


def test_the_desk_closes_when_nobody_asks() -> None:
    desk = Desk()
    start = time.monotonic()
    desk.work(counting([]), idle=0.2)
    assert 0.15 < time.monotonic() - start < 5
    assert desk.closed
    assert desk.poll("nobody", "check") is None


def test_old_answers_are_forgotten_and_open_questions_are_not() -> None:
    desk = Desk()
    desk.ask("open", {"kind": "unit", "name": ""})
    worker = threading.Thread(target=desk.work, args=(counting([], steps=1),))
    for k in range(300):
        desk.ask(f"session {k}", {"kind": "check", "name": ""})
    assert desk.poll("session 0", "check") is not None  # nothing has been answered yet
    worker.start()
    while not all((answer := desk.poll(f"session {k}", "check")) and answer.final for k in range(300)):
        time.sleep(0.01)
    desk.ask("last", {"kind": "check", "name": ""})
    desk.close()
    worker.join()
    assert desk.poll("session 0", "check") is None
    assert desk.poll("session 299", "check") is not None


# --- the questions --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name), compute)


def suspect_like(planted: Planted, name: str, **changes: Any) -> Any:
    run = SimpleNamespace(has=lambda _name: False, result={})
    values = {"model": copy.deepcopy(planted.model), "data": planted.data, "attack": planted.attack}
    return SimpleNamespace(name=name, run=run, stamped=None, **{**values, **changes})


def states(asker: Questions, **question: Any) -> list[Answer]:
    found = list(asker.answer({"suspect": "somewhere", **question}))
    assert found[-1].final
    assert not any(answer.final for answer in found[:-1])
    for answer in found:
        assert answer.question == {"suspect": "somewhere", **question}
        json.dumps(answer.value, allow_nan=False)
    return found


def value(asker: Questions, **question: Any) -> dict[str, Any]:
    last = states(asker, **question)[-1].value
    assert last is not None
    return last


@pytest.mark.parametrize("mode", ["scale", "silence"])
def test_check_is_the_brute_force_answer(asker: Questions, planted: Planted, compute: Compute, mode: Any) -> None:
    found = value(asker, kind="check", cut=[planted.unit, 3], mode=mode)
    test = TestSet.of(planted.data.test, planted.attack)
    cut = torch.zeros(24, dtype=torch.bool)
    cut[[planted.unit, 3]] = True
    before = answers(planted.model, test, compute)
    with masked(planted.model, cut, mode):
        after = answers(planted.model, test, compute)
    assert found["pruned"] == 2
    assert after.asr is not None
    assert after.ra is not None
    for key, share in (("acc", after.acc), ("asr", after.asr), ("ra", after.ra)):
        assert found[key] == {"value": share.value, "n": share.n, "low": share.low, "high": share.high}
    low, high = paired_interval(before.correct, after.correct)
    assert found["drop"]["value"] == pytest.approx(before.acc.value - after.acc.value)
    assert (found["drop"]["low"], found["drop"]["high"]) == (low, high)
    for c, acc in enumerate(found["per_class"]):
        assert acc == pytest.approx(float(after.correct[planted.data.test.y == c].float().mean()))


def test_an_estimate_comes_first_and_every_batch_says_how_far(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "GLANCE", 100)
    monkeypatch.setattr(questions, "FIRST", 100)
    monkeypatch.setattr(questions, "SLICE", 30)
    suspect = suspect_like(planted, "x")
    before = copy.deepcopy(suspect.model.state_dict())
    asker = Questions(lambda _name, _compute: suspect, compute)
    seen = []
    for answer in asker.answer({"kind": "check", "suspect": "x", "cut": [planted.unit], "mode": "scale"}):
        seen.append(answer)
        # Between any two steps another question may come: the model must be as it was.
        assert all(torch.equal(v, before[k]) for k, v in suspect.model.state_dict().items())
    order = [answer.state for answer in seen]
    assert order == sorted(order, key=["working", "estimate", "exact"].index)
    assert {"working", "estimate", "exact"} == set(order)
    shares = [answer.share for answer in seen[1:] if answer.share is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    estimate = next(answer.value for answer in seen if answer.state == "estimate")
    assert estimate is not None
    assert (estimate["acc"]["n"], estimate["asr"]["n"]) == (100, 100)
    with masked(planted.model, torch.arange(24) == planted.unit):
        head = answers(planted.model, TestSet.of(planted.data.test, planted.attack).head(100), compute)
    assert head.asr is not None
    assert (estimate["acc"]["value"], estimate["asr"]["value"]) == (head.acc.value, head.asr.value)
    # Asked again, also in another order of the units, it is remembered.
    again = list(asker.answer({"kind": "check", "suspect": "x", "cut": [planted.unit] * 2, "mode": "scale"}))
    assert [answer.state for answer in again] == ["working", "exact"]
    assert again[-1].value == seen[-1].value


def test_a_glance_comes_before_the_estimate(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "GLANCE", 25)
    monkeypatch.setattr(questions, "FIRST", 100)
    asker = Questions(lambda name, _compute: suspect_like(planted, name), compute)
    found = states(asker, kind="check", cut=[planted.unit], mode="scale")
    numbers = [answer.value["acc"]["n"] for answer in found if answer.value]
    assert sorted(set(numbers)) == [25, 100, 400]
    assert numbers == sorted(numbers)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each whole pass from now on is asked about; the list grows."""
    asked: list[int] = []
    logits = Compute.logits

    def count(self: Compute, model: Any, x: Any) -> Any:
        asked.append(len(x))
        return logits(self, model, x)

    monkeypatch.setattr(Compute, "logits", count)
    return asked


def test_whoever_asks_the_same_goes_on_where_the_other_one_is(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SLICE", 40)
    asked = counted(monkeypatch)
    asker = Questions(lambda name, _compute: suspect_like(planted, name), compute)
    question = {"kind": "check", "suspect": "x", "cut": [planted.unit, 5], "mode": "scale"}
    alone = list(asker.answer({**question, "cut": [5, 6]}))[-1]
    uncut = len(planted.data.test)  # the first check also asks the uncut model
    assert alone.value is not None
    once, asked[:] = sum(asked) - uncut, []
    first, second = asker.answer(question), asker.answer(question)
    last: list[Answer] = []
    for one, other in itertools.zip_longest(first, second):
        last += [answer for answer in (one, other) if answer is not None and answer.final]
    assert sum(asked) == once
    assert len(last) == 2
    assert last[0].value == last[1].value
    # One that was given up in the middle is not begun anew either.
    asked.clear()
    given_up = asker.answer({**question, "cut": [7]})
    for _ in range(6):
        next(given_up)
    assert list(asker.answer({**question, "cut": [7]}))[-1].final
    assert sum(asked) == once


def test_nothing_cut_drops_nothing(asker: Questions) -> None:
    found = value(asker, kind="check", cut=[], mode="scale")
    assert found["drop"] == {"value": 0, "low": 0, "high": 0}
    assert found["asr"]["value"] > 0.9


def test_a_suspect_without_a_trigger_has_no_asr(planted: Planted, compute: Compute) -> None:
    asker = Questions(lambda name, _c: suspect_like(planted, name, attack=None), compute)
    found = value(asker, kind="check", cut=[1], mode="scale")
    assert found["asr"] is None
    assert found["ra"] is None
    item = value(asker, kind="pictures", numbers=[0], cut=[], mode="scale")["items"][0]
    assert item["triggered"] is item["difference"] is item["p_triggered"] is None
    unit = value(asker, kind="unit", unit=3, number=0)
    assert unit["map_triggered"] is unit["hist"]["triggered"] is None
    assert value(asker, kind="activations")["triggered"] is None
    assert value(asker, kind="attribution", unit=3, number=0, method="neuron_gradient")["triggered"] is None


def test_pictures(asker: Questions, planted: Planted, compute: Compute) -> None:
    items = value(asker, kind="pictures", numbers=[7, 2], cut=[], mode="scale")["items"]
    assert [item["number"] for item in items] == [7, 2]
    clean, triggered, difference = (decode(items[0][key]) for key in ("clean", "triggered", "difference"))
    assert np.array_equal(clean, planted.data.test.x[7, 0].numpy())
    assert triggered[8:11, 8:11].tolist() == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert np.array_equal(triggered[:8], clean[:8])
    assert set(difference[:8].ravel()) == {128}
    assert items[0]["truth"] == int(planted.data.test.y[7])
    x = planted.attack.trigger(planted.data.test.x[7:8].float() / 255)
    assert items[0]["p_triggered"] == pytest.approx(compute.logits(planted.model, x).softmax(1)[0].tolist(), abs=1e-5)
    assert sum(items[0]["p_clean"]) == pytest.approx(1, abs=1e-4)
    with_cut = value(asker, kind="pictures", numbers=[7], cut=[planted.unit], mode="scale")["items"][0]
    assert with_cut["p_triggered"] != items[0]["p_triggered"]
    assert value(asker, kind="pictures", numbers=[], cut=[], mode="scale") == {"items": []}


def decode(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_colour_pictures_keep_their_colours() -> None:
    picture = torch.tensor([1.0, 0.5, -0.2]).reshape(3, 1, 1).expand(3, 2, 4)
    assert decode(png(picture)).tolist() == [[[255, 128, 0]] * 4] * 2


def test_a_unit_with_its_map_and_histogram(asker: Questions, planted: Planted, compute: Compute) -> None:
    question = {"kind": "unit", "unit": planted.unit, "number": 5, "mode": "scale", "cut": []}
    fresh = value(asker, **question)
    assert (fresh["id"], fresh["layer"]) == (planted.unit_id, "bn2")
    expected = unit_maps(planted.model, planted.unit, planted.data.test.x[5:6], compute)[0]
    assert np.allclose(fresh["map_clean"], expected, atol=1e-5)
    assert fresh["map_triggered"] != fresh["map_clean"]
    assert sum(fresh["hist"]["clean"]) == sum(fresh["hist"]["triggered"]) == len(planted.data.pool)
    assert len(fresh["hist"]["edges"]) == len(fresh["hist"]["clean"]) + 1
    value(asker, kind="activations")  # from now on the means are resident
    assert value(asker, **question) == fresh
    cut = value(asker, **{**question, "cut": [planted.unit]})
    assert np.ptp(cut["map_clean"]) == 0


def test_a_defenders_answer_does_not_touch_the_trigger(asker: Questions, planted: Planted) -> None:
    unit = {"unit": planted.unit, "number": 5}
    whole = value(asker, kind="unit", **unit)
    found = value(asker, kind="unit", **unit, triggered=False)
    assert found["map_clean"] == whole["map_clean"]
    assert (found["map_triggered"], found["hist"]["triggered"]) == (None, None)
    # The planted unit answers the trigger far beyond any clean picture; the bins must not reach there.
    assert found["hist"]["edges"][-1] < whole["hist"]["edges"][-1]
    seen = value(asker, kind="attribution", method="layer_gradcam", **unit, triggered=False)
    assert (seen["triggered"], list(seen["explained"])) == (None, ["clean"])


def test_a_constant_unit_has_a_histogram() -> None:
    found = histogram(torch.full((5,), 2.0), torch.full((5,), 2.0))
    assert sum(found["clean"]) == sum(found["triggered"]) == 5


def test_activations_are_the_mean_outputs(asker: Questions, planted: Planted, compute: Compute) -> None:
    found = value(asker, kind="activations")
    expected = mean_outputs(planted.model, planted.data.pool.x, compute).mean(0)
    assert np.allclose(found["clean"], expected, atol=1e-4)
    change = np.array(found["triggered"]) - np.array(found["clean"])
    assert len(change) == 24
    assert change[planted.unit] > 0


def test_confusion_counts_every_answer_before_and_after(asker: Questions, planted: Planted, compute: Compute) -> None:
    found = value(asker, kind="confusion", cut=[planted.unit], mode="silence")
    test = TestSet.of(planted.data.test, planted.attack)
    cut = torch.zeros(24, dtype=torch.bool)
    cut[planted.unit] = True
    assert test.triggered is not None
    for name, x, truth in (("clean", test.clean.x, test.clean.y), ("triggered", test.triggered, test.truth)):
        for when, chosen in (("before", torch.zeros(24, dtype=torch.bool)), ("after", cut)):
            with masked(planted.model, chosen, "silence"):
                said = compute.logits(planted.model, x).argmax(1)
            counted = np.zeros((4, 4), int)
            for true, answer in zip(truth.tolist(), said.tolist(), strict=True):
                counted[true, answer] += 1
            assert found[name][when] == counted.tolist()
    assert np.array(found["triggered"]["before"])[:, planted.attack.target].sum() > 0.9 * len(test.triggered)
    assert np.array(found["triggered"]["after"])[:, planted.attack.target].sum() < 0.5 * len(test.triggered)
    blind = value(asker, kind="confusion", cut=[planted.unit], mode="silence", triggered=False)
    assert blind == {key: part for key, part in found.items() if key != "triggered"}


def test_an_estimate_of_the_confusion_comes_first_and_figures_of_the_same_cut_are_not_asked_for_again(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "GLANCE", 40)
    monkeypatch.setattr(questions, "FIRST", 100)
    monkeypatch.setattr(questions, "SLICE", 60)
    asked = counted(monkeypatch)
    suspect = suspect_like(planted, "x")
    before = copy.deepcopy(suspect.model.state_dict())
    asker = Questions(lambda _name, _compute: suspect, compute)
    seen = []
    for answer in asker.answer({"kind": "confusion", "suspect": "x", "cut": [1, planted.unit], "mode": "scale"}):
        seen.append(answer)
        assert all(torch.equal(v, before[k]) for k, v in suspect.model.state_dict().items())
    order = [answer.state for answer in seen]
    assert order == sorted(order, key=["working", "estimate", "exact"].index)
    sums = {(np.array(a.value["clean"][w]).sum(), np.array(a.value["triggered"][w]).sum())
            for a in seen if a.value for w in ("before", "after")}  # fmt: skip
    stamped = int((planted.data.test.y != planted.attack.target).sum())
    assert sums == {(40, 40), (100, 100), (400, stamped)}
    # Unit 1 lies in the first half of the network, so every pass but the uncut ones is a whole one.
    asked.clear()
    (check,) = [a for a in asker.answer({"kind": "check", "suspect": "x", "cut": [1, planted.unit]}) if a.final]
    assert check.value is not None
    assert sum(asked) == len(planted.data.test), "only the uncut model, of which the check wants to know"
    matrix = np.array(seen[-1].value["clean"]["after"])  # type: ignore[index]
    assert check.value["acc"]["value"] == pytest.approx(np.trace(matrix) / matrix.sum())
    asked.clear()
    list(asker.answer({"kind": "confusion", "suspect": "x", "cut": [1, planted.unit], "mode": "scale"}))
    list(asker.answer({"kind": "what_if", "suspect": "x", "cut": [1, planted.unit], "mode": "scale"}))
    assert asked == []


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"kind": "check", "cut": [24]}, "expected units between 0 and 23, got 24"),
        ({"kind": "check", "cut": [-1]}, "expected units between 0 and 23, got -1"),
        ({"kind": "check", "cut": ["a"]}, "expected cut.0 to be a valid integer"),
        ({"kind": "check", "cut": [], "mode": "melt"}, "expected mode to be 'scale' or 'silence', got 'melt'"),
        ({"kind": "check"}, "expected a value for cut, got none"),
        ({"kind": "check", "cut": [], "colour": 1}, "unknown setting 'colour'"),
        ({"kind": "pictures", "cut": [], "numbers": [400]}, "expected a test image between 0 and 399, got 400"),
        ({"kind": "pictures", "cut": [], "numbers": [0] * 999}, "expected at most 256 pictures, got 999"),
        ({"kind": "unit", "unit": 24, "number": 0}, "expected a unit between 0 and 23, got 24"),
        ({"kind": "attribution", "unit": 0, "number": 0, "method": "magic"}, "expected method to be one of"),
        ({"kind": "commit", "cut": [99], "role": "defender"}, "expected units between 0 and 23, got 99"),
        ({"kind": "commit", "cut": [], "role": "judge"}, "expected role to be 'defender' or 'oracle', got 'judge'"),
        ({"kind": "dance"}, "expected kind to be one of check"),
    ],
)
def test_bad_questions_are_refused_in_one_line(asker: Questions, question: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        list(asker.answer({"suspect": "somewhere", **question}))
    assert "\n" not in str(caught.value)


def test_two_suspects_are_kept(planted: Planted, compute: Compute, tmp_path: Path, monkeypatch) -> None:
    loaded: list[str] = []

    def load(name: str, _compute: Compute) -> Any:
        loaded.append(Path(name).name)
        return suspect_like(planted, name)

    asker = Questions(load, compute)

    def look(name: str) -> None:
        list(asker.answer({"kind": "pictures", "suspect": str(tmp_path / name), "numbers": [0], "cut": []}))

    for name in ("a", "b", "a", "b", "c", "b", "a"):
        look(name)
    assert loaded == ["a", "b", "c", "a"]
    # Files that changed are read again.
    (tmp_path / "a").mkdir()
    for name in ("manifest.json", "model.safetensors"):
        (tmp_path / "a" / name).write_text("1")
    look("a")
    look("a")
    assert loaded == ["a", "b", "c", "a", "a"]
    # What is too large for the cache is not kept.
    monkeypatch.setattr(questions, "BYTES", 1000)
    look("d")
    look("d")
    assert loaded[-2:] == ["d", "d"]


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    client.stop()


@pytest.fixture(scope="module")
def suspect(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of an untrained ResNet on the planted data, as the attack command writes it."""
    folder = tmp_path_factory.mktemp("suspect")
    data = planted.data
    np.savez(
        folder / "shapes.npz",
        x_train=data.train.x.permute(0, 2, 3, 1).numpy(),
        y_train=data.train.y.numpy(),
        x_test=data.test.x.permute(0, 2, 3, 1).numpy(),
        y_test=data.test.y.numpy(),
    )
    spec = {
        "kind": "attack",
        "data": str(folder / "shapes.npz"),
        "model": {"name": "resnet18", "width": 4},
        "attack": {"name": "badnets", "params": planted.attack.model_dump(mode="json")},
        "training": {},
        "seed": 0,
    }
    model = build("resnet18", classes=4, channels=1, width=4, rng=torch.Generator().manual_seed(0))
    with new_run(spec, {}, folder / "run") as draft:
        draft.arrays("model", {k: v.numpy() for k, v in model.state_dict().items()})
        draft.result = {"acc": 0.25, "precision": "none"}
    return open_run(folder / "run")


def wait(session: str, kind: str, *states: str, seconds: float = 60) -> Answer:
    deadline = time.monotonic() + seconds
    while True:
        answer = poll(session, kind)
        assert answer is not None
        if answer.state in (states or ("exact", "error")):
            return answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)


def server(home: Path) -> dict[str, Any]:
    return json.loads((home / "ask" / "server.json").read_text())


def test_the_first_question_starts_the_worker_and_is_answered(home: Path, suspect: Run) -> None:
    assert poll("me", "check") is None
    question = {"kind": "check", "suspect": str(suspect.folder), "cut": [3, 1], "mode": "scale"}
    start = time.monotonic()
    ask(question, "me")
    assert time.monotonic() - start < 2  # it does not wait for the worker
    first = poll("me", "check")
    assert first is not None
    assert first.state == "starting"
    answer = wait("me", "check")
    assert answer.error is None
    assert answer.value is not None
    assert (answer.value["pruned"], answer.value["acc"]["n"], answer.question) == (2, 400, question)
    # Others are served by the same worker, and strangers are not.
    me = server(home)
    assert str(home.resolve() / "ask") not in client._starting
    assert os.stat(home / "ask" / "server.json").st_mode & 0o077 == 0
    ask({"kind": "activations", "suspect": str(suspect.folder)}, "you")
    assert len((wait("you", "activations").value or {})["clean"]) == 4 * (5 + 2 * 5 + 4 * 5 + 8 * 5)
    assert poll("you", "check") is None
    stranger = {**me, "token": "guessed"}
    assert client._request(stranger, {"op": "poll", "session": "me", "kind": "check"}) == {"error": "wrong token"}
    with socket.create_connection(("127.0.0.1", me["port"]), 5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(100) == b""
    assert server(home) == me
    # Questions and polls are cheap now.
    times = []
    for k in range(20):
        start = time.perf_counter()
        ask({"kind": "pictures", "suspect": str(suspect.folder), "numbers": [k], "cut": []}, "me")
        middle = time.perf_counter()
        poll("me", "pictures")
        times.append((middle - start, time.perf_counter() - middle))
    assert np.median([t[0] for t in times]) < 0.5
    assert np.median([t[1] for t in times]) < 0.5


def test_a_commit_leaves_a_run_and_the_suspect_as_it_was(home: Path, suspect: Run, compute: Compute) -> None:
    asker = Questions(compute=compute)
    cut = {"kind": "check", "suspect": str(suspect.folder), "cut": [1, 70], "mode": "scale"}
    commit = {**cut, "kind": "commit", "threshold": 0.5, "score": "rnp", "study": "", "edits": {}, "role": "oracle"}
    checked = list(asker.answer(cut))[-1].value
    done = list(asker.answer(commit))[-1].value
    assert checked is not None
    assert done is not None
    run = open_run(Path(done["folder"]))
    assert run.folder.parent == home / "runs"
    assert run.id == done["run"]
    assert (run.kind, run.result) == ("defend", done["result"])
    assert (run.result["acc_after"], run.result["asr_after"]) == (checked["acc"]["value"], checked["asr"]["value"])
    assert (run.result["pruned"], run.result["oracle"]) == (2, True)
    # What its stored model answers is what the suspect answers when cut, class by class.
    asked = {"kind": "confusion", "suspect": str(suspect.folder)}
    stored = list(asker.answer({**asked, "run": done["folder"]}))[-1].value
    assert stored == list(asker.answer({**asked, "cut": [1, 70]}))[-1].value
    nothing = list(asker.answer({**cut, "cut": []}))[-1].value
    assert nothing is not None
    assert nothing["drop"]["value"] == 0  # against the uncut answers from before the commit
    assert list(asker.answer(commit))[-1].value == done
    packed = list(asker.answer({"kind": "export", "run": done["folder"]}))[-1].value
    assert packed is not None
    assert Path(packed["path"]).parent == run.folder
    with zipfile.ZipFile(packed["path"]) as archive:
        assert {"repaired.safetensors", "repaired.md", "resnet.py"} <= set(archive.namelist())
    with pytest.raises(ValueError, match="expected a run folder or demo:NAME"):
        list(asker.answer({"kind": "export", "run": str(home / "nowhere")}))
    shown = list(asker.answer({"kind": "examples", "run": done["folder"]}))[-1].value
    assert shown is not None
    assert shown["items"]
    assert all(set(row["before"]) == set(row["after"]) == {"clean", "triggered"} for row in shown["items"])


def test_errors_come_back_as_one_line(home: Path, suspect: Run, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(suspect.folder, altered)
    data = bytearray((altered / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (altered / "model.safetensors").write_bytes(data)
    for session, name, message in (
        ("a", "demo:nobody", "expected demo to be one of"),
        ("b", str(tmp_path / "nowhere"), "expected a run folder or demo:NAME"),
        ("c", str(altered), "hash mismatch"),
        ("d", str(suspect.folder), "expected a unit between 0 and"),
    ):
        ask({"kind": "unit", "suspect": name, "unit": 10**6, "number": 0}, session)
        answer = wait(session, "unit")
        assert answer.state == "error"
        assert message in (answer.error or "")
        assert "\n" not in (answer.error or "")
    with pytest.raises(ValueError, match="expected kind to be one of check"):
        ask({"kind": "dance"}, "a")
    with pytest.raises(ValueError, match="Out of range"):
        ask({"kind": "check", "x": float("nan")}, "a")


def test_a_worker_that_dies_says_so_and_comes_back(home: Path, suspect: Run) -> None:
    question = {"kind": "activations", "suspect": str(suspect.folder)}
    ask(question, "me")
    exact = wait("me", "activations")
    ask({"kind": "check", "suspect": str(suspect.folder), "cut": [1]}, "me")
    wait("me", "check", "starting", "working", "estimate", "exact")
    pid = server(home)["pid"]
    ask({"kind": "check", "suspect": str(suspect.folder), "cut": [2]}, "me")
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while client.listening() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answer = poll("me", "check")
    assert answer is not None
    assert (answer.state, answer.error) == ("error", client.STOPPED) or answer.state == "exact"
    assert poll("me", "activations") == exact  # an answer that has come stays
    ask(question, "me")
    assert wait("me", "activations").value == exact.value
    assert server(home)["pid"] != pid


def test_a_worker_of_an_older_program_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch, suspect: Run) -> None:
    ask({"kind": "pictures", "suspect": str(suspect.folder), "numbers": [], "cut": []}, "me")
    assert wait("me", "pictures").error is None
    old = server(home)
    (home / "ask" / "server.json").write_text(json.dumps({**old, "code": "older"}))
    assert str(home.resolve() / "ask") not in client._starting  # however long ago it was started
    ask({"kind": "pictures", "suspect": str(suspect.folder), "numbers": [], "cut": []}, "me")
    assert wait("me", "pictures").error is None
    assert server(home)["pid"] != old["pid"]


def test_a_worker_that_cannot_start_is_an_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = client.process.spawn
    monkeypatch.setattr(client.process, "spawn", lambda _module, log: spawn(["engine.no_such_module"], log))
    ask({"kind": "activations", "suspect": "x"}, "me")
    answer = wait("me", "activations")
    assert answer.state == "error"
    assert "the worker could not start" in (answer.error or "")
    assert "no_such_module" in (answer.error or "")


def test_two_clients_that_start_at_once_get_one_worker(home: Path) -> None:
    folder = client.ask_folder()
    children = [client.process.spawn(["engine.runs.ask_server"], folder / "log.txt") for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(child.poll() is None for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    codes = {child.pid: child.poll() for child in children}
    assert sorted(codes.values(), key=str) == [client.OTHER, None]
    assert codes[server(home)["pid"]] is None
