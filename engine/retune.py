"""Retuning a repaired model: does a defense remove a backdoor, or only hide it?

"Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense". Min, Qin, Zhang, Shen, Cheng,
NeurIPS 2024. https://arxiv.org/abs/2410.09838

Whoever goes on training a repaired model on a few images of which five carry the trigger and the attacker's label may
bring the whole backdoor back. As in the paper's code, all weights are tuned by plain SGD (momentum 0.9, batches of 128,
no decay, no augmentation) on poisoned images among correctly labelled ones; units that the defense cut stay cut.

Five images can also teach a trigger to a model that never had one. So the same images, in the same order, are given to
the suspect's clean twin where there is one: only what returns beyond that is memory. And it need not be the five that
wake it: tuning on clean images alone may, and so may running statistics of normalisation that are renewed without the
suspect's poison. With none of the five, or with the statistics kept, it shows what does. Every image comes from the
defense pool, from those that the defense did not draw. All of it needs the true trigger: an oracle's question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from engine.compute import Compute, generator
from engine.data.base import DataSet, Images, draw
from engine.defend import Scoring, defense_images
from engine.demos import locate
from engine.metrics import Answers, TestSet, answers, paired_interval
from engine.models.base import Classifier
from engine.models.masking import Mode
from engine.repairs.tuning import Tuning, tune
from engine.runs.store import Run, finished, new_run, open_run, run_folder
from engine.scores import Evidence
from engine.spec import Spec, param
from engine.suspects import Suspect, layer_rows, load_repaired, load_suspect, shares, twin_of
from engine.train import Progress, silent, stage

#: Test images that epochs in between are measured on.
GLIMPSE = 2000


class RetuneRun(Spec):
    """What the ``retune`` command runs: ``run`` is the id of a ``defend`` run of ``suspect``."""

    kind: Literal["retune"] = "retune"
    suspect: str
    run: str
    images: int = param(
        5, label="Poisoned images", help="With the trigger and its label; 0: what clean ones alone do.", ge=0, step=1
    )
    clean: int = param(
        1000, label="Clean images", help="Correctly labelled images beside them, at most.", ge=0, step=100
    )
    epochs: int = param(5, label="Epochs", help="Passes over all of them.", ge=1, le=100, step=1)
    lr: float = param(0.01, label="Rate", help="Step size of SGD.", gt=0, le=10)
    statistics: Literal["batch", "kept"] = param(
        "batch", label="Statistics", help="Of normalisation: renewed, or kept as the repair left them.", tacit=True
    )
    seed: int = param(0, label="Seed", help="Which images, and in which order.", ge=0, step=1)


def retune_run(name: str, **more: Any) -> tuple[RetuneRun, Run]:
    """The specification for a ``defend`` run, which is named by its folder or ``run:ID``, and that run.

    Raises:
        ValueError: in one line, for another kind of run or an impossible setting.
    """
    run = open_run(locate(name))
    if run.kind != "defend":
        raise ValueError(f"expected a defend run, got a run of {run.kind} in {run.folder}")
    return RetuneRun.build(suspect=run.spec["suspect"], run=run.id, **more), run


def drawn(defended: Mapping[str, Any], data: DataSet) -> Images:
    """The images that a defense drew, given its specification; of a cut made by hand those of the study it was made on.

    Raises:
        ValueError: if that study is not there any more.
    """
    how = defended if "samples" in defended else open_run(Path(defended["study"])).spec
    asked = {key: how[key] for key in ("samples", "per_class", "imbalance", "seed") if key in how}
    return defense_images(Scoring.build(asked, suspect=""), data)


def attackers_images(spec: RetuneRun, suspect: Suspect, defended: Mapping[str, Any]) -> tuple[Images, int]:
    """The images to tune on, poisoned ones first, and how many are poisoned; none of them was drawn by the defense.

    Raises:
        ValueError: in one line, without a trigger, or with fewer images than are asked for.
    """
    attack, pool = suspect.attack, suspect.data.pool
    if attack is None:
        raise ValueError(f"expected a suspect with a known trigger to retune, got {suspect.name}, which has none")
    rng = generator(spec.seed, "retune images")
    rest = pool[~torch.isin(pool.ids, drawn(defended, suspect.data).ids)]
    rest = rest[torch.randperm(len(rest), generator=rng)]
    places = attack.changed(rest.y).nonzero().squeeze(1)
    if spec.images > len(places):
        left = f"{len(places):,} that the trigger changes and the defense did not draw"
        raise ValueError(f"expected at most as many images as the pool has left, {left}, got {spec.images:,}")
    chosen = rest[places[: spec.images]]
    poisoned = Images((attack.stamped(chosen.x) * 255).round().to(torch.uint8), attack.label(chosen.y), chosen.ids)
    rest = rest[~torch.isin(rest.ids, chosen.ids)]
    clean = draw(rest, min(spec.clean, len(rest)), rng) if spec.clean and len(rest) else rest[:0]
    parts = (poisoned, clean)
    if len(poisoned) + len(clean) < 2:
        raise ValueError("expected at least two images to tune on, got one")
    return Images(*(torch.cat([getattr(part, key) for part in parts]) for key in ("x", "y", "ids"))), len(poisoned)


def run_retune(
    spec: RetuneRun, defended: Run, compute: Compute, out: Path | None = None, progress: Progress = silent
) -> Run:
    """Retune the repaired model of a defense, and the clean twin beside it, and measure both after every epoch.

    The result has ``undefended`` (the suspect), ``epochs`` (number 0 is the repaired model) and, where there is a twin,
    ``twin`` with its name and ``epochs``: ``acc``, ``asr`` and ``ra`` with ``intervals`` and ``n``, for the first and
    the last epoch on the whole test set. ``asr_gain`` is what retuning added to the ASR, with a paired 95 % bootstrap
    interval. An existing run of the same specification is returned.

    Raises:
        ValueError: in one line, as :func:`attackers_images`, and if the suspect is not what it was.
    """
    suspect = load_suspect(spec.suspect, compute)
    images, poisoned = attackers_images(spec, suspect, defended.spec)
    model = load_repaired(defended, suspect)
    twin = _twin(suspect, compute)
    asked = spec.model_dump(mode="json")
    inputs = {"suspect": suspect.hash, "repaired": defended.manifest["files"]["repaired.safetensors"]["sha256"]}
    inputs |= {"twin": twin.hash} if twin else {}
    if known := finished(asked, inputs, out):
        return known
    with new_run(asked, inputs, out) as draft:
        test, half = suspect.test_set(), 0.5 if twin else 1.0
        cut = torch.from_numpy(defended.arrays("scores")["cut"].astype(bool))
        mode: Mode = defended.spec["mode"]
        given = Evidence(images, spec.seed, compute, progress=stage(progress, 0, half), cut=cut, mode=mode)
        rows, found = tuned(spec, model, given, test)
        control = None
        if twin is not None:
            given = Evidence(images, spec.seed, compute, progress=stage(progress, half, 1, "clean twin, "))
            control = {"suspect": twin.name, "epochs": tuned(spec, twin.model, given, test)[0]}
        before, after = found[0].fooled, found[-1].fooled
        assert before is not None and after is not None
        draft.arrays("images", {"poisoned": images.ids[:poisoned].numpy(), "clean": images.ids[poisoned:].numpy()})
        draft.result = {
            "title": f"Retuning after {defended.result['title']}",
            "defense": defended.result["defense"],
            "oracle": True,
            "images": poisoned,
            "clean": len(images) - poisoned,
            "statistics": spec.statistics,
            "classes": list(suspect.data.classes),
            **{f"{m}_before": rows[0][m] for m in ("acc", "asr", "ra")},
            **{f"{m}_after": rows[-1][m] for m in ("acc", "asr", "ra")},
            "asr_gain": rows[-1]["asr"] - rows[0]["asr"],
            "asr_gain_interval": list(paired_interval(after, before)),
            "undefended": shares(suspect.answers(compute)),
            "epochs": rows,
            "twin": control,
            "precision": compute.precision,
            "machine": compute.describe(),
        }
    return open_run(run_folder(asked, inputs, out))


def _twin(suspect: Suspect, compute: Compute) -> Suspect | None:
    """The suspect's clean twin, if there is one of the same architecture for the same data."""
    name = twin_of(suspect.run)
    twin = None if name is None else load_suspect(name, compute)
    if twin is None or twin.run.spec["data"] != suspect.run.spec["data"]:
        return None
    return twin if layer_rows(twin.units) == layer_rows(suspect.units) else None


def tuned(
    spec: RetuneRun, model: Classifier, evidence: Evidence, test: TestSet
) -> tuple[list[dict[str, Any]], list[Answers]]:
    """Tune a model in place; what it answers before the first epoch and after each, as rows and as answers.

    The epochs in between are measured on a part of the test set: they show the way, the last one is the result.
    """
    found = [answers(model, test, evidence.compute)]

    def measure(_rows: list[dict[str, float]]) -> dict[str, float]:
        last = len(found) == spec.epochs
        found.append(answers(model, test if last else test.head(GLIMPSE), evidence.compute))
        return {}

    how = Tuning(
        epochs=spec.epochs, lr=spec.lr, weight_decay=0, batch=128, augment=False, schedule="constant", optimizer="sgd",
        statistics=spec.statistics,
    )  # fmt: skip
    tune(evidence.compute.model(model).requires_grad_(True), evidence, how, "retune", after=measure)
    return [{"epoch": epoch, **shares(one)} for epoch, one in enumerate(found)], found
