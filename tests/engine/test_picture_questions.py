"""Questions about one picture with and without a trigger: the units that it changes, cuts one after the other."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import picture_questions
from engine.compute import Compute
from engine.data.base import DataSet
from engine.detectors.recovery import stored
from engine.explain.activations import mean_outputs, spread, watching
from engine.explain.attributions import attribution
from engine.intake.limits import Refused
from engine.models import build
from engine.models.base import Classifier
from engine.models.masking import masked
from engine.models.neurons import units
from engine.pruning.each import logits_each
from engine.questions import Questions
from engine.runs.store import new_run
from tests.engine.test_ask import decode, states, suspect_like, value
from tests.engine.test_explain import no_hooks, plain_net
from tests.tiny import Planted


@pytest.fixture(scope="module")
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name), compute)


def drawing(planted: Planted) -> str:
    """The planted trigger as somebody would draw it: a PNG with transparency, in base64."""
    black = planted.attack.trigger(torch.full((1, 1, 12, 12), 0.5))[0, 0]
    changed = black != 0.5
    picture = np.zeros((12, 12, 4), np.uint8)
    picture[..., :3] = (255 * black).round().numpy()[..., None]
    picture[..., 3] = 255 * changed.numpy()
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- many cuts at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["scale", "silence"])
@pytest.mark.parametrize("kind", ["norm", "residual", "plain"])
def test_many_cuts_in_one_pass_are_as_many_cut_models(kind: str, mode: Any, planted: Planted, compute: Compute) -> None:
    rng = torch.Generator().manual_seed(0)
    model = {
        "norm": lambda: planted.model,
        "residual": lambda: build("resnet18", classes=4, channels=1, width=4, rng=rng),
        "plain": plain_net,
    }[kind]()
    n = len(units(model))
    x, cuts = torch.rand(5, 1, 12, 12, generator=rng), torch.rand(5, n, generator=rng) < 0.3
    cuts[0] = False
    found = logits_each(model, x, cuts, mode, compute, batch=2)
    for k in range(5):
        with masked(model, cuts[k], mode):
            assert torch.allclose(found[k], compute.logits(model, x[k : k + 1])[0], atol=1e-5)
    assert no_hooks(model)
    with pytest.raises(ValueError, match=rf"expected a bool cut over {n} units for each of 5 pictures"):
        logits_each(model, x, cuts[:4], mode, compute)


# --- what a trigger changes ------------------------------------------------------------------------------------------


def test_the_planted_unit_is_the_one_that_a_drawn_trigger_changes_most(
    asker: Questions, planted: Planted, compute: Compute
) -> None:
    number = int((planted.data.test.y == 0).nonzero()[0])
    found = value(asker, kind="twin", number=number, source="drawn", drawn=drawing(planted))
    marked = found["marked"]
    assert marked["units"][0] == planted.unit
    assert marked["changes"][0] > 2 * marked["changes"][1]
    assert np.argmax(marked["p"]) == planted.attack.target
    assert np.argmax(found["without"]["p"]) == found["truth"] == 0
    x = planted.data.test.x[number : number + 1].float() / 255
    outputs = mean_outputs(planted.model, torch.cat([x, planted.attack.trigger(x)]), compute)
    assert np.allclose(marked["outputs"], outputs[:, marked["units"]], atol=1e-4)
    assert (np.diff(marked["changes"]) <= 0).all()
    assert len(marked["changes"]) == min(picture_questions.LISTED, 24)
    assert np.array_equal(decode(found["without"]["png"]), planted.data.test.x[number, 0].numpy())
    assert not np.array_equal(decode(marked["png"]), decode(found["without"]["png"]))


def test_the_suspects_own_trigger_stands_where_it_is_hidden(asker: Questions, planted: Planted) -> None:
    drawn = value(asker, kind="twin", number=3, source="drawn", drawn=drawing(planted))
    own = value(asker, kind="twin", number=3, source="own")
    assert "marked" not in own
    assert own["triggered"]["units"] == drawn["marked"]["units"]
    assert own["triggered"]["p"] == pytest.approx(drawn["marked"]["p"], abs=1e-3)
    cut = value(asker, kind="steps", number=3, source="own", orders=[[planted.unit]])
    assert "marked" not in cut
    assert set(cut["without"][0]) == {"said", "sure", "truth"}, "nothing there tells where the trigger leads"
    assert value(asker, kind="pixels", number=3, source="own", unit=1, method="layer_gradcam")["triggered"]["pixels"]


def test_a_picture_alone_and_a_suspect_without_a_trigger(planted: Planted, compute: Compute) -> None:
    asker = Questions(lambda name, _c: suspect_like(planted, name, attack=None), compute)
    assert value(asker, kind="twin", number=3, source="own")["triggered"] is None
    for more in ({}, {"source": "drawn", "drawn": ""}):
        assert value(asker, kind="twin", number=3, **more)["marked"] is None
        assert value(asker, kind="steps", number=3, orders=[[0, 1]], **more)["marked"] is None
        assert value(asker, kind="pixels", number=3, unit=0, method="layer_gradcam", **more)["marked"] is None


def test_a_unit_under_a_drawing_of_the_planted_trigger_is_what_the_planted_trigger_does(
    asker: Questions, planted: Planted
) -> None:
    unit = planted.unit
    drawn = value(asker, kind="marked_unit", number=3, unit=unit, source="drawn", drawn=drawing(planted))
    own = value(asker, kind="unit", number=3, unit=unit)
    assert drawn["map"] == pytest.approx(np.array(own["map_triggered"]), abs=1e-3)
    assert sum(drawn["hist"]["marked"]) == sum(drawn["hist"]["clean"])
    middles = np.convolve(drawn["hist"]["edges"], [0.5, 0.5], "valid")
    assert middles @ drawn["hist"]["marked"] > middles @ drawn["hist"]["clean"], "the planted unit answers the trigger"
    told = {"kind": "attribution", "number": 3, "unit": unit, "method": "layer_gradcam"}
    known = value(asker, **told)
    guess = value(asker, **told, triggered=False, source="drawn", drawn=drawing(planted))
    assert guess["triggered"] is None
    assert guess["clean"] == known["clean"]
    assert np.allclose(guess["marked"]["suspect"]["pixels"], known["triggered"]["suspect"]["pixels"], atol=1e-3)
    for source in ("own", "none"):
        with pytest.raises(ValueError, match="drawn or recovered"):
            states(asker, kind="marked_unit", number=3, unit=unit, source=source)


def test_a_picture_of_ones_own_has_no_true_class(asker: Questions, planted: Planted) -> None:
    file = io.BytesIO()
    Image.fromarray(planted.data.test.x[6, 0].numpy()).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    own = value(asker, kind="twin", picture=picture, source="drawn", drawn=drawing(planted))
    known = value(asker, kind="twin", number=6, source="drawn", drawn=drawing(planted))
    assert own == {**known, "truth": None}
    found = value(asker, kind="steps", picture=picture, source="drawn", drawn=drawing(planted), orders=[[0]])
    assert found["truth"] == np.argmax(own["without"]["p"])


def test_hardly_any_unit_counts_as_constant(planted: Planted, compute: Compute) -> None:
    x = planted.data.pool.x[:60]
    outputs: dict[str, torch.Tensor] = {}
    with torch.no_grad(), watching(planted.model, lambda layer, out: outputs.update({layer.name: out.clone()})):
        planted.model(compute.images(x))
    expected = torch.cat([out.transpose(0, 1).flatten(1).std(1, correction=0) for out in outputs.values()])
    found = spread(planted.model, x, compute, batch=25)
    assert torch.allclose(found, expected, rtol=1e-4)
    found = found.clone()
    found[3], found[8:] = 0, 0
    kept = picture_questions.above(planted.model, found)
    assert kept[3] == pytest.approx(picture_questions.FLOOR * float(found[:8].median()))
    assert torch.isfinite(1 / kept).all()
    assert torch.equal(kept[:3], found[:3])


# --- one after the other ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["scale", "silence"])
def test_steps_are_what_as_many_cut_models_say(asker: Questions, planted: Planted, compute: Compute, mode: Any) -> None:
    orders = [[3, planted.unit, 0], [5, 9]]
    found = value(asker, kind="steps", number=8, source="drawn", drawn=drawing(planted), orders=orders, mode=mode)
    x = planted.data.test.x[8:9].float() / 255
    truth = int(planted.data.test.y[8])
    assert found["truth"] == truth
    marked = planted.attack.trigger(x)
    first = int(compute.logits(planted.model, marked).argmax())
    for which, order in enumerate(orders):
        for k in range(len(order) + 1):
            cut = torch.zeros(24, dtype=torch.bool)
            cut[order[:k]] = True
            for name, picture in (("without", x), ("marked", marked)):
                with masked(planted.model, cut, mode):
                    p = compute.logits(planted.model, picture).softmax(1)[0]
                row = found[name][which]
                assert row["said"][k] == int(p.argmax())
                assert row["sure"][k] == pytest.approx(float(p.max()), abs=1e-3)
                assert row["truth"][k] == pytest.approx(float(p[truth]), abs=1e-3)
            assert found["marked"][which]["first"][k] == pytest.approx(float(p[first]), abs=1e-3)
        assert len(found["marked"][which]["said"]) == len(order) + 1
    ends = found["marked"][0]["first"]
    assert ends[1] > 0.5 > ends[2], "the answer goes with the planted unit"


def test_attributions_of_both_pictures_and_under_a_cut(asker: Questions, planted: Planted, compute: Compute) -> None:
    question = {
        "kind": "pixels", "number": 4, "source": "drawn", "drawn": drawing(planted), "unit": 12,
        "method": "layer_gradcam", "mode": "scale",
    }  # fmt: skip
    found = value(asker, **question, cut=[planted.unit])
    marked = planted.attack.trigger(planted.data.test.x[4:5].float() / 255)
    cut = torch.zeros(24, dtype=torch.bool)
    cut[planted.unit] = True
    with masked(planted.model, cut):
        expected = attribution(planted.model, 12, marked, "layer_gradcam", compute)[0]
    assert np.allclose(found["marked"]["cut"]["pixels"], expected, atol=1e-3)
    assert found["marked"]["said"] == planted.attack.target != found["marked"]["cut"]["said"]
    uncut = value(asker, **question, cut=[])
    assert uncut["marked"] == {**found["marked"], "cut": None}
    assert np.shape(uncut["without"]["pixels"]) == (12, 12)


# --- a recovered trigger, and what is refused ------------------------------------------------------------------------


def recovered(folder: Path, suspect: str, kind: str) -> Any:
    mask, pattern = np.zeros((4, 12, 12), np.float32), np.ones((4, 1, 12, 12), np.float32)
    mask[2, :3, :3] = 1
    with new_run({"kind": kind, "suspect": suspect}, {"suspect": suspect}, folder) as run:
        if kind == "detect":
            run.arrays("detection", {"mask": mask, "pattern": pattern})
        else:
            run.arrays("recovered", {"mask": mask[2][None], "pattern": pattern[2]})
        run.result = {"target": None, "log": {"smallest": 2}, "recovered": {"target": 2}}
    from engine.runs.store import open_run

    return open_run(folder)


@pytest.mark.parametrize("kind", ["detect", "defend"])
def test_a_recovered_trigger_is_put_on(kind: str, tmp_path: Path, planted: Planted, compute: Compute) -> None:
    found = recovered(tmp_path / "run", "weights", kind)
    stamped = stored(found).stamped(torch.zeros(1, 1, 12, 12))[0, 0]
    assert stamped.sum() == 9
    assert stored(found).target == 2
    asker = Questions(lambda name, _c: suspect_like(planted, name, hash="weights"), compute)
    answer = value(asker, kind="twin", number=3, source="recovered", run=str(found.folder))
    assert (decode(answer["marked"]["png"])[:3, :3] == 255).all()
    other = Questions(lambda name, _c: suspect_like(planted, name, hash="other"), compute)
    with pytest.raises(ValueError, match="expected a trigger that was recovered from this suspect, got that of run"):
        states(other, kind="twin", number=3, source="recovered", run=str(found.folder))


def test_a_run_without_a_recovered_trigger_is_refused(tmp_path: Path) -> None:
    with new_run({"kind": "detect", "suspect": "x"}, {}, tmp_path / "run") as run:
        run.arrays("detection", {"norms": np.zeros(4, np.float32)})
        run.result = {"target": 1}
    from engine.runs.store import open_run

    with pytest.raises(ValueError, match="expected a run that recovered a trigger, got run"):
        stored(open_run(tmp_path / "run"))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"kind": "twin", "number": 400}, "expected a test image between 0 and 399, got 400"),
        ({"kind": "twin", "picture": "QUJD"}, "expected a complete PNG picture, got something else"),
        ({"kind": "twin", "picture": "A" * 1_400_000}, "expected a picture of at most 1,398,104 characters"),
        ({"kind": "twin", "source": "drawn", "drawn": "A"}, "expected the trigger's picture in base64"),
        ({"kind": "twin", "source": "magic"}, "expected source to be"),
        ({"kind": "steps", "orders": [[24]]}, "expected units between 0 and 23, got 24"),
        ({"kind": "steps", "orders": [list(range(20)) * 4]}, "expected at most 4 orders of at most 64 units"),
        ({"kind": "steps", "orders": [[1]] * 5}, "expected at most 4 orders of at most 64 units"),
        ({"kind": "pixels", "unit": 0, "method": "magic"}, "expected method to be one of"),
        ({"kind": "pixels", "unit": 24, "method": "layer_gradcam"}, "expected a unit between 0 and 23, got 24"),
    ],
)
def test_nonsense_is_refused_in_one_line(asker: Questions, question: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, Refused), match=message) as caught:
        states(asker, **question)
    assert "\n" not in str(caught.value)


def test_a_drawing_of_another_size_is_refused(asker: Questions, tiny_data: DataSet, clean_tiny: Classifier) -> None:
    del tiny_data, clean_tiny
    file = io.BytesIO()
    Image.fromarray(np.full((28, 28, 4), 255, np.uint8)).save(file, "PNG")
    drawn = base64.b64encode(file.getvalue()).decode()
    with pytest.raises(ValueError, match="expected a trigger of 12x12 pixels, got 28x28"):
        states(asker, kind="twin", source="drawn", drawn=drawn)
