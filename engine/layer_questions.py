"""What the warm worker can answer about one layer and about the features behind it (:mod:`engine.questions`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.attribution_questions import study_of
from engine.compute import Compute
from engine.explain.feature_maps import mean_map
from engine.explain.latent import features, layer_named
from engine.models.masking import Mode, masked
from engine.project import Pictures, Seen, placed
from engine.questions import SLICE, _exact, _floats, _Question, _Warm, _working
from engine.runs.ask import Answer
from engine.unit_questions import Way
from engine.unlearning import unlearned_of

#: Uncut networks' features and maps that are kept beside a suspect.
_KEPT = 8


class OfLayer(_Question):
    """``triggered`` False: the trigger is not used, so nothing in the answer tells of it."""

    layer: str
    triggered: bool = True
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"


class Latent(_Question):
    """``layer`` None: what the last linear layer reads. ``triggered`` as in :class:`OfLayer`."""

    layer: str | None = None
    triggered: bool = True
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"


class UnlearnedLayer(_Question):
    """``study``: the run of RNP whose unlearning is repeated; without one its preset for the network is."""

    layer: str
    study: str = ""


def of_layer(warm: _Warm, question: OfLayer, compute: Compute) -> Iterator[Answer]:
    """The mean feature map of a layer on the same pictures clean and triggered, uncut and, with a cut, cut."""
    model, cut = warm.suspect.model, warm.cut(question.cut)
    layer, pictures = layer_named(model, question.layer), _pictures(warm, question.triggered)
    groups = {"clean": pictures.clean}
    if pictures.triggered is not None and warm.suspect.attack is not None:
        # The same pictures on both sides: the target's own are left out, as they are in the ASR.
        changed = warm.suspect.attack.changed(pictures.truth)
        groups = {"clean": pictures.clean[changed], "triggered": pictures.triggered}
    value: dict[str, Any] = {"layer": layer.name, "pictures": len(groups["clean"]), "pruned": int(cut.sum())}
    value |= dict.fromkeys(("map_clean", "map_triggered", "map_clean_cut", "map_triggered_cut"))
    for name, x in groups.items():
        yield _working(f"the mean map of {layer.name} on {len(x)} {name} pictures")
        value[f"map_{name}"] = _floats(mean_map(model, layer, x, compute))
        if cut.any():
            with masked(model, cut, question.mode):
                value[f"map_{name}_cut"] = _floats(mean_map(model, layer, x, compute))
    yield _exact(value)


def unlearned_layer(warm: _Warm, question: UnlearnedLayer, compute: Compute) -> Iterator[Answer]:
    """The mean map of a layer on the clean pictures in the model that has forgotten them."""
    layer_named(warm.suspect.model, question.layer)
    yield from unlearned_of(warm, study_of(warm.suspect, question.study) if question.study else None, compute)
    after, log = warm.extra["unlearned"].model, warm.extra["unlearned"].log
    yield _working("the unlearned model on the same pictures")
    found = mean_map(after, layer_named(after, question.layer), warm.defense.x, compute)
    yield _exact({"map": _floats(found), "acc": log[-1]["acc"], "passes": len(log)})


def latent(warm: _Warm, question: Latent, compute: Compute) -> Iterator[Answer]:
    """Pictures on the plane of the uncut network's clean pictures, before and after the cut."""
    model, cut = warm.suspect.model, warm.cut(question.cut)
    if question.layer is not None:
        layer_named(model, question.layer)
    pictures = _pictures(warm, question.triggered)
    known: dict[Any, Seen] = warm.extra.setdefault("features", {})
    key = (question.layer, question.triggered)
    if key not in known:
        found = yield from _look(model, pictures, question, warm.cut(()), compute)
        while len(known) >= _KEPT:
            known.pop(next(iter(known)))
        known[key] = found
    after = (yield from _look(model, pictures, question, cut, compute)) if cut.any() else None
    arrays, told = placed(known[key], after, pictures)
    yield _exact({**{name: _floats(found) for name, found in arrays.items()}, **told, "pruned": int(cut.sum())})


def _look(
    model: nn.Module, pictures: Pictures, question: Latent, cut: Tensor, compute: Compute
) -> Generator[Answer, None, Seen]:
    """:func:`engine.project.look` at the cut model, with stops between which the model is as it was."""
    found: Seen = {}
    which = "the cut network" if cut.any() else "the network"
    for name, x in (("clean", pictures.clean), ("triggered", pictures.triggered)):
        if x is None:
            continue
        parts = []
        for piece in x.split(SLICE // 2):
            yield _working(f"{len(x)} pictures in the features of {which}")
            with masked(model, cut, question.mode):
                parts.append(features(model, piece, compute, question.layer))
        seen, said = zip(*parts, strict=True)
        found[name] = torch.cat(seen), torch.cat(said)
    return found


def _pictures(warm: _Warm, triggered: bool) -> Pictures:
    attack = warm.suspect.attack if triggered else None
    return Pictures.of(warm.defense, attack, warm.triggered_defense)


#: By the kind of the question: its form, and what answers it.
WAYS: dict[str, tuple[type[_Question], Way]] = {
    "layer": (OfLayer, of_layer),
    "unlearned_layer": (UnlearnedLayer, unlearned_layer),
    "latent": (Latent, latent),
}
