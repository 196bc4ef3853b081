"""Projections: where clean and triggered pictures lie in a network's features, before and after a cut.

One function serves the warm worker, which projects onto principal components at once, and the ``project`` command,
which also makes a t-SNE. Both place the features of the uncut and of the cut network in one picture: PCA takes the
plane of the uncut network's clean pictures for all of them, t-SNE embeds all of them together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.attacks import Attack
from engine.compute import Compute, generator, steady
from engine.data.base import Images, draw
from engine.explain.latent import features, nearest, pca
from engine.explain.tsne import tsne
from engine.models.masking import Mode, masked
from engine.models.neurons import Units
from engine.runs.store import Run, finished, new_run, open_run, run_folder
from engine.spec import Spec, param
from engine.suspects import Suspect
from engine.train import Progress, silent, stage

Method = Literal["pca", "tsne"]
TITLES: dict[Method, str] = {"pca": "Principal components", "tsne": "t-SNE"}


class ProjectRun(Spec):
    """What the ``project`` command runs: ``cut`` holds unit numbers, rising."""

    kind: Literal["project"] = "project"
    suspect: str
    method: Method = "tsne"
    layer: str | None = None
    """A layer of units, averaged over its positions; without it what the last linear layer reads."""
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"
    trigger: Literal["none", "true"] = param("none", label="Trigger", help="true: triggered pictures too, an oracle's.")
    samples: int = param(250, label="Pictures", help="Clean pictures, and as many triggered ones.", ge=2, le=1000)
    perplexity: float = param(10.0, label="Perplexity", help="Neighbours that count in a t-SNE.", ge=1, le=300)
    steps: int = param(750, label="Steps", help="Steps of the t-SNE.", ge=1, le=10_000)
    seed: int = param(0, label="Seed", help="Which pictures are drawn.", ge=0, step=1)


@dataclass(frozen=True)
class Pictures:
    """Clean pictures and, where the trigger may be used, those of them whose label it changes, with it on."""

    clean: Tensor
    truth: Tensor
    triggered: Tensor | None = None
    triggered_truth: Tensor | None = None

    @classmethod
    def of(cls, clean: Images, attack: Attack | None, stamped: Tensor | None = None) -> Pictures:
        """``stamped``: all the ``clean`` ones with the trigger on, if they are there already."""
        if attack is None:
            return cls(clean.x, clean.y)
        changed = attack.changed(clean.y)
        if not changed.any():
            return cls(clean.x, clean.y)
        triggered = attack.stamped(clean.x[changed]) if stamped is None else stamped[changed]
        return cls(clean.x, clean.y, triggered, clean.y[changed])


#: Features and answers by name: ``clean`` and, with the trigger, ``triggered``.
Seen = dict[str, tuple[Tensor, Tensor]]


def look(model: nn.Module, pictures: Pictures, compute: Compute, layer: str | None) -> Seen:
    """The features of a model as it is now, and what it answers."""
    found = {"clean": features(model, pictures.clean, compute, layer)}
    if pictures.triggered is not None:
        found["triggered"] = features(model, pictures.triggered, compute, layer)
    return found


def placed(
    before: Seen,
    after: Seen | None,
    pictures: Pictures,
    method: Method = "pca",
    embed: Any = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Places of all pictures, and figures about them.

    Args:
        before, after: what :func:`look` found without and with the cut; ``after`` None where nothing is cut.
        embed: with ``tsne``: features (N, D) to places (N, 2) and a loss.

    Returns:
        Arrays: ``truth``, and for each of ``before`` and ``after`` its ``_clean`` places (N, 2), the answers
        (``_clean_said``) and the class whose centre is nearest in feature space (``_clean_nearest``); all of them also
        with ``triggered`` in the place of ``clean``, where there is a trigger. Figures: ``shares`` of variance (PCA)
        or ``loss`` (t-SNE), and the shares of pictures nearest to their own class, such as ``own_after_clean``.
    """
    sides = {"before": before, **({} if after is None else {"after": after})}
    truths = {"clean": pictures.truth, "triggered": pictures.triggered_truth}
    parts = {f"{when}_{name}": found[0] for when, seen in sides.items() for name, found in seen.items()}
    told: dict[str, Any] = {}
    if method == "pca":
        basis = pca(before["clean"][0])
        places = {key: basis.project(x).float() for key, x in parts.items()}
        told["shares"] = [round(float(share), 6) for share in basis.shares]
    else:
        together, told["loss"] = embed(torch.cat(list(parts.values())))
        pieces = together.split([len(x) for x in parts.values()])
        places = dict(zip(parts, pieces, strict=True))
    arrays = {"truth": pictures.truth}
    if pictures.triggered_truth is not None:
        arrays["triggered_truth"] = pictures.triggered_truth
    for when, seen in sides.items():
        for name, (x, said) in seen.items():
            key, truth = f"{when}_{name}", truths[name]
            near = nearest(x, seen["clean"][0], pictures.truth)
            assert truth is not None
            arrays |= {key: places[key], f"{key}_said": said, f"{key}_nearest": near}
            told[f"own_{key}"] = round(float((near == truth).float().mean()), 6)
    return arrays, told


def unit_numbers(text: str, found: Units) -> tuple[int, ...]:
    """Unit numbers from a line such as ``3,5-9,layer4.1.bn2:87``: numbers, runs of them, ids; rising.

    Raises:
        ValueError: in one line, for anything else, or what this network has not.
    """
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        run = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part)
        first, last = (found.index(part),) * 2 if run is None else (int(run[1]), int(run[2] or run[1]))
        if not first <= last < len(found):
            raise ValueError(f"expected units between 0 and {len(found) - 1}, got {part}")
        numbers |= set(range(first, last + 1))
    return tuple(sorted(numbers))


def run_project(
    spec: ProjectRun, suspect: Suspect, compute: Compute, out: Path | None = None, progress: Progress = silent
) -> Run:
    """Project pictures of the defense pool and store their places, as :func:`placed` gives them.

    An existing run of the same specification is returned. A t-SNE goes on from its last checkpoint.

    Raises:
        ValueError: in one line, without the trigger that is asked for, for a cut, a layer or a perplexity that cannot
            be.
    """
    attack = suspect.attack if spec.trigger == "true" else None
    if spec.trigger == "true" and attack is None:
        raise ValueError(f"expected a suspect with a known trigger, got {suspect.name}, which has none")
    if wrong := [unit for unit in spec.cut if not 0 <= unit < len(suspect.units)]:
        raise ValueError(f"expected units between 0 and {len(suspect.units) - 1}, got {wrong[0]}")
    asked, inputs = spec.model_dump(mode="json"), {"suspect": suspect.hash}
    if known := finished(asked, inputs, out):
        return known
    with new_run(asked, inputs, out) as draft:
        steady(draft.keep)
        pool, model = suspect.data.pool, suspect.model
        pictures = Pictures.of(draw(pool, min(spec.samples, len(pool)), generator(spec.seed, "defense images")), attack)
        progress("looking at the pictures", 0.0)
        before, after = look(model, pictures, compute, spec.layer), None
        cut = torch.zeros(len(suspect.units), dtype=torch.bool)
        cut[list(spec.cut)] = True
        if spec.cut:
            with masked(model, cut, spec.mode):
                after = look(model, pictures, compute, spec.layer)

        def embed(x: Tensor) -> tuple[Tensor, float]:
            return tsne(x, spec.perplexity, compute, spec.steps, stage(progress, 0.05, 1), draft.keep)

        arrays, told = placed(before, after, pictures, spec.method, embed)
        draft.arrays("projection", {key: value.numpy() for key, value in arrays.items()})
        triggered = 0 if pictures.triggered is None else len(pictures.triggered)
        draft.result = {
            "title": TITLES[spec.method],
            "method": spec.method,
            "layer": spec.layer,
            "oracle": attack is not None,
            "pictures": len(pictures.clean),
            "triggered": triggered,
            "pruned": len(spec.cut),
            "units": len(suspect.units),
            "classes": list(suspect.data.classes),
            **told,
            "precision": compute.precision,
            "machine": compute.describe(),
        }
    return open_run(run_folder(asked, inputs, out))
