"""The Attack lab's questions: the maths of the preview against golden values, and what an attack is refused for."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.attacks import ATTACKS, Attack
from engine.attacks.base import POISONED
from engine.compute import Compute, generator
from engine.explain import preview
from engine.lab import Bench, Choices, Preview
from engine.questions import Questions
from engine.runs.store import new_run
from engine.suspects import TRIGGER
from tests.tiny import ATTACK_SETTINGS, CLASSES, tiny_data


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- the maths -------------------------------------------------------------------------------------------------------


def test_psnr_of_known_errors() -> None:
    a = torch.full((3, 1, 4, 4), 0.5)
    b = a + torch.tensor([0.1, 0.01, 0.0]).reshape(3, 1, 1, 1)
    assert preview.psnr(a, b).tolist() == pytest.approx([20, 40, math.inf], abs=1e-3)


def test_ssim_of_equal_and_of_flat_pictures() -> None:
    x = noise(2, 3, 16, 20)
    assert preview.ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-5)
    # Two flat pictures differ in luminance only: (2ab + c1) / (a^2 + b^2 + c1).
    a, b = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    assert float(preview.ssim(a, b)) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-4)


def test_ssim_equals_its_definition_at_every_place() -> None:
    a, b = noise(1, 1, 13, 12), noise(1, 1, 13, 12, seed=1)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for top in range(3):
        for left in range(2):
            p = a[0, 0, top : top + 11, left : left + 11].double().numpy()
            q = b[0, 0, top : top + 11, left : left + 11].double().numpy()
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert float(preview.ssim(a, b)) == pytest.approx(np.mean(found), abs=1e-5)


def test_pictures_smaller_than_the_window_have_an_ssim() -> None:
    x = noise(2, 1, 8, 9)
    assert preview.ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_a_wave_is_one_point_of_the_spectrum_and_noise_is_all_of_it() -> None:
    wave = (2 * math.pi * 6 * torch.arange(28) / 28).sin().expand(3, 1, 28, 28)
    spectrum = preview.amplitude(wave)
    assert preview.peak(spectrum) == (0, 6)
    assert preview.high_share(spectrum) == pytest.approx(0, abs=1e-6)
    decibels = preview.decibels(spectrum)
    assert int((decibels > -20).sum()) == 2  # the wave and its mirror image
    assert float(decibels[14, 14 + 6]) == pytest.approx(0, abs=1e-3)
    # Half the radius is about a fifth of the square's area.
    assert 0.7 < preview.high_share(preview.amplitude(noise(32, 1, 28, 28) - 0.5)) < 0.9
    assert preview.decibels(torch.zeros(28, 28)).unique().tolist() == [preview.FLOOR]
    assert max(preview.decibels(preview.amplitude(noise(1, 3, 200, 180))).shape) == preview.POINTS


def test_changes_that_differ_between_pictures_do_not_cancel() -> None:
    wave = (2 * math.pi * 3 * torch.arange(28) / 28).sin()
    both = torch.stack([wave, -wave]).reshape(2, 1, 1, 28).expand(2, 1, 28, 28)
    assert preview.peak(preview.amplitude(both)) == (0, 3)


def test_the_pictures_shown_are_of_all_classes_in_turn() -> None:
    y = torch.tensor([2, 2, 2, 1, 0, 1, 0, 2])
    may = y != 0
    assert y[preview.show(y, may, 4, 0)].tolist() == [1, 2, 1, 2]
    assert preview.show(y, may, 2, 0).tolist() == [3, 0]
    assert preview.show(y, may, 2, 1).tolist() == [5, 1]
    assert sorted(preview.show(y, may, 99, 5).tolist()) == may.nonzero()[:, 0].tolist()


# --- the questions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(Compute("cpu", exact=True))


def ask(bench: Bench, data: str, *drafts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    question = Preview.build({"kind": "preview", "data": data, "attacks": list(drafts), **more})
    found = bench.preview(question)
    json.dumps(found, allow_nan=False)  # it travels as JSON
    assert found["data"]["classes"] == list(CLASSES)
    return list(found["attacks"])


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_a_preview_is_what_the_attack_does(bench: Bench, shapes: str) -> None:
    (found,) = ask(bench, shapes, {"name": "badnets", "settings": {"target": 3, "rate": 0.1}}, count=3)
    assert found["error"] is None
    train = len(tiny_data().train) - 80  # about a tenth of one's own pictures becomes the pool
    assert sum(found["counts"].values()) >= train
    assert found["counts"]["poisoned"] == round(0.1 * sum(found["counts"].values()))
    assert [item["label"] for item in found["items"]] == [0, 1, 2]
    assert {item["becomes"] for item in found["items"]} == {3}
    clean, triggered = (pixels(found["items"][0][key]) for key in ("clean", "triggered"))
    attack = ATTACKS["badnets"].build(target=3)
    expected = attack.trigger(torch.from_numpy(clean.copy())[None, None].float() / 255)
    assert triggered.tolist() == (expected[0, 0] * 255).round().to(torch.uint8).tolist()
    assert (clean != triggered).sum() <= 9
    assert found["figures"]["changed"] <= 9 / 144
    assert found["spectrum"]["reach"] == [6, 6]
    assert np.shape(found["spectrum"]["db"]) == (12, 12)


@pytest.mark.parametrize(
    ("draft", "line", "pictures"),
    [
        ({"name": "badnets", "settings": {"target": 4}}, "expected target between 0 and 3, got 4", False),
        ({"name": "badnets", "settings": {"size": 20}}, "size + margin of at most 12 pixels, got 21", False),
        ({"name": "badnets", "settings": {"rate": 1e-5}}, "expected a rate that poisons between 1 and", True),
        ({"name": "sig", "settings": {"rate": 1e-3}}, "expected a rate that poisons between 1 and", True),
        ({"name": "badnets", "settings": {"rate": 0.9}}, "expected a rate that poisons between 1 and", True),
        ({"name": "badnets", "settings": {"rate": 2}}, "expected rate to be less than or equal to 1, got 2", False),
        ({"name": "badnets", "settings": {"rule": "source"}}, "expected a source class with the rule source", False),
        ({"name": "nonsense"}, "expected attack to be one of", False),
    ],
)
def test_wrong_settings_are_one_line_and_the_other_column_is_answered(
    bench: Bench, shapes: str, draft: dict[str, Any], line: str, pictures: bool
) -> None:
    wrong, right = ask(bench, shapes, draft, {"name": "blend"})
    assert line in wrong["error"]
    assert "\n" not in wrong["error"]
    assert bool(wrong["items"]) == pictures  # a rate that poisons nothing still has a trigger to look at
    assert right["error"] is None
    assert right["items"]


def test_clean_label_attacks_poison_their_own_class_only(bench: Bench, shapes: str) -> None:
    (found,) = ask(bench, shapes, {"name": "sig", "settings": {"target": 2, "frequency": 2, "rate": 0.5}})
    assert {(item["label"], item["becomes"]) for item in found["items"]} == {(2, 2)}
    assert found["counts"]["poisoned"] == round(found["candidates"] * 0.5)
    assert found["spectrum"]["peak"] == [0, 2]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_is_previewed_or_says_that_its_trigger_is_learned(bench: Bench, shapes: str, name: str) -> None:
    (found,) = ask(bench, shapes, {"name": name, "settings": {"target": 3, **ATTACK_SETTINGS.get(name, {})}}, count=2)
    if found["error"] is None:
        assert sum(found["counts"].values()) > 0
        assert bool(found["items"]) != ATTACKS[name].learned


class Learned(Attack):
    """A trigger that is a state: a picture that is added; at training time half of it."""

    learned = True
    title = "Learned"
    paper = "https://example.org"

    def trigger(self, x: Tensor) -> Tensor:
        return (x + self.state["wave"]).clamp(0, 1)


class Halved(Attack):
    """Full strength at test time, half of it in training."""

    paper = "https://example.org"

    def trigger(self, x: Tensor) -> Tensor:
        return (x + 0.4).clamp(0, 1)

    def craft(self, x: Tensor, y: Tensor, kind: int, rng: torch.Generator, lab: Any) -> Tensor:  # noqa: ARG002
        assert kind == POISONED
        return (x + 0.2).clamp(0, 1)


def test_a_learned_trigger_is_taken_from_a_run_that_learned_it(
    bench: Bench, shapes: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS._entries, "learned", Learned)
    monkeypatch.setitem(ATTACKS._entries, "halved", Halved)
    without, halved = ask(bench, shapes, {"name": "learned"}, {"name": "halved"})
    assert (without["error"], without["items"]) == (None, [])
    assert without["counts"]["poisoned"] > 0
    item = halved["items"][0]
    assert pixels(item["clean"]).mean() < pixels(item["stored"]).mean() < pixels(item["triggered"]).mean()
    spec = {"kind": "attack", "data": shapes, "attack": {"name": "learned", "params": {"target": 1}}}
    with new_run(spec, {}, tmp_path / "run") as draft:
        draft.arrays(TRIGGER, {"wave": np.full((1, 12, 12), 0.25, np.float32)})
        draft.result = {}
    (found,) = ask(bench, shapes, {"name": "learned", "learned_by": str(tmp_path / "run")})
    assert {item["becomes"] for item in found["items"]} == {1}  # with the settings of that run
    assert found["figures"]["largest"] == 64
    (other,) = ask(bench, shapes, {"name": "learned", "learned_by": "demo:badnets"})
    assert (other["error"], other["items"]) == (None, [])
    assert other["unseen"].startswith("expected a run of learned")


def test_choices_name_attacks_with_their_presets_and_ones_own_pictures(bench: Bench, shapes: str) -> None:
    found = bench.choices(Choices(kind="choices", own=shapes))
    assert {"badnets", "blend", "sig"} <= {row["name"] for row in found["attacks"]}
    assert all(row["settings"] and row["presets"] and row["rules"] for row in found["attacks"])
    assert any("picture" in row["settings"] for row in found["attacks"])
    assert found["own"]["classes"] == list(CLASSES)
    assert found["own"]["shape"] == [1, 12, 12]


def test_the_worker_answers_these_kinds_and_downloads_nothing(
    compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Questions(compute=compute)
    (answer,) = worker.answer({"kind": "choices"})
    assert answer.state == "exact"
    offline = next((row["name"] for row in answer.value["datasets"] if not row["offline"]), None)
    if offline is not None:
        with pytest.raises(ValueError, match="expected a data set that is at hand"):
            list(worker.answer({"kind": "preview", "data": offline, "attacks": [{"name": "badnets"}]}))


def test_the_composition_is_the_one_that_is_trained_on(bench: Bench, shapes: str) -> None:
    (found,) = ask(bench, shapes, {"name": "badnets", "settings": {"rule": "source", "source": 1}}, seed=3)
    attack = ATTACKS["badnets"].build(rule="source", source=1).bound(len(CLASSES))
    images = bench._open(shapes).train
    made = attack.poison(images, generator(3, "poison"))
    assert found["counts"] == made.counts
    assert made.counts["cover"] > 0
    assert F.one_hot(made.images.y[made.which], 4).sum(0).tolist()[0] == made.counts["poisoned"]
