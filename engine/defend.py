"""Running a defense: draw defense images, score, choose a threshold, repair, measure on images that no policy saw."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator

from engine.attacks.recovered import Recovered
from engine.compute import Compute, generator, steady
from engine.data.base import DataSet, Images, draw, draw_each, profile
from engine.defenses import DEFENSES
from engine.detectors.neural_cleanse import NeuralCleanse
from engine.detectors.recovery import recover
from engine.explain.activations import mean_outputs
from engine.metrics import Answers, TestSet, answers, der, der_interval, paired_interval
from engine.models.base import Classifier
from engine.models.masking import Mode, apply_cut, masked
from engine.pruning.cut import cut_at, cut_of
from engine.pruning.sweep import counts_for, point, sweep
from engine.pruning.thresholds import HeldOut, Policy, by_knee, by_oracle, by_policy, cross_fit
from engine.repairs import Repair
from engine.runs.store import Draft, Run, finished, new_run, open_run, run_folder
from engine.scores import Evidence, Score, Scores
from engine.scores.base import refuse_without
from engine.scores.rnp import RNP
from engine.scores.unlearned import OnUnlearned, forget
from engine.spec import Spec, digest, param
from engine.suspects import Suspect, closer, layer_rows, shares, training_set, untrained, vectors, weights
from engine.train import Progress, silent, stage


class Scoring(Spec):
    """What ``defend`` and ``sweep`` have in common."""

    suspect: str
    defense: str = "rnp"
    preset: str = "published"
    params: dict[str, Any] = {}
    samples: int | None = param(
        500, label="Defense images", help="Clean images that the defender has; none: so many per class.", ge=1, step=100
    )
    # Left out of the record at their defaults, like all that came later.
    per_class: int | None = param(
        None, label="Per class", help="Images of each class, in place of a number of all.", ge=1, step=1,
        tacit=True,
    )  # fmt: skip
    imbalance: float = param(
        1.0,
        label="Imbalance",
        help="How many times as many images the most frequent class has as the rarest; between them the numbers fall "
        "by the same factor from class to class.",
        ge=1,
        le=10_000,
        step=1,
        tacit=True,
    )
    trigger: Literal["none", "true", "recovered"] = param(
        "none",
        label="Trigger",
        help="Which trigger scores and repairs may use; true: oracle; recovered: what Neural Cleanse finds.",
    )
    # Left out of the record where there are none, so that the run ids of other defenses do not change.
    recovery: dict[str, Any] = param({}, label="Recovery", help="Settings of Neural Cleanse.", tacit=True)
    # Left out of the record where it is not given, so that the run ids of other defenses do not change.
    training: bool = param(
        False,
        label="Training set",
        help="Whether the defender has the suspect's training set, as it was poisoned.",
        tacit=True,
    )
    # Both left out of the record where the suspect is the start.
    start: Literal["suspect", "unlearned"] = param(
        "suspect",
        label="Start",
        help="unlearned: scores are taken of the model that RNP has unlearned, and still cut the suspect; a repair "
        "without a score starts from that model.",
        tacit=True,
    )
    unlearn: dict[str, Any] = param({}, label="Unlearning", help="RNP's settings for the start unlearned.", tacit=True)
    mode: Mode = param("scale", label="Mode", help="Keep the bias (scale) or zero the output (silence).")
    policy: Policy = Policy()
    seed: int = param(0, label="Seed", help="Which images are drawn, and every other choice.", ge=0, step=1)

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.samples is None) == (self.per_class is None):
            raise ValueError("expected either samples or per_class, got " + ("both" if self.samples else "neither"))
        return self


class DefendRun(Scoring):
    """What the ``defend`` command runs."""

    kind: Literal["defend"] = "defend"


class SweepRun(Scoring):
    """What the ``sweep`` command runs."""

    kind: Literal["sweep"] = "sweep"
    points: int = param(50, label="Points", help="Cuts on the curve.", ge=2, le=1000, step=1)
    test_samples: int = param(
        2000, label="Test images", help="Clean and triggered test images per point, at most.", ge=1, step=500
    )


@dataclass(frozen=True)
class Decision:
    """Scores with the threshold that the policy chose on defense data; ``None`` cuts nothing."""

    scores: Scores
    held_out: HeldOut | None = None
    threshold: float | None = None
    oracle: bool = False

    @property
    def cut(self) -> np.ndarray:
        return cut_at(self.scores.values.numpy(), self.threshold)


def evidence_for(spec: Scoring, suspect: Suspect, compute: Compute, progress: Progress = silent) -> Evidence:
    """The defender's images, and the true trigger and the training set if the specification allows them.

    A trigger that is to be recovered is not there yet: see :func:`with_trigger`.

    Raises:
        ValueError: if more images are asked for than the pool has, or there is no trigger or training set to use.
    """
    if spec.recovery and spec.trigger != "recovered":
        raise ValueError(f"expected settings of the recovery with --trigger recovered, got it with {spec.trigger}")
    NeuralCleanse.build(spec.recovery)
    RNP.build(spec.unlearn)
    if spec.unlearn and spec.start != "unlearned":
        raise ValueError("expected settings of the unlearning with --start unlearned, got them without")
    if spec.start == "unlearned" and (score := build(spec)[0]) is not None and score.unlearns:
        raise ValueError(f"expected a defense that does not unlearn itself for --start unlearned, got {spec.defense}")
    if spec.trigger == "true" and suspect.attack is None:
        raise ValueError(
            f"expected a suspect with a known trigger for --trigger true, got {suspect.name}, which has none"
        )
    images = defense_images(spec, suspect.data)
    trigger = suspect.attack if spec.trigger == "true" else Recovered() if spec.trigger == "recovered" else None
    training = training_set(suspect, compute) if spec.training else None
    evidence = Evidence(images, spec.seed, compute, trigger, spec.trigger == "true", progress, training=training)
    return replace(evidence, fresh=untrained(suspect), mode=spec.mode)


def defense_images(spec: Scoring, data: DataSet) -> Images:
    """The clean images that the defender has, drawn from the pool.

    Raises:
        ValueError: in one line, if the pool has too few, or the classes are not so many.
    """
    rng, classes = generator(spec.seed, "defense images"), len(data.classes)
    if spec.samples is not None and spec.imbalance == 1:
        return draw(data.pool, spec.samples, rng)
    n = spec.samples or (spec.per_class or 0) * classes
    return draw_each(data.pool, profile(n, classes, spec.imbalance, rng), rng)


def with_trigger(spec: Scoring, suspect: Suspect, evidence: Evidence, draft: Draft) -> tuple[Evidence, dict[str, Any]]:
    """The evidence with a recovered trigger where that is asked for, and what the result says of it.

    Its progress is what the recovery has left of it.
    """
    if spec.trigger != "recovered":
        return replace(evidence, keep=draft.keep), {}
    first = replace(evidence, progress=stage(evidence.progress, 0, 0.2), keep=draft.keep.part("trigger"))
    trigger, about = recover(NeuralCleanse.build(spec.recovery), suspect.model, first)
    draft.arrays("recovered", {key: value.numpy() for key, value in trigger.state.items()})
    rest = stage(evidence.progress, 0.2, 1)
    return replace(evidence, trigger=trigger, progress=rest, keep=draft.keep), {"recovered": about}


def build(spec: Scoring) -> tuple[Score | None, Repair | None]:
    return DEFENSES[spec.defense].build(spec.preset, spec.params)


def build_score(spec: Scoring) -> Score:
    """The score of a defense.

    Raises:
        ValueError: if it has none.
    """
    score, _ = build(spec)
    if score is None:
        raise ValueError(f"expected a defense that scores units, got {spec.defense}, which only tunes")
    return score


def decide(spec: Scoring, suspect: Suspect, evidence: Evidence) -> Decision:
    """Score the suspect and choose a threshold from defense data alone (all policies but ``oracle``)."""
    score, policy = build(spec)[0], spec.policy
    if score is None:
        nothing = Scores(torch.full((len(suspect.units),), torch.nan))
        if spec.start == "unlearned":
            _, state, log = forget(RNP.build(spec.unlearn), suspect.model, evidence)
            nothing = replace(nothing, unlearned=state, log=log)
        return Decision(nothing)
    title = score.title
    if spec.start == "unlearned":
        score = OnUnlearned(score=score, unlearn=RNP.build(spec.unlearn))
    if policy.name == "fixed" and policy.threshold is None:
        raise ValueError("expected --threshold with the policy fixed, got none")
    if policy.name in ("tolerance", "knee"):
        # Far enough beyond the tolerance that the knee shows and that noise cannot hide a late recovery.
        scores, held_out = cross_fit(
            score, suspect.model, evidence, policy.folds, spec.mode, give_up=max(0.1, 2.5 * policy.tolerance)
        )
        values = scores.values.numpy()
        threshold, _ = cut_of(
            values, by_knee(held_out) if policy.name == "knee" else by_policy(held_out, policy, scores)
        )
        return Decision(scores, held_out, threshold, scores.oracle)
    scores = score(suspect.model, evidence)
    if policy.name == "native" and scores.native is None:
        raise ValueError(f"expected a score whose paper says where to stop for the policy native, got {title}")
    if policy.name in ("fixed", "native"):
        threshold = policy.threshold if policy.name == "fixed" else scores.native
        return Decision(scores, None, threshold, scores.oracle)
    if policy.name == "fraction":
        threshold, _ = cut_of(scores.values.numpy(), round(policy.fraction * len(suspect.units)))
        return Decision(scores, None, threshold, scores.oracle)
    if suspect.attack is None:
        raise ValueError(f"expected a suspect with a trigger for the policy oracle, got {suspect.name}, which has none")
    values = scores.values.numpy()
    rows = sweep(
        suspect.model,
        values,
        counts_for(values, 40),
        suspect.test_set().head(2000),
        spec.mode,
        evidence.compute,
        evidence.progress,
        evidence.keep,
    )
    return Decision(scores, None, by_oracle(rows, policy.tolerance)["threshold"], True)


def outcome(before: Answers, after: Answers) -> dict[str, Any]:
    """Before and after, as the ``defend`` command reports them."""
    row: dict[str, Any] = {}
    for when, found in (("before", before), ("after", after)):
        for key, value in shares(found).items():
            row[f"{key}_{when}"] = value
    return {
        **row,
        "acc_drop": row["acc_before"] - row["acc_after"],
        "acc_drop_interval": list(paired_interval(before.correct, after.correct)),
        "der": der(before, after),
        "der_interval": der_interval(before, after),
    }


def _cut_copy(suspect: Suspect, cut: np.ndarray, mode: Mode) -> Classifier:
    model = copy.deepcopy(suspect.model)
    apply_cut(model, torch.from_numpy(cut), mode)
    return model


def _log(suspect: Suspect, scores: Scores, evidence: Evidence) -> dict[str, Any]:
    """The log of a score; of an unlearned model also which answer it gives most often to clean images, ``label``."""
    if scores.unlearned is None:
        return scores.log
    model = copy.deepcopy(suspect.model)
    model.load_state_dict(scores.unlearned)
    said = evidence.compute.logits(model, evidence.images.x).argmax(1).bincount()
    label = {"class": int(said.argmax()), "share": float(said.max() / said.sum())}
    return {**scores.log, "label": label}


def _store(draft: Draft, suspect: Suspect, cut: np.ndarray, repaired: Classifier, compute: Compute) -> dict[str, Any]:
    """Measure the repaired model on the whole test set and store it."""
    after = answers(repaired, suspect.test_set(), compute)
    draft.arrays("repaired", weights(repaired))
    draft.arrays("answers", vectors(after))
    # Whoever removes one of several triggers has not removed the rest.
    more: dict[str, Any] = {}
    if suspect.attack is not None and suspect.attack.variants():
        more = closer(repaired, suspect.data.test, suspect.attack, compute)
    return {
        **{f"{key}_after": more[key] for key in ("triggers", "worst") if key in more},
        "pruned": int(cut.sum()),
        "units": len(suspect.units),
        "per_layer": suspect.units.per_layer(torch.from_numpy(cut)),
        "layers": layer_rows(suspect.units),
        "classes": list(suspect.data.classes),
        **outcome(suspect.answers(compute), after),
    }


def input_hashes(weights: str, spec: Scoring | None = None) -> dict[str, str]:
    """What a result depends on besides its specification; a preset's name does not say what it holds.

    ``weights`` is the SHA-256 of the suspect's file of weights.
    """
    preset = DEFENSES[spec.defense].presets.get(spec.preset, {}) if spec else {}
    return {"suspect": weights, **({"preset": digest(preset)} if preset else {})}


def _inputs(suspect: Suspect, spec: Scoring | None = None) -> dict[str, str]:
    return input_hashes(suspect.hash, spec)


def run_defend(
    spec: DefendRun, suspect: Suspect, compute: Compute, out: Path | None = None, progress: Progress = silent
) -> Run:
    """Defend a suspect and store the repaired model; an existing run of the same specification is returned."""
    asked = spec.model_dump(mode="json")
    score, repair = build(spec)
    if known := finished(asked, _inputs(suspect, spec), out):
        return known
    evidence = evidence_for(spec, suspect, compute, progress)
    for part in (score, repair):
        if part is not None:
            refuse_without(part, evidence)
    with new_run(asked, _inputs(suspect, spec), out) as draft:
        steady(draft.keep)
        evidence, about_trigger = with_trigger(spec, suspect, evidence, draft)
        progress = evidence.progress
        half = 0.5 if repair and (score or spec.start == "unlearned") else 0.95 * (repair is None)
        decision = decide(spec, suspect, replace(evidence, progress=stage(progress, 0, half)))
        model, found = _cut_copy(suspect, decision.cut, spec.mode), None
        if score is None and decision.scores.unlearned is not None:
            model.load_state_dict(decision.scores.unlearned)
        if repair is not None:
            then = stage(progress, half, 0.95)
            cut = torch.from_numpy(decision.cut)
            found = repair(model, replace(evidence, progress=then, keep=draft.keep.part("repair"), cut=cut))
            assert isinstance(found.model, Classifier)
            model = found.model
            if found.extras:
                draft.arrays("extras", found.extras)
        progress("measuring the repaired model on the test set", 0.95)
        measured = _store(draft, suspect, decision.cut, model, compute)
        draft.arrays("scores", {"values": decision.scores.values.numpy(), "cut": decision.cut.astype(np.uint8)})
        if decision.scores.unlearned is not None:
            state = {k: v.half() if v.ndim > 1 else v for k, v in decision.scores.unlearned.items()}
            draft.arrays("unlearned", {k: v.numpy() for k, v in state.items()})
        draft.result = {
            "defense": spec.defense,
            "score": DEFENSES[spec.defense].score,
            "repair": DEFENSES[spec.defense].repair,
            "title": DEFENSES[spec.defense].title,
            "oracle": decision.oracle or (found is not None and found.oracle),
            "policy": spec.policy.name if score else None,
            "threshold": decision.threshold,
            "native": decision.scores.native,
            "mode": spec.mode,
            "samples": len(evidence.images),
            **about_trigger,
            **measured,
            "heldout": decision.held_out.rows() if decision.held_out else [],
            "settings": {
                **(score.model_dump(mode="json") if score else {}),
                **{f"repair.{key}": value for key, value in (repair.model_dump(mode="json") if repair else {}).items()},
            },
            "log": {**_log(suspect, decision.scores, evidence), **({"repair": found.log} if found else {})},
            "precision": compute.precision,
            "machine": compute.describe(),
        }
    return open_run(run_folder(asked, _inputs(suspect, spec), out))


def run_sweep(
    spec: SweepRun, suspect: Suspect, compute: Compute, out: Path | None = None, progress: Progress = silent
) -> Run:
    """Score a suspect, let the policies choose, and measure the curve on test images."""
    asked = spec.model_dump(mode="json")
    score = build_score(spec)
    if known := finished(asked, _inputs(suspect, spec), out):
        return known
    evidence = evidence_for(spec, suspect, compute, stage(progress, 0, 0.6))
    with new_run(asked, _inputs(suspect, spec), out) as draft:
        steady(draft.keep)
        evidence, about_trigger = with_trigger(spec, suspect, evidence, draft)
        decision = decide(spec, suspect, evidence)
        scores, values = decision.scores, decision.scores.values.numpy()
        test = suspect.test_set().head(spec.test_samples)
        counts, then = counts_for(values, spec.points), stage(progress, 0.6, 1)
        rows = sweep(suspect.model, values, counts, test, spec.mode, compute, then, draft.keep)
        chosen = {
            "policy": spec.policy.name,
            "oracle": decision.oracle,
            **_measured(suspect, decision.cut, decision.threshold, test, spec.mode, compute),
        }
        draft.arrays("scores", {"values": values})
        draft.arrays("activations", _activations(suspect, evidence))
        draft.result = {
            "score": DEFENSES[spec.defense].score,
            "title": type(score).title,
            "oracle": scores.oracle,
            "native": scores.native,
            "native_rule": type(score).native_rule,
            "units": len(suspect.units),
            "layers": layer_rows(suspect.units),
            "classes": list(suspect.data.classes),
            "mode": spec.mode,
            "samples": len(evidence.images),
            **about_trigger,
            "points": rows,
            "n": _numbers(test),
            "heldout": decision.held_out.rows() if decision.held_out else [],
            "chosen": chosen,
            "policies": _policies(decision, rows, spec.policy),
            "settings": score.model_dump(mode="json"),
            "log": _log(suspect, scores, evidence),
            "precision": compute.precision,
            "machine": compute.describe(),
        }
    return open_run(run_folder(asked, _inputs(suspect, spec), out))


def _numbers(test: TestSet) -> dict[str, int | None]:
    """How many images each share of a curve is of."""
    triggered = None if test.triggered is None else len(test.triggered)
    if test.measures == "targets":
        return {"acc": len(test.clean), "asr": None, "success": triggered}
    return {"acc": len(test.clean), "asr": triggered}


def _measured(
    suspect: Suspect, cut: np.ndarray, threshold: float | None, test: TestSet, mode: Mode, compute: Compute
) -> dict[str, Any]:
    with masked(suspect.model, torch.from_numpy(cut), mode):
        return point(answers(suspect.model, test, compute), threshold, int(cut.sum()))


def _activations(suspect: Suspect, evidence: Evidence) -> dict[str, np.ndarray]:
    """Mean output of every unit on the defense images, clean and, for the Oracle view, triggered."""
    x = evidence.images.x
    found = {"clean": mean_outputs(suspect.model, x, evidence.compute).mean(0).numpy()}
    if suspect.attack is not None:
        stamped = suspect.attack.stamped(x)
        found["triggered"] = mean_outputs(suspect.model, stamped, evidence.compute).mean(0).numpy()
    return found


def _policies(decision: Decision, rows: list[dict[str, Any]], policy: Policy) -> list[dict[str, Any]]:
    """What every policy would choose on this score, for the marks on the threshold axis."""
    values = decision.scores.values.numpy()
    found: list[dict[str, Any]] = []
    if decision.held_out is not None:
        tolerated = by_policy(decision.held_out, policy, decision.scores)
        counts = {"tolerance": tolerated, "knee": by_knee(decision.held_out)}
        found += [
            {"policy": p, "oracle": decision.oracle, "threshold": cut_of(values, c)[0]} for p, c in counts.items()
        ]
    if decision.scores.native is not None:
        found.append({"policy": "native", "oracle": decision.oracle, "threshold": decision.scores.native})
    if rows[0]["asr"] is not None:
        best = by_oracle(rows, policy.tolerance)
        found.append({"policy": "oracle", "oracle": True, "threshold": best["threshold"]})
    return [{**row, "pruned": int(cut_at(values, row["threshold"]).sum())} for row in found]


def commit_cut(
    suspect: Suspect,
    cut: list[int],
    mode: Mode,
    compute: Compute,
    *,
    threshold: float | None,
    score: str,
    study: str,
    edits: dict[str, str],
    role: str,
    out: Path | None = None,
) -> Run:
    """Store a cut that a person made by hand as a finished ``defend`` run.

    Raises:
        ValueError: for units that the model does not have.
    """
    units = len(suspect.units)
    if any(not 0 <= unit < units for unit in cut):
        raise ValueError(f"expected units between 0 and {units - 1}, got {max(cut, key=abs)}")
    asked = {
        "kind": "defend",
        "suspect": suspect.name,
        "defense": "by_hand",
        "score": score,
        "study": study,
        "threshold": threshold,
        "edits": edits,
        "cut": sorted(cut),
        "mode": mode,
        "role": role,
    }
    if known := finished(asked, _inputs(suspect), out):
        return known
    chosen = np.zeros(units, dtype=bool)
    chosen[cut] = True
    with new_run(asked, _inputs(suspect), out) as draft:
        measured = _store(draft, suspect, chosen, _cut_copy(suspect, chosen, mode), compute)
        draft.arrays("scores", {"cut": chosen.astype(np.uint8)})
        draft.result = {
            "defense": "by_hand",
            "score": score,
            "title": "Cut by hand",
            # Chosen while ASR was in view: an oracle, however little it was used.
            "oracle": role == "oracle",
            "policy": "by_hand",
            "threshold": threshold,
            "native": None,
            "mode": mode,
            **measured,
            "precision": compute.precision,
            "machine": compute.describe(),
        }
    return open_run(run_folder(asked, _inputs(suspect), out))
