"""What the warm worker can answer about one picture with and without a trigger on it (:mod:`engine.questions`).

The picture is a test picture or somebody's own, the trigger is drawn, recovered from the model, or the suspect's own.
Whatever comes of the suspect's own stands under ``triggered`` in an answer, so that it is hidden where the trigger is;
what a person has drawn or a defender has recovered stands under ``marked``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.attacks import Attack
from engine.attacks.picture import Picture
from engine.compute import Compute
from engine.demos import locate
from engine.detectors.recovery import stored
from engine.explain.activations import activation_change, mean_outputs, spread
from engine.explain.attributions import attribution
from engine.explain.encode import png
from engine.explain.feature_maps import unit_maps, unit_means
from engine.explain.methods import METHODS
from engine.intake import uploads
from engine.models.masking import Mode, masked
from engine.models.neurons import units
from engine.pruning.each import logits_each
from engine.questions import _exact, _floats, _Question, _Warm, _working, histogram
from engine.runs.ask import Answer
from engine.runs.store import open_run

#: Units that are listed, units of an order that are cut one after the other, and orders, at most.
LISTED, STEPS, ORDERS = 30, 64, 4
#: A unit's spread counts as at least this share of the middle one of its layer: hardly any unit is quite constant.
FLOOR = 0.05


class PictureOf(_Question):
    """``picture`` as for :class:`engine.questions.Stranger`, in place of test picture ``number``."""

    number: int = 0
    picture: str = ""
    source: Literal["none", "drawn", "recovered", "own"] = "none"
    drawn: str = ""
    """A PNG in base64 as large as the data's pictures, transparent where they stay as they are."""
    run: str = ""
    """The run that recovered a trigger from this suspect."""


class Twin(PictureOf):
    pass


class MarkedUnit(PictureOf):
    unit: int


class Steps(PictureOf):
    orders: tuple[tuple[int, ...], ...]
    mode: Mode = "scale"


class Pixels(PictureOf):
    unit: int
    method: str
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"


def _both(warm: _Warm, question: PictureOf) -> tuple[Tensor, Tensor | None, int | None, str]:
    """The picture without and with the trigger, (1, C, H, W) each, its true class, and the name of the latter's part.

    Raises:
        ValueError: in one line, for a picture or a trigger that cannot be.
    """
    truth = None
    if question.picture:
        x = torch.from_numpy(uploads.fitted(question.picture, warm.suspect.data.shape))[None].float() / 255
    else:
        x, truth = warm.picture(question.number), int(warm.test.clean.y[question.number])
    attack = warm.suspect.attack if question.source == "own" else guessed(warm, question)
    part = "triggered" if question.source == "own" else "marked"
    return x, None if attack is None else attack.stamped(x), truth, part


def guessed(warm: _Warm, question: Any) -> Attack | None:
    """The trigger that was drawn, or recovered from this suspect, as ``source``, ``drawn`` and ``run`` say.

    Raises:
        ValueError: in one line, for a picture that is none or the run of another suspect.
    """
    if question.source == "drawn" and question.drawn:
        return Picture.build({"picture": question.drawn})
    if question.source != "recovered":
        return None
    run = open_run(locate(question.run))
    if run.manifest.get("inputs", {}).get("suspect") != warm.suspect.hash:
        raise ValueError(f"expected a trigger that was recovered from this suspect, got that of run {run.id}")
    return stored(run)


def twin(warm: _Warm, question: Twin, compute: Compute) -> Iterator[Answer]:
    """Both pictures, what is answered to them, and the units that the trigger changes most.

    A unit's change is its trigger-activated change on this one picture, || f(x) - f(x with the trigger) ||_2 over the
    positions of its map (:func:`engine.explain.activations.activation_change`), in standard deviations of its output
    over all positions of the clean defense images. A small trigger hardly moves the mean of a map, but the map.
    """
    x, marked, truth, part = _both(warm, question)
    model = warm.suspect.model
    found: dict[str, Any] = {"truth": truth, part: None}
    pictures = x if marked is None else torch.cat([x, marked])
    p = compute.logits(model, pictures).softmax(1)
    found["without"] = {"png": png(x[0]), "p": _floats(p[0])}
    if marked is not None:
        yield _working("the spread of each unit on clean pictures")
        if "spread" not in warm.extra:
            warm.extra["spread"] = spread(model, warm.defense.x, compute)
        without, with_it = mean_outputs(model, pictures, compute)
        change = activation_change(model, x, marked, compute) / above(model, warm.extra["spread"])
        order = change.argsort(descending=True, stable=True)[:LISTED]
        found[part] = {
            "png": png(marked[0]),
            "p": _floats(p[1]),
            "units": order.tolist(),
            "changes": _floats(change[order]),
            "outputs": [_floats(values[order]) for values in (without, with_it)],
        }
    yield _exact(found)


def marked_unit(warm: _Warm, question: MarkedUnit, compute: Compute) -> Iterator[Answer]:
    """One unit under a trigger that somebody drew or recovered: its map, what is answered, and its outputs.

    The histogram is over the clean defense images without and with that trigger, in common bins.
    """
    if question.source == "own":
        raise ValueError("expected a drawn or recovered trigger, got the suspect's own")
    units(warm.suspect.model).layer_of(question.unit)
    x, marked, _, _ = _both(warm, question)
    attack = guessed(warm, question)
    if attack is None or marked is None:
        raise ValueError("expected a trigger that was drawn or recovered, got none")
    model, unit = warm.suspect.model, question.unit
    yield _working("the unit's output on the defense images")
    images = warm.defense.x.float() / 255
    parts = histogram(
        unit_means(model, unit, images, compute), unit_means(model, unit, attack.stamped(images), compute)
    )
    yield _exact(
        {
            "png": png(marked[0]),
            "p": _floats(compute.logits(model, marked).softmax(1)[0]),
            "map": _floats(unit_maps(model, unit, marked, compute)[0]),
            "hist": {"edges": parts["edges"], "clean": parts["clean"], "marked": parts["triggered"]},
        }
    )


def above(model: nn.Module, spreads: Tensor) -> Tensor:
    """Spreads (U,) at or above a share of their layer's middle one, and above 0."""
    found = spreads.clone()
    for layer in units(model).layers:
        part = found[layer.span]
        middle = float(part.median()) or float(found.median()) or 1.0
        found[layer.span] = part.clamp_min(FLOOR * middle)
    return found


def steps(warm: _Warm, question: Steps, compute: Compute) -> Iterator[Answer]:
    """What both pictures get while the units of some orders are cut one after the other, from none to all of them.

    For each order and picture, by step: the class that is ``said``, how ``sure``, and the probabilities of the class
    that the picture with the trigger gets at first (``first``) and of the true class (``truth``; without one, of the
    class that the picture without the trigger gets at first).
    """
    if len(question.orders) > ORDERS or any(len(order) > STEPS for order in question.orders):
        raise ValueError(f"expected at most {ORDERS} orders of at most {STEPS} units, got more")
    x, marked, truth, part = _both(warm, question)
    cuts = torch.cat([_prefixes(warm, order) for order in question.orders])
    said: dict[str, Tensor] = {}
    for name, picture in (("without", x), (part, marked)):
        if picture is not None:
            yield _working(f"cutting {len(cuts)} times")
            pictures = picture.expand(len(cuts), -1, -1, -1)
            said[name] = logits_each(warm.suspect.model, pictures, cuts, question.mode, compute).softmax(1)
    first = said[part][0].argmax() if part in said else said["without"][0].argmax()
    true = int(said["without"][0].argmax()) if truth is None else truth
    sizes = [len(order) + 1 for order in question.orders]
    found: dict[str, Any] = {"without": [], part: [] if part in said else None}
    for name, p in said.items():
        for rows in p.split(sizes):
            sure, answer = rows.max(1)
            found[name].append(
                {
                    "said": answer.tolist(),
                    "sure": _floats(sure),
                    "truth": _floats(rows[:, true]),
                    # What the trigger leads to may not be told of the picture without it either.
                    **({"first": _floats(rows[:, first])} if name == part else {}),
                }
            )
    yield _exact({**found, "truth": true})


def _prefixes(warm: _Warm, order: tuple[int, ...]) -> Tensor:
    """Cuts bool (K + 1, U) of the first 0..K units of an order."""
    return torch.stack([warm.cut(order[:k]) for k in range(len(order) + 1)])


def pixels(warm: _Warm, question: Pixels, compute: Compute) -> Iterator[Answer]:
    """Which pixels speak for a unit or for the answer: of both pictures, and of that with the trigger under a cut."""
    if question.method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {question.method!r}")
    x, marked, _, part = _both(warm, question)
    model, cut = warm.suspect.model, warm.cut(question.cut)

    def drawn(picture: Tensor) -> dict[str, Any]:
        said = compute.logits(model, picture).argmax(1)
        maps = attribution(model, question.unit, picture, question.method, compute, said)
        return {"pixels": _floats(maps[0]), "said": int(said)}

    found: dict[str, Any] = {"without": drawn(x), part: None}
    if marked is not None:
        yield _working("attributing")
        found[part] = {**drawn(marked), "cut": None}
        if cut.any():
            yield _working("attributing")
            with masked(model, cut, question.mode):
                found[part]["cut"] = drawn(marked)
    yield _exact(found)


WAYS = {
    "twin": (Twin, twin),
    "steps": (Steps, steps),
    "pixels": (Pixels, pixels),
    "marked_unit": (MarkedUnit, marked_unit),
}
