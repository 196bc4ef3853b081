"""Questions about one unit: its connections, the pictures it answers most, its classes, the unlearned model."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine.compute import Compute
from engine.defenses import DEFENSES
from engine.explain.activations import mean_outputs
from engine.explain.wiring import wiring
from engine.models import build
from engine.models.neurons import units
from engine.questions import Questions
from engine.scores.rnp import RNP
from tests.engine.test_ask import states, suspect_like, value
from tests.engine.test_explain import no_hooks, plain_net
from tests.tiny import Planted


@pytest.fixture(scope="module")
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name), compute)


# --- wiring ----------------------------------------------------------------------------------------------------------


def test_the_planted_unit_speaks_for_the_target(planted: Planted) -> None:
    found = wiring(planted.model, planted.unit, planted.data.test.x[:1].float() / 255)
    net: Any = planted.model.net
    gamma = net.bn2.weight[-1].detach().abs()
    assert found.outgoing[0].answer == planted.attack.target
    assert found.outgoing[0].strength == pytest.approx(float(3 * gamma))
    assert (found.feeders, found.readers, found.through_sum) == (8, 4, False)
    scale = gamma / (net.bn2.running_var[-1] + net.bn2.eps).sqrt()
    strengths = net.conv2.weight[-1].flatten(1).norm(dim=1) * net.bn1.weight.abs() * scale
    assert [link.unit for link in found.incoming] == strengths.argsort(descending=True)[:6].tolist()
    assert found.incoming[0].strength == pytest.approx(strengths.max().item(), rel=1e-5)
    assert no_hooks(planted.model)


def test_every_unit_that_is_added_to_a_residual_stream_feeds_who_reads_it() -> None:
    model = build("resnet18", classes=10, channels=1, width=4, rng=torch.Generator().manual_seed(0))
    found, x = units(model), torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    answer = wiring(model, found.index("layer2.1.bn1:3"), x, most=100)
    fed_by = {found.layer_of(link.unit).name for link in answer.incoming if link.unit is not None}
    assert answer.through_sum
    assert {"layer2.0.bn2"} < fed_by, "the block's last layer and its shortcut"
    assert all(name.startswith("layer2.0") for name in fed_by)
    # One reads the other exactly if the other feeds it, as strongly.
    k = answer.incoming[0].unit
    assert k is not None
    back = [link for link in wiring(model, k, x, most=1000).outgoing if link.unit == found.index("layer2.1.bn1:3")]
    assert back[0].strength == pytest.approx(answer.incoming[0].strength)
    last = wiring(model, len(found) - 1, x)
    assert last.readers == 10
    assert model.training


def test_units_without_normalisation_and_behind_a_flattening() -> None:
    model = plain_net()
    found = units(model)
    names = [layer.name for layer in found.layers]
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    linear: nn.Linear = model[5]  # type: ignore[index]
    answer = wiring(model, found.index(f"{names[2]}:4"), x)
    assert (answer.feeders, answer.readers) == (6, 4)
    strengths: Tensor = linear.weight[4].detach().unflatten(0, (6, 25)).norm(dim=1)
    assert answer.incoming[0].strength == pytest.approx(float(strengths.max()))
    assert answer.incoming[0].unit == found.layers[1].offset + int(strengths.argmax())


# --- questions -------------------------------------------------------------------------------------------------------


def test_connections_have_ids_and_class_names(asker: Questions, planted: Planted) -> None:
    found = value(asker, kind="wiring", unit=planted.unit)
    assert found["outgoing"][0]["class"] == planted.data.classes[planted.attack.target]
    assert found["incoming"][0]["id"].startswith("bn1:")


def test_the_sheet_holds_the_pictures_that_wake_a_unit_most(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.unit_questions.SLICE", 60)
    asker = Questions(lambda name, _compute: suspect_like(planted, name), compute)
    answers = states(asker, kind="top", unit=3)
    assert [a.state for a in answers[:2]] == ["working", "estimate"]
    clean = planted.data.test
    outputs = mean_outputs(planted.model, clean.x, compute)[:, 3]
    found = answers[-1].value
    assert found is not None
    assert found["seen"] == len(clean)
    assert np.allclose(found["values"], outputs.sort(descending=True).values[:24], atol=1e-4)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["sheet"]))))
    side = clean.x.shape[-1]
    assert sheet.shape == (3 * side, 8 * side)
    assert np.array_equal(sheet[side : 2 * side, side : 2 * side], clean.x[found["numbers"][9], 0])
    assert found["truths"] == clean.y[found["numbers"]].tolist()
    again = states(asker, kind="top", unit=5)
    assert [a.state for a in again] == ["working", "exact"], "one pass serves all units"


def test_histograms_of_each_class_count_every_image(asker: Questions, planted: Planted) -> None:
    found = value(asker, kind="by_class", unit=planted.unit)
    n = len(planted.data.pool)
    assert np.array(found["clean"]).sum() == np.array(found["triggered"]).sum() == n
    assert len(found["clean"]) == len(planted.data.classes)
    hidden = value(asker, kind="by_class", unit=planted.unit, triggered=False)
    assert hidden["triggered"] is None
    assert hidden["edges"][-1] < found["edges"][-1], "the bins must not tell of the trigger either"


def test_the_unlearned_model_is_made_once_and_the_suspect_stays_as_it_was(
    planted: Planted, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = Questions(lambda name, _compute: suspect_like(planted, name), compute)
    made: list[int] = []

    def build_quickly(preset: str, params: dict[str, Any]) -> tuple[Any, None]:
        made.append(1)
        return RNP(unlearn_passes=2, unlearn_lr=0.01), None

    monkeypatch.setattr(type(DEFENSES["rnp"]), "build", lambda self, preset, params: build_quickly(preset, params))
    unlearn, runs = RNP.unlearn, 0

    def counted(*given: Any) -> Any:
        nonlocal runs
        runs += 1
        return unlearn(*given)

    monkeypatch.setattr(RNP, "unlearn", counted)
    before = value(asker, kind="unit", unit=3, number=5)
    found = value(asker, kind="unlearned", unit=3, number=5)
    assert found["passes"] == 2
    assert sum(found["hist"]["clean"]) == sum(found["hist"]["unlearned"]) == len(planted.data.pool)
    assert found["map"] != before["map_clean"]
    assert "triggered" not in str(found)
    value(asker, kind="unlearned", unit=4, number=6)
    both = value(asker, kind="attribution", unit=4, number=6, method="gradcam", states=["suspect", "unlearned"])
    assert both["passes"] == 2
    assert both["clean"]["suspect"] != both["clean"]["unlearned"]
    assert (runs, len(made)) == (1, 3), "three questions, one unlearning"
    assert value(asker, kind="unit", unit=3, number=5) == before


@pytest.mark.parametrize("kind", ["wiring", "top", "by_class"])
def test_a_number_that_is_no_unit_is_refused_in_one_line(asker: Questions, kind: str) -> None:
    with pytest.raises(ValueError, match="expected a unit between 0 and 23, got 24"):
        states(asker, kind=kind, unit=24)
