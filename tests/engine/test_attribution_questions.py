"""Attributions of the warm worker: every method, four weight states, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import attribution_questions
from engine.attribution_questions import KEPT, masks, recovered
from engine.compute import Compute
from engine.explain.attributions import attribution
from engine.explain.methods import ANSWER, METHODS
from engine.models.masking import apply_cut, masked
from engine.models.neurons import no_units
from engine.questions import Questions
from engine.runs.store import Run, new_run, open_run
from tests.engine.test_ask import states, suspect_like, value
from tests.tiny import Planted

SUSPECT, ALL = "0123", ["suspect", "unlearned", "recovered", "pruned"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: Planted) -> Run:
    """An RNP study that turns the planted unit down to a quarter, and scores the first unit not at all."""
    values = np.zeros(24, np.float32)
    values[planted.unit], values[0] = 0.75, np.nan
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "study"
    with new_run({"kind": "sweep"}, {"suspect": SUSPECT}, folder) as draft:
        draft.arrays("scores", {"values": values})
        draft.result = {"score": "rnp", "settings": {"unlearn_passes": 2, "unlearn_lr": 0.01}}
    run = open_run(folder)
    folder.rename(folder.with_name(run.id))
    return open_run(folder.with_name(run.id))


@pytest.fixture
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name, hash=SUSPECT), compute)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_of_the_state_it_is_said_to_be(
    asker: Questions, planted: Planted, compute: Compute, method: str
) -> None:
    question = {"kind": "attribution", "unit": planted.unit, "number": 3, "method": method, "cut": [planted.unit]}
    found = value(asker, **question, states=["suspect", "pruned"])
    clean = planted.data.test.x[3:4].float() / 255
    x = torch.cat([clean, planted.attack.trigger(clean)])
    said = compute.logits(planted.model, x).argmax(1)
    assert found["explained"] == ({"clean": int(said[0]), "triggered": int(said[1])} if method in ANSWER else {})
    cut = no_units(planted.model)
    cut[planted.unit] = True
    for state, gone in (("suspect", no_units(planted.model)), ("pruned", cut)):
        with masked(planted.model, gone):
            # Of the suspect's answer in both.
            maps, p = (
                attribution(planted.model, planted.unit, x, method, compute, said),
                compute.logits(planted.model, x),
            )
        for row, name in enumerate(("clean", "triggered")):
            assert np.allclose(found[name][state]["pixels"], maps[row], atol=1e-4)
            assert np.allclose(found[name][state]["p"], p.softmax(1)[row], atol=1e-4)


def test_four_states_side_by_side(asker: Questions, study: Run, planted: Planted) -> None:
    question: dict[str, Any] = {"kind": "attribution", "unit": 20, "number": 1, "method": "occlusion", "states": ALL}
    answers = states(asker, **question, study=study.id, cut=[planted.unit])
    assert {answer.state for answer in answers} == {"working", "estimate", "exact"}
    first = next(answer.value for answer in answers if answer.state == "estimate")
    assert first is not None
    assert list(first["clean"]) == ["suspect"], "what needs no unlearning is there at once"
    found = answers[-1].value
    assert found is not None
    assert found["passes"] == 2
    for row in ("clean", "triggered"):
        assert set(found[row]) == set(ALL)
        assert len({str(cell["pixels"]) for cell in found[row].values()}) == 4
    # Again, and with another unit: of the whole model nothing is new.
    assert value(asker, **{**question, "unit": 3}, study=study.id, cut=[planted.unit]) == found
    hidden = value(asker, **question, study=study.id, triggered=False)
    assert hidden["triggered"] is None
    assert hidden["explained"].keys() == {"clean"}


def test_recovered_scales_each_unit_by_its_mask(study: Run, planted: Planted, compute: Compute) -> None:
    mask = masks(study)
    assert mask[planted.unit] == 0.25
    assert mask[0] == 1
    model = recovered(planted.model, mask, compute)
    old: Any = planted.model.net
    new: Any = model.net
    assert torch.equal(new.bn2.weight[-1], old.bn2.weight[-1] * 0.25)
    assert torch.equal(new.bn2.bias, old.bn2.bias)
    cut = no_units(planted.model)
    cut[planted.unit] = True
    mask[planted.unit] = 0
    silent = recovered(planted.model, mask, compute)
    wanted = recovered(planted.model, torch.ones(24), compute)
    apply_cut(wanted, cut)
    x = planted.data.test.x[:5]
    assert torch.equal(compute.logits(silent, x), compute.logits(wanted, x))


def test_only_so_many_are_kept(asker: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    real = attribution_questions.attribution

    def counted(model: Any, unit: int, *rest: Any) -> Any:
        computed.append(unit)
        return real(model, unit, *rest)

    monkeypatch.setattr(attribution_questions, "attribution", counted)
    monkeypatch.setattr(attribution_questions, "KEPT", 2)
    for unit in (1, 2, 1, 3, 2):
        value(asker, kind="attribution", unit=unit, number=0, method="neuron_gradient")
    assert KEPT > 8
    assert computed == [1, 2, 3, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"states": ["recovered"]}, "expected the RNP study whose masks recover the model, got none"),
        ({"study": "nothing"}, "expected the run id of an RNP study of somewhere, got 'nothing'"),
        ({"states": ["melted"]}, "expected states.0 to be"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    asker: Questions, more: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        states(asker, kind="attribution", unit=0, number=0, method="neuron_gradient", **more)
