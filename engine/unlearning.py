"""The unlearned model of a resident suspect, made once for all questions about it (:mod:`engine.questions`)."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.compute import Compute
from engine.defenses import DEFENSES
from engine.models.neurons import units
from engine.questions import _Warm, _working
from engine.runs.ask import Answer
from engine.runs.store import Run
from engine.scores.base import Evidence
from engine.scores.rnp import RNP


@dataclass(frozen=True)
class Forgotten:
    """What RNP had under some settings before it learned masks: the unlearned model, the ``ground`` that masks are
    learned on, led to the ``label`` where one was told, and a row a pass of the unlearning."""

    settings: str
    label: int | None
    model: nn.Module
    ground: nn.Module
    log: list[dict[str, float]]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for model in (self.model, self.ground) for t in model.state_dict().values())


def unlearned_of(warm: _Warm, study: Run | None, compute: Compute) -> Iterator[Answer]:
    """Unlearn as an RNP ``study`` did, without one as RNP's preset for the network says; ``warm.extra`` gets it.

    Unlearning takes some passes over the defense images. It goes on in a thread of its own, so that nobody's question
    has to wait for it, and is done once for a suspect, as long as nobody asks for other settings.
    """
    rnp = _settings(warm, study)
    # The masks that a study learned are against the label that it settled on, which need not be the favourite.
    label = study.result.get("log", {}).get("favourite") if study is not None else None
    while not _serves(warm.extra.get("unlearned"), rnp, label):
        thread, told = warm.extra.get("unlearning") or _begin(warm, rnp, label, compute)
        while thread.is_alive():
            yield _working(told["what"], told["share"])
            thread.join(0.25)
        warm.extra.pop("unlearning", None)
        if "error" in told:
            raise told["error"]


def _serves(found: Forgotten | None, rnp: RNP, label: int | None) -> bool:
    """Without a study only the unlearned model is looked at, and that is the same for every label."""
    return found is not None and found.settings == rnp.model_dump_json() and label in (None, found.label)


def _settings(warm: _Warm, study: Run | None) -> RNP:
    if study is not None:
        return RNP.build(study.result["settings"])
    recipe = DEFENSES["rnp"]
    rnp, _ = recipe.build(recipe.preset_for(len(units(warm.suspect.model))), {})
    assert isinstance(rnp, RNP)
    return rnp


def _begin(warm: _Warm, rnp: RNP, label: int | None, compute: Compute) -> tuple[threading.Thread, dict[str, Any]]:
    start = copy.deepcopy(warm.suspect.model)  # here, where nothing is masked
    told: dict[str, Any] = {"what": "unlearning the clean pictures", "share": 0.0}

    def progress(what: str, share: float, **_: float | None) -> None:
        told.update(what=what, share=min(1.0, 2 * share))  # unlearning is the first half of what RNP reports on

    def work() -> None:
        try:
            found = rnp.prepare(start, Evidence(warm.defense, 0, compute, progress=progress, favourite=label))
            assert found.model is not None
            log = found.log["unlearn"]
            warm.extra["unlearned"] = Forgotten(
                rnp.model_dump_json(), label, found.model.eval(), found.ground.eval(), log
            )
        except Exception as error:  # told to whoever asks, in the thread that answers
            told["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    warm.extra["unlearning"] = (thread, told)
    thread.start()
    return thread, told
