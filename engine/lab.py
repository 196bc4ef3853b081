"""Questions of the Attack lab: what there is to choose from, and what an attack would do to a training set.

Nothing is trained and nothing is written. An attack that cannot be comes back as one line, the one with which the
``attack`` command would refuse it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from torch import Tensor

from engine import catalogue, demos
from engine.attacks import Attack, Lab
from engine.attacks.base import POISONED
from engine.compute import Compute, generator
from engine.data import DATASETS, DataSet, load
from engine.explain import preview
from engine.explain.encode import png
from engine.spec import Spec, param
from engine.suspects import attack_of, make_attack

#: Pictures that visibility and spectrum are measured on; data sets kept in memory.
MEASURED, KEPT = 64, 2


class Choices(Spec):
    """What there is to choose from; ``own`` is the path of one's own pictures."""

    kind: str
    own: str | None = None


class Draft(Spec):
    """An attack as it is set now. ``learned_by`` is a suspect from which a learned trigger is taken."""

    name: str
    settings: dict[str, Any] = {}
    learned_by: str | None = None


class Preview(Spec):
    kind: str
    data: str
    attacks: tuple[Draft, ...]
    seed: int = 0
    count: int = param(6, label="Pictures", help="Pictures that are shown.", ge=1, le=24)
    turn: int = param(0, label="Turn", help="Leafs through the pictures.", ge=0)


class Bench:
    """Answers the lab's questions; the last data sets stay in memory."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._data: OrderedDict[tuple[str, int], DataSet] = OrderedDict()

    def choices(self, question: Choices) -> dict[str, Any]:
        own = None
        if question.own is not None:
            found = self._open(question.own)
            own = {"classes": list(found.classes), "shape": list(found.shape), "train": len(found.train)}
        return {**{kind: catalogue.rows(kind) for kind in ("attacks", "models", "datasets")}, "own": own}

    def preview(self, question: Preview) -> dict[str, Any]:
        data = self._open(question.data)
        about = {"classes": list(data.classes), "shape": list(data.shape), "train": len(data.train)}
        return {"data": about, "attacks": [self._draft(draft, data, question) for draft in question.attacks]}

    def _open(self, name: str) -> DataSet:
        if name in DATASETS and not DATASETS[name].offline():
            raise ValueError(f"expected a data set that is at hand, got {name}, which its first training downloads")
        key = (name, 0 if name in DATASETS or not os.path.exists(name) else os.stat(name).st_mtime_ns)
        found = self._data.pop(key, None) or load(name)
        self._data[key] = found
        while len(self._data) > KEPT:
            self._data.popitem(last=False)
        return found

    def _draft(self, draft: Draft, data: DataSet, question: Preview) -> dict[str, Any]:
        """What is known of an attack; ``error`` is the line with which a training would be refused."""
        found: dict[str, Any] = {"error": None, "counts": None, "items": [], "figures": None, "spectrum": None}
        classes = len(data.classes)
        try:
            attack = make_attack(draft.name, draft.settings).bound(classes)
            attack.check(classes)
        except ValueError as refusal:
            return {**found, "error": str(refusal)}
        y = data.train.y
        found["clean_label"] = attack.clean_label
        found["candidates"] = int((y == attack.target if attack.clean_label else attack.changed(y)).sum())
        try:
            attack.fits(data.shape)
            found["counts"] = attack.composition(y, generator(question.seed, "poison"))
        except ValueError as refusal:
            found["error"] = str(refusal)
        try:
            shown = self._learned(draft, data) if attack.learned else attack
            if shown is not None:
                found |= self._seen(shown, data, question)
        except ValueError as refusal:
            # A trigger of another run that does not go with these pictures refuses nothing.
            found["error" if not attack.learned else "unseen"] = str(refusal)
        return found

    def _learned(self, draft: Draft, data: DataSet) -> Attack | None:
        """The attack of a finished run with the trigger that it learned, which fits its own settings only."""
        if draft.learned_by is None:
            return None
        run = demos.open_suspect(draft.learned_by)
        asked = run.spec["attack"]
        if not asked or asked["name"] != draft.name:
            raise ValueError(f"expected a run of {draft.name}, got {draft.learned_by}")
        return attack_of(run, len(data.classes))

    def _seen(self, attack: Attack, data: DataSet, question: Preview) -> dict[str, Any]:
        train, y = data.train, data.train.y
        candidates = y == attack.target if attack.clean_label else attack.changed(y)
        if not candidates.any():
            return {}
        few = preview.show(y, candidates, question.count, question.turn)
        many = preview.show(y, candidates, MEASURED, 0)
        x = train.x[few].float() / 255
        triggered = preview.stored(attack.stamped(x))
        made = self._crafted(attack, data, x, y[few], question.seed)
        becomes = y[few] if attack.clean_label else attack.label(y[few])
        items = [
            {
                "number": int(train.ids[few[k]]),
                "label": int(y[few[k]]),
                "becomes": int(becomes[k]),
                "clean": png(x[k]),
                "triggered": png(triggered[k]),
                "stored": None if made is None else png(made[k]),
            }
            for k in range(len(few))
        ]
        clean = train.x[many].float() / 255
        return {"items": items, **_measured(clean, preview.stored(attack.stamped(clean)))}

    def _crafted(self, attack: Attack, data: DataSet, x: Tensor, y: Tensor, seed: int) -> Tensor | None:
        """The pictures as the training set holds them, where that is not what the trigger does at test time."""
        same = type(attack).craft is Attack.craft
        if same or attack.needs_clean_model or attack.learned or attack.poisons_batches:
            return None
        lab = Lab(data.train, len(data.classes), self._compute, seed)
        return preview.stored(attack.craft(x, y, POISONED, generator(seed, "preview"), lab))


def _measured(clean: Tensor, triggered: Tensor) -> dict[str, Any]:
    """How visible a trigger is, as means over pictures, and its spectrum. PSNR is None where nothing changes."""
    change = triggered - clean
    distance = preview.psnr(clean, triggered)
    seen = distance.isfinite()
    figures = {
        "psnr": float(distance[seen].mean()) if seen.any() else None,
        "ssim": float(preview.ssim(clean, triggered).mean()),
        "largest": round(255 * float(change.abs().max())),
        "changed": float((change.abs().amax(1) > 0).float().mean()),
        "n": len(clean),
    }
    spectrum = preview.amplitude(change)
    height, width = change.shape[-2:]
    return {
        "figures": figures,
        "spectrum": {
            "db": [[round(v, 1) for v in row] for row in preview.decibels(spectrum).tolist()],
            "reach": [height / 2, width / 2],
            "high": preview.high_share(spectrum),
            "high_clean": preview.high_share(preview.amplitude(clean)),
            "peak": list(preview.peak(spectrum)),
        },
    }
