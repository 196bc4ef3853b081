"""Attributions as the warm worker answers them: one picture, clean and with its trigger, in up to four weight states.

*Suspect* and *pruned* (the suspect with the present cut) are there at once. *Unlearned* is what RNP's first stage
leaves. *Recovered* is what its second stage leaves: the state that masks were learned on, with every filter turned
down by the mask that the study found for it. Where answers are explained, it is the suspect's own answer to the same
picture in all states, so that the columns can be compared.
"""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine import demos
from engine.compute import Compute
from engine.explain.attributions import attribution
from engine.explain.methods import ANSWER, METHODS, STATES, WHOLE
from engine.models.masking import Mode, masked, scaled_weights
from engine.models.neurons import units
from engine.picture_questions import guessed
from engine.questions import _exact, _floats, _Question, _Warm, _working
from engine.runs.ask import Answer
from engine.runs.store import Run, find_run
from engine.suspects import Suspect
from engine.unlearning import unlearned_of

State = Literal["suspect", "unlearned", "recovered", "pruned"]
#: Attributions kept for a suspect.
KEPT = 64


class Attribution(_Question):
    """``triggered`` False: the trigger is not used. ``study``: the run id of RNP scores, for what RNP leaves.

    ``source``: in place of it one that was ``drawn``, or recovered by a ``run``, as in :mod:`engine.picture_questions`.
    """

    unit: int
    number: int
    method: str
    triggered: bool = True
    states: tuple[State, ...] = ("suspect",)
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"
    study: str = ""
    source: Literal["none", "drawn", "recovered"] = "none"
    drawn: str = ""
    run: str = ""


def attributions(warm: _Warm, question: Attribution, compute: Compute) -> Iterator[Answer]:
    """Maps by row (``clean``, ``triggered`` or None, ``marked``) and state; those that need unlearning come last."""
    if question.method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {question.method!r}")
    units(warm.suspect.model).layer_of(question.unit)
    cut, study = warm.cut(question.cut), study_of(warm.suspect, question.study) if question.study else None
    if study is None and "recovered" in question.states:
        raise ValueError("expected the RNP study whose masks recover the model, got none")
    guess = guessed(warm, question)
    attack = guess or (warm.suspect.attack if question.triggered else None)
    clean = warm.picture(question.number)
    x = clean if attack is None else torch.cat([clean, attack.stamped(clean) if guess else attack.trigger(clean)])
    rows = ("clean", "marked" if guess else "triggered")[: len(x)]
    said = compute.logits(warm.suspect.model, x).argmax(1)
    explained = question.method in ANSWER
    value: dict[str, Any] = {
        "method": question.method,
        "title": METHODS[question.method],
        "explained": dict(zip(rows, said.tolist(), strict=True)) if explained else {},
        "clean": {},
        "triggered": {} if attack is not None and guess is None else None,
        **({"marked": {}} if guess else {}),
    }
    wanted = [state for state in ("suspect", "pruned", "unlearned", "recovered") if state in question.states]
    for k, state in enumerate(wanted):
        yield _partial(value, f"attributing, {STATES[state].lower()} model", k / len(wanted))
        key = _key(question, state)
        kept: OrderedDict[Any, Any] = warm.extra.setdefault("attributed", OrderedDict())
        if state in ("unlearned", "recovered"):
            for answer in unlearned_of(warm, study, compute):
                yield _partial(value, answer.what, answer.share)
            forgot = warm.extra["unlearned"]
            value |= {"acc": forgot.log[-1]["acc"], "passes": len(forgot.log)}
        if key not in kept:
            with _in_state(warm, state, cut, question.mode, study, compute) as model:
                maps = attribution(model, question.unit, x, question.method, compute, said)
                kept[key] = (maps, compute.logits(model, x).softmax(1))
        kept.move_to_end(key)
        while len(kept) > KEPT:
            kept.popitem(last=False)
        maps, p = kept[key]
        for at, row in enumerate(rows):
            value[row][state] = {"pixels": _floats(maps[at]), "p": _floats(p[at])}
    yield _exact(value)


def _partial(value: dict[str, Any], what: str, share: float | None) -> Answer:
    if not value["clean"]:
        return _working(what, share)
    rows = (row for row in ("clean", "triggered", "marked") if value.get(row) is not None)
    shown: dict[str, Any] = {row: dict(value[row]) for row in rows}
    return Answer({}, "estimate", what, share, {**value, **shown})


def _key(question: Attribution, state: State) -> tuple[object, ...]:
    """What a map depends on, and nothing else: whoever changes the cut is not told anew of the suspect."""
    what = {"pruned": (question.cut, question.mode), "suspect": ()}.get(state, question.study)
    unit = None if question.method in WHOLE else question.unit
    guess = (question.source, question.drawn, question.run)
    return state, what, unit, question.number, question.method, question.triggered, guess


@contextlib.contextmanager
def _in_state(
    warm: _Warm, state: State, cut: Tensor, mode: Mode, study: Run | None, compute: Compute
) -> Iterator[nn.Module]:
    model = warm.suspect.model
    if state == "pruned":
        with masked(model, cut, mode):
            yield model
    elif state == "recovered":
        assert study is not None
        yield recovered(warm.extra["unlearned"].ground, masks(study), compute)
    else:
        yield warm.extra["unlearned"].model if state == "unlearned" else model


def study_of(suspect: Suspect, study: str) -> Run:
    """The RNP study of a suspect by its run id.

    Raises:
        ValueError: in one line, if there is none.
    """
    run = next((run for run in demos.studies(suspect.name).values() if run.id == study), None) or find_run(study)
    known = run is not None and run.manifest["inputs"].get("suspect") == suspect.hash
    if run is None or not known or run.result.get("score") != "rnp":
        raise ValueError(f"expected the run id of an RNP study of {suspect.name}, got {study!r}")
    return run


def masks(study: Run) -> Tensor:
    """RNP's masks (U,) in [0, 1]: 1 - score, and 1 where no mask was learned."""
    values = torch.from_numpy(study.arrays("scores")["values"].copy())
    return (1 - values.nan_to_num(nan=0.0)).clamp(0, 1)


def recovered(ground: nn.Module, mask: Tensor, compute: Compute) -> nn.Module:
    """A copy of what masks were learned on, each unit scaled by its own (U,)."""
    model = copy.deepcopy(ground)
    scaled = scaled_weights(model, mask.to(compute.torch_device))
    model.load_state_dict({**model.state_dict(), **scaled})
    return model.eval()
