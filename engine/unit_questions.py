"""What the warm worker can answer about one unit beyond what it sees in one picture (:mod:`engine.questions`).

Each way takes the resident suspect, a question and where to compute, and yields answers as the others do: what is known
so far, then what is exact. What serves every unit of the suspect is kept in ``warm.extra``: the next unit waits less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.attribution_questions import Attribution, attributions, study_of
from engine.compute import Compute
from engine.explain.activations import mean_outputs
from engine.explain.encode import png
from engine.explain.feature_maps import unit_maps, unit_means
from engine.explain.wiring import Link, wiring
from engine.models.neurons import units
from engine.questions import SLICE, _exact, _floats, _Question, _Warm, _working, histogram
from engine.runs.ask import Answer
from engine.spec import Spec
from engine.unlearning import unlearned_of

#: Pictures on the sheet of those that a unit answers most, and how many stand in one row of it.
MOST, COLUMNS = 24, 8
#: Bins of a class's histogram: few, because a class has few of the defense images.
CLASS_BINS = 15


class WiringOf(_Question):
    unit: int


class TopPictures(_Question):
    unit: int


class ByClass(_Question):
    """``triggered`` False: the trigger is not used, so nothing in the answer, its bins included, tells of it."""

    unit: int
    triggered: bool = True


class Unlearned(_Question):
    """``study``: the run id of the RNP study whose unlearning is meant; without one RNP's preset says how."""

    unit: int
    number: int
    study: str = ""


def wiring_of(warm: _Warm, question: WiringOf, compute: Compute) -> Iterator[Answer]:
    """The units that feed a unit and those that read it."""
    model = warm.suspect.model
    found, names = units(model), warm.suspect.data.classes
    answer = wiring(model, question.unit, warm.picture(0).to(compute.torch_device))

    def told(link: Link) -> dict[str, Any]:
        name = {"id": found.id(link.unit)} if link.unit is not None else {"class": names[link.answer or 0]}
        return {**name, "strength": round(link.strength, 6)}

    value = asdict(answer)
    yield _exact(
        {**value, "incoming": [told(link) for link in answer.incoming], "outgoing": [*map(told, answer.outgoing)]}
    )


def top_pictures(warm: _Warm, question: TopPictures, compute: Compute) -> Iterator[Answer]:
    """The clean test pictures on which a unit's mean output is highest, as one sheet of pictures.

    One pass over the test set serves all units; the best so far are told while it goes on.
    """
    model, clean = warm.suspect.model, warm.test.clean
    units(model).layer_of(question.unit)
    best: dict[str, Any] = warm.extra.setdefault("top", {"at": 0, "values": None, "numbers": None})
    while best["at"] < len(clean):
        first = best["at"]
        outputs = mean_outputs(model, clean.x[first : first + SLICE], compute)
        numbers = torch.arange(first, first + len(outputs))[:, None].expand_as(outputs)
        if best["values"] is not None:
            outputs, numbers = torch.cat([best["values"], outputs]), torch.cat([best["numbers"], numbers])
        best["values"], order = outputs.topk(min(MOST, len(outputs)), dim=0)
        best["numbers"], best["at"] = numbers.gather(0, order), first + min(SLICE, len(clean) - first)
        if best["at"] < len(clean):
            share = best["at"] / len(clean)
            yield Answer({}, "estimate", "looking at all test pictures", share, _sheet(warm, best, question.unit))
    yield _exact(_sheet(warm, best, question.unit))


def _sheet(warm: _Warm, best: dict[str, Any], unit: int) -> dict[str, Any]:
    numbers = best["numbers"][:, unit]
    x = warm.test.clean.x[numbers].float() / 255
    rows = -(-len(x) // COLUMNS)
    blank = x.new_zeros(rows * COLUMNS - len(x), *x.shape[1:])
    tiles = torch.cat([x, blank]).unflatten(0, (rows, COLUMNS))
    return {
        "sheet": png(tiles.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)),
        "columns": COLUMNS,
        "numbers": numbers.tolist(),
        "truths": warm.test.clean.y[numbers].tolist(),
        "values": _floats(best["values"][:, unit]),
        "seen": best["at"],
    }


def by_class(warm: _Warm, question: ByClass, compute: Compute) -> Iterator[Answer]:
    """A unit's mean output on the defense images of each class, clean and with the trigger on, in common bins."""
    labels = warm.defense.y
    parts = {"clean": _means(warm, question.unit, "clean", compute)}
    if question.triggered and warm.triggered_defense is not None:
        yield _working("the unit's output on each class")
        parts["triggered"] = _means(warm, question.unit, "triggered", compute)
    every = np.concatenate([np.nan_to_num(part.double().numpy()) for part in parts.values()])
    edges = np.histogram_bin_edges(every, CLASS_BINS)
    classes = len(warm.suspect.data.classes)
    counts = {
        name: [np.histogram(np.nan_to_num(part[labels == c].numpy()), edges)[0].tolist() for c in range(classes)]
        for name, part in parts.items()
    }
    yield _exact({"edges": np.round(edges, 9).tolist(), "triggered": None, **counts})


def unlearned(warm: _Warm, question: Unlearned, compute: Compute) -> Iterator[Answer]:
    """The same unit in the model that has forgotten the clean pictures: a defender without a trigger can compare."""
    clean = warm.picture(question.number)
    units(warm.suspect.model).layer_of(question.unit)
    yield from unlearned_of(warm, study_of(warm.suspect, question.study) if question.study else None, compute)
    forgot = warm.extra["unlearned"]
    after, log = forgot.model, forgot.log
    yield _working("the unit's output on the defense images")
    before = _means(warm, question.unit, "clean", compute)
    parts = histogram(before, unit_means(after, question.unit, warm.defense.x, compute))
    yield _exact(
        {
            "map": _floats(unit_maps(after, question.unit, clean, compute)[0]),
            "hist": {"edges": parts["edges"], "clean": parts["clean"], "unlearned": parts["triggered"]},
            "p": _floats(compute.logits(after, clean).softmax(1)[0]),
            "acc": log[-1]["acc"],
            "passes": len(log),
        }
    )


def _means(warm: _Warm, unit: int, name: str, compute: Compute) -> Tensor:
    """A unit's mean output on each defense image, float32 (N,): from what is kept of all units, else measured."""
    if name in warm.means:
        return warm.means[name][:, unit]
    x = warm.defense.x if name == "clean" else warm.triggered_defense
    assert x is not None
    return unit_means(warm.suspect.model, unit, x, compute)


def extra_bytes(extra: dict[str, Any]) -> int:
    """What is kept beside a suspect, in bytes."""
    forgot, top = extra.get("unlearned"), extra.get("top") or {}
    kept = [part for parts in extra.get("attributed", {}).values() for part in parts]
    kept += [t for seen in extra.get("features", {}).values() for pair in seen.values() for t in pair]
    found = (forgot, top.get("values"), top.get("numbers"), *kept)
    return sum(one.nbytes for one in found if one is not None)


Way = Callable[[_Warm, Any, Compute], Iterator[Answer]]
#: By the kind of the question: its form, and what answers it.
WAYS: dict[str, tuple[type[Spec], Way]] = {
    "wiring": (WiringOf, wiring_of),
    "top": (TopPictures, top_pictures),
    "by_class": (ByClass, by_class),
    "unlearned": (Unlearned, unlearned),
    "attribution": (Attribution, attributions),
}
