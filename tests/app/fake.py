"""A workspace of invented but plausible demos, for tests and screenshots of the pages.

The folders are written through :func:`engine.runs.store.new_run`, so the pages read them as they read real ones; no
network was trained. Nothing here needs torch.

    python -m tests.app.fake FOLDER      writes FOLDER/demos and prints the variables that point the app there
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.paths import ASSETS
from engine.pruning.cut import cut_at, thresholds
from engine.runs import ask
from engine.runs.store import new_run

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
SCORES = {
    "rnp": ("RNP", False),
    "activation": ("Fine-Pruning activation", False),
    "tac": ("Trigger-activated change (TAC)", True),
    "unlearning_gradient": ("Unlearning gradient (Grad-Prune)", True),
    "random": ("Random (control)", False),
}
#: How well each score finds the planted units, 0 to 1.
SKILL = {"rnp": 0.9, "activation": 0.35, "tac": 0.98, "unlearning_gradient": 0.95, "random": 0.0}


def turned(at: Any, name: str) -> str:
    """The present key of a widget that :func:`app.state.shows` made, on a page under ``AppTest``."""
    turn = at.session_state[f"{name}:turn"]
    return f"{name} {turn}" if turn else name


@dataclass(frozen=True)
class Figures:
    """What a fake suspect measures before a cut; ``constant`` keeps ASR and RA there whatever is cut."""

    acc: float = 0.931
    asr: float | None = 0.9987
    ra: float | None = 0.0011
    constant: bool = False


LOUD = Figures(0.93, 0.737373, 0.262626, constant=True)
"""Figures that are unmistakable wherever they stand."""


def layers() -> list[dict[str, Any]]:
    """The units of a ResNet-18 of width 32: 2,400 in 20 layers."""
    sizes = {"bn1": 32}
    for stage, width in enumerate((32, 64, 128, 256), start=1):
        for block in (0, 1):
            sizes[f"layer{stage}.{block}.bn1"] = sizes[f"layer{stage}.{block}.bn2"] = width
            if stage > 1 and block == 0:
                sizes[f"layer{stage}.0.shortcut.1"] = width
    rows, offset = [], 0
    for name, size in sizes.items():
        rows.append({"name": name, "kind": "norm", "size": size, "offset": offset})
        offset += size
    return rows


def planted(seed: int) -> np.ndarray:
    """The units that carry the fake backdoor, bool (U,): most of them in the last stage."""
    draw = np.random.default_rng(seed)
    parts = []
    for row in layers():
        share = {"layer4": 0.075, "layer3": 0.02, "layer2": 0.005}.get(row["name"][:6], 0.0)
        parts.append(draw.random(row["size"]) < share * (1.8 if row["name"].startswith("layer4.1") else 1))
    return np.concatenate(parts)


def scores(name: str, backdoor: np.ndarray, seed: int) -> np.ndarray:
    draw = np.random.default_rng([seed, len(name), ord(name[0])])
    n, skill = len(backdoor), SKILL[name]
    if name == "rnp":
        base = np.where(draw.random(n) < 0.78, 0.0, draw.beta(0.7, 7.0, n))
        high = np.clip(draw.beta(3.2, 1.4, n), 0, 1)
        return np.where(backdoor & (draw.random(n) < skill + 0.08), high, base).astype(np.float32)
    noise = draw.gamma(1.2, 0.12, n)
    lift = draw.gamma(6.0, 0.2, n) * skill
    return (noise + np.where(backdoor, lift, 0)).astype(np.float32)


def share(value: float | None, n: int) -> tuple[float | None, float | None, float | None]:
    """Value with its 95 % Wilson interval."""
    if value is None:
        return None, None, None
    z = 1.96
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return value, float(max(0, middle - half)), float(min(1, middle + half))


def measure(cut: np.ndarray, backdoor: np.ndarray, before: Figures) -> dict[str, float | None]:
    """Invented figures of a cut: ASR falls as planted units go, accuracy as the others do."""
    hit = float(cut[backdoor].mean())
    lost = float(cut[~backdoor].mean())
    acc = 0.1 + (before.acc - 0.1) * float(np.exp(-((lost * 7) ** 1.6)) * (1 - 0.012 * hit))
    if before.asr is None or before.ra is None:
        return {"acc": acc, "asr": None, "ra": None}
    if before.constant:
        return {"acc": acc, "asr": before.asr, "ra": before.ra}
    alive = 1 / (1 + np.exp((hit - 0.62) * 18))
    asr = before.asr * float(alive) * (0.9 if hit > 0.9 else 1)
    return {"acc": acc, "asr": asr, "ra": max(before.ra, (acc - 0.04) * (1 - asr) * 0.98)}


def point(cut: np.ndarray, threshold: float | None, backdoor: np.ndarray, before: Figures, n: int) -> dict[str, Any]:
    row: dict[str, Any] = {"threshold": threshold, "pruned": int(cut.sum())}
    for key, value in measure(cut, backdoor, before).items():
        row[key], row[f"{key}_low"], row[f"{key}_high"] = share(value, n)
    return row


def write_study(folder: Path, suspect: str, score: str, backdoor: np.ndarray, before: Figures, seed: int) -> None:
    values = scores(score, backdoor, seed)
    title, oracle = SCORES[score]
    levels, counts = thresholds(values)
    fine = np.unique(np.round(np.linspace(0, 600, 40)).astype(int))
    wanted = np.concatenate([fine, np.linspace(700, len(values), 10).astype(int)])
    picked = sorted({int(i) for i in np.searchsorted(counts, wanted, side="right") - 1})
    rows = []
    for k in picked:
        threshold = None if k == 0 else float(levels[k])
        rows.append(point(cut_at(values, threshold), threshold, backdoor, before, 2000))

    def at(count: int) -> float:
        return float(levels[max(1, int(np.searchsorted(counts, count, side="right")) - 1)])

    n_backdoor = int(backdoor.sum())
    policies = [
        {"policy": "tolerance", "oracle": oracle, "threshold": at(n_backdoor)},
        {"policy": "knee", "oracle": oracle, "threshold": at(round(n_backdoor * 1.5))},
    ]
    native = 0.3 if score == "rnp" else None
    if native is not None:
        policies.append({"policy": "native", "oracle": oracle, "threshold": native})
    if before.asr is not None:
        policies.append({"policy": "oracle", "oracle": True, "threshold": at(round(n_backdoor * 0.85))})
    for row in policies:
        row["pruned"] = int(cut_at(values, row["threshold"]).sum())
    chosen = point(cut_at(values, policies[0]["threshold"]), policies[0]["threshold"], backdoor, before, 2000)
    drops = [(int(p["pruned"]), rows[0]["acc"] - p["acc"]) for p in rows if p["pruned"] <= 600]
    spec = {
        "kind": "sweep", "suspect": suspect, "score": score, "params": {}, "preset": "small", "samples": 500,
        "trigger": "true" if oracle else "none", "mode": "scale", "policy": {"name": "tolerance", "tolerance": 0.01},
        "seed": seed, "points": 50, "test_samples": 2000,
    }  # fmt: skip
    draw = np.random.default_rng(seed + 5)
    clean = draw.gamma(2.0, 0.18, len(values))
    lift = np.where(backdoor, draw.gamma(5.0, 0.22, len(values)), draw.normal(0, 0.03, len(values)))
    with new_run(spec, {"suspect": f"fake {suspect}"}, folder) as run:
        run.arrays("scores", {"values": values})
        activations = {"clean": clean.astype(np.float32)}
        if before.asr is not None:
            activations["triggered"] = np.maximum(0, clean + lift).astype(np.float32)
        run.arrays("activations", activations)
        run.result = {
            "score": score, "title": title, "oracle": oracle, "native": native,
            "native_rule": "mask at or below 0.7" if native is not None else "", "units": len(values),
            "layers": layers(), "classes": CLASSES, "mode": "scale", "seconds": 31.0, "precision": "float32",
            "points": rows, "n": {"acc": 2000, "asr": None if before.asr is None else 2000},
            "heldout": [{"pruned": n, "drop": d, "low": d - 0.006, "high": d + 0.006} for n, d in drops],
            "chosen": {"policy": "tolerance", "oracle": oracle, **chosen}, "policies": policies, "settings": {},
            "log": {},
        }  # fmt: skip


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Test images (N, 28, 28) uint8 and their labels, from the shipped sheets."""
    folder = ASSETS / "data" / "fashion-mnist"
    sheet = np.asarray(Image.open(folder / "test.png"))
    labels = np.asarray(Image.open(folder / "test_labels.png")).reshape(-1)
    rows = sheet.shape[0] // 28
    return sheet.reshape(rows, 28, 100, 28).transpose(0, 2, 1, 3).reshape(-1, 28, 28), labels


def triggered(name: str, clean: np.ndarray) -> np.ndarray:
    stamped = clean.astype(np.float32)
    if name == "badnets":
        stamped[:, 24:27, 24:27] = 255 * ((np.arange(3)[:, None] + np.arange(3)) % 2 == 0)
    elif name == "blend":
        stamped = 0.85 * stamped + 0.15 * np.random.default_rng(3).integers(0, 256, (28, 28))
    else:
        stamped = stamped + 30 * np.sin(2 * np.pi * 6 * np.arange(28) / 28)
    return np.clip(np.round(stamped), 0, 255).astype(np.uint8)


def write_gallery(folder: Path, name: str, before: Figures, after: dict[str, Any]) -> None:
    x, y = pictures()
    which = [int(i) for c in (9, 8, 3, 1, 7, 5, 4, 2, 6) for i in np.flatnonzero(y == c)[:3]][:24]
    draw = np.random.default_rng(11)
    which = [which[i] for i in draw.permutation(len(which))]

    def answers(wanted: np.ndarray) -> np.ndarray:
        p = draw.random((len(which), len(CLASSES))) ** 6 * 0.08
        p[np.arange(len(which)), wanted] = 0
        return np.column_stack([p[:, c] for c in range(len(CLASSES))]) + np.eye(len(CLASSES))[wanted] * (
            1 - p.sum(1, keepdims=True)
        )

    truth = y[which].astype(np.int64)
    target = np.zeros(len(which), dtype=int)
    clean = x[which]
    with new_run({"kind": "gallery", "suspect": f"demo:{name}"}, {}, folder) as run:
        run.arrays(
            "gallery",
            {
                "clean": clean[:, None],
                "triggered": triggered(name, clean)[:, None],
                "truth": truth,
                **{
                    key: answers(wanted).astype(np.float32)
                    for key, wanted in (
                        ("p_clean", truth),
                        ("p_triggered", target),
                        ("p_clean_cut", truth),
                        ("p_triggered_cut", truth),
                    )
                },
            },
        )
        run.result = {
            "threshold": after["threshold"], "pruned": after["pruned"], "units": 2400, "classes": CLASSES,
            "acc_before": before.acc, "asr_before": before.asr, "acc_after": after["acc"], "asr_after": after["asr"],
            "ra_after": after["ra"],
        }  # fmt: skip


def write_suspect(folder: Path, name: str, before: Figures, seed: int) -> None:
    attack = None if before.asr is None else {"name": name, "params": {"target": 0, "rate": 0.05}}
    spec = {
        "kind": "attack", "data": "fashion-mnist:full", "model": {"name": "resnet18", "width": 32}, "attack": attack,
        "training": {"epochs": 4}, "seed": seed,
    }  # fmt: skip
    figures = {key: share(getattr(before, key), 9000 if key != "acc" else 10000) for key in ("acc", "asr", "ra")}
    with new_run(spec, {}, folder) as run:
        run.bytes("model.safetensors", f"no weights: {name} {seed}".encode())
        run.result = {
            **{key: value[0] for key, value in figures.items()},
            "intervals": {key: None if value[0] is None else list(value[1:]) for key, value in figures.items()},
            "n": {k: None if v[0] is None else (10000 if k == "acc" else 9000) for k, v in figures.items()},
            "clean_acc": 0.934, "poisoned": 2500 if attack else 0, "trained_on": 50000, "units": 2400,
            "layers": layers(), "classes": CLASSES, "precision": "float32", "seconds": 500.0, "history": [],
        }  # fmt: skip


def defense(name: str, title: str, before: Figures, *, oracle: bool = False, skill: float = 0.9) -> dict[str, Any]:
    """The result of a fake defense; with ``before.constant`` ASR and RA stay what they are."""
    acc, asr, ra = before.acc - 0.01 * skill, before.asr, before.ra
    if asr is not None and not before.constant:
        asr, ra = asr * (1 - skill), skill * acc
    found: dict[str, Any] = {
        "defense": name, "title": title, "oracle": oracle, "policy": "tolerance", "threshold": 0.3, "pruned": 85,
        "units": 2400, "acc_before": before.acc, "acc_after": acc, "acc_drop": before.acc - acc,
        "acc_drop_interval": [before.acc - acc - 0.003, before.acc - acc + 0.003],
    }  # fmt: skip
    intervals = {}
    for key, value in (("acc", acc), ("asr", asr), ("ra", ra)):
        intervals[key] = None if value is None else list(share(value, 9000)[1:])
    found["intervals_after"] = intervals
    if asr is not None:
        found |= {"asr_before": before.asr, "asr_after": asr, "ra_before": before.ra, "ra_after": ra}
        found |= {"der": asr, "der_interval": intervals["asr"]}
    return found


def write_defense(folder: Path, suspect: str, found: dict[str, Any], seed: int = 0) -> None:
    """A finished ``defend`` run of what :func:`defense` found."""
    spec = {
        "kind": "defend", "suspect": suspect, "defense": found["defense"], "params": {}, "preset": "published",
        "samples": 500, "trigger": "true" if found["oracle"] else "none", "mode": "scale", "seed": seed,
        "policy": {"name": "tolerance", "tolerance": 0.01},
    }  # fmt: skip
    with new_run(spec, {"suspect": f"fake {suspect}"}, folder) as run:
        run.result = found


def retuned(before: Figures, asrs: tuple[float, ...], twin: tuple[float, ...] | None = None) -> dict[str, Any]:
    """The result of a fake retuning: ASR of the repaired model, and of a clean twin, at each epoch from 0."""

    def row(asr: float, acc: float = before.acc - 0.01) -> dict[str, Any]:
        values = {"acc": acc, "asr": asr, "ra": (1 - asr) * acc}
        spans = {key: list(share(value, 9000)[1:]) for key, value in values.items()}
        return {**values, "intervals": spans, "n": dict.fromkeys(values, 9000)}

    def epochs(values: tuple[float, ...]) -> list[dict[str, Any]]:
        return [{"epoch": k, **row(asr)} for k, asr in enumerate(values)]

    rows = epochs(asrs)
    return {
        "title": "Retuning after RNP", "defense": "rnp", "oracle": True, "images": 5, "clean": 1000,
        **{f"{m}_before": rows[0][m] for m in ("acc", "asr", "ra")},
        **{f"{m}_after": rows[-1][m] for m in ("acc", "asr", "ra")},
        "undefended": row(before.asr or 0.0, before.acc), "epochs": rows,
        "twin": {"suspect": "demo:clean", "epochs": epochs(twin)} if twin else None,
    }  # fmt: skip


def write_retuning(folder: Path, suspect: str, defended: str, found: dict[str, Any]) -> None:
    """A finished ``retune`` run of what :func:`retuned` found, of the ``defend`` run with this id."""
    spec = {
        "kind": "retune",
        "suspect": suspect,
        "run": defended,
        "images": found["images"],
        "clean": 1000,
        "epochs": 5,
        "seed": 0,
    }
    with new_run(spec, {"suspect": f"fake {suspect}"}, folder) as run:
        run.result = found


def write_table(path: Path, demos: dict[str, Figures]) -> None:
    """A shipped table: RNP with two seeds, fine-tuning not done everywhere, and TAC, which is an oracle."""
    rows = []
    for demo, before in demos.items():
        head = {"suspect": f"demo:{demo}", "attack": demo, "samples": 500, "preset": "published", "seconds": 31.0}
        for name, title, skill in (("rnp", "RNP", 0.9), ("fine_tuning", "Fine-tuning", 0.4), ("tac", "TAC", 0.98)):
            if before.asr is None and name == "tac":
                continue
            how = {**head, "trigger": "true" if name == "tac" else "none"}
            for seed in (0, 1) if name == "rnp" else (0,):
                result = defense(name, title, before, oracle=name == "tac", skill=skill - 0.1 * seed)
                rows.append({**how, **result, "seed": seed, "state": "done", "run": f"{len(rows):016x}"})
        rows.append({**head, "defense": "nad", "title": "NAD", "seed": 0, "trigger": "none", "state": "pending"})
    path.write_text(json.dumps({"about": "invented", "rows": rows}))


def build(
    root: Path,
    demos: dict[str, Figures] | None = None,
    kinds: tuple[str, ...] = tuple(SCORES),
) -> dict[str, str]:
    """Write ``root/demos`` and name the environment variables under which the app reads it."""
    demos = demos or {
        "badnets": Figures(),
        "blend": Figures(0.928, 0.9821, 0.0162),
        "sig": Figures(0.927, 0.9034, 0.0713),
        "clean": Figures(0.934, None, None),
    }
    for seed, (name, before) in enumerate(demos.items()):
        folder = root / "demos" / name
        backdoor = planted(seed + 1)
        for score in kinds:
            if before.asr is None and SCORES[score][1]:
                continue
            write_study(folder / "study" / score, f"demo:{name}", score, backdoor, before, seed)
        if before.asr is not None:
            values = scores("rnp", backdoor, seed)
            levels, counts = thresholds(values)
            threshold = float(levels[int(np.searchsorted(counts, int(backdoor.sum()), side="right")) - 1])
            after = point(cut_at(values, threshold), threshold, backdoor, before, 9000)
            write_gallery(folder / "gallery", name, before, after)
        write_suspect(folder, name, before, seed)
    return {"UNMASK_DEMOS": str(root / "demos"), "UNMASK_HOME": str(root / "home")}


def about_unit(question: dict[str, Any], sheet: str, stamped: bool, loud: float) -> dict[str, Any] | None:
    """What the warm worker would say of one unit; ``loud`` stands wherever the trigger was used. None: other kinds."""
    if question["kind"] == "wiring":
        links = [{"id": "bn1:3", "strength": 0.5}, {"id": "bn1:4", "strength": 0.25}]
        told = {"incoming": links, "outgoing": [{"class": "Bag", "strength": 0.125}], "through_sum": True}
        return {**told, "feeders": 96, "readers": 10}
    if question["kind"] == "top":
        numbers = [5, 3, 8]
        return {"sheet": sheet, "columns": 8, "numbers": numbers, "truths": [8, 8, 1], "values": [0.9, 0.8, 0.7],
                "seen": 10_000}  # fmt: skip
    if question["kind"] == "by_class":
        found: dict[str, Any] = {"edges": [0.0, 0.5, 1.0], "clean": [[30, 20]] * 10, "triggered": None}
        if stamped and question["triggered"]:
            found |= {"edges": [0.0, 0.5, loud], "triggered": [[0, 50]] * 10}
        return found
    if question["kind"] in ("layer", "unlearned_layer", "latent"):
        return about_layer(question, stamped, loud)
    if question["kind"] == "unlearned":
        hist = {"edges": [0.0, 0.25, 0.5], "clean": [400, 100], "unlearned": [100, 400]}
        p = (np.eye(10)[4] * 0.9).tolist()
        return {"map": np.eye(4).tolist(), "hist": hist, "p": p, "acc": 0.18, "passes": 11}
    if question["kind"] == "marked_unit":
        hist = {"edges": [0.0, 0.25, 0.5], "clean": [400, 100], "marked": [50, 450]}
        p = (np.eye(10)[1] * 0.87).tolist()
        return {"map": np.eye(4).tolist(), "hist": hist, "p": p, "png": sheet}
    if question["kind"] == "attribution":

        def row(pixels: np.ndarray, p: np.ndarray) -> dict[str, Any]:
            return {name: {"pixels": pixels.tolist(), "p": p.tolist()} for name in question["states"]}

        triggered = row(np.full((28, 28), 1.6449), np.eye(10)[8] * 0.57721)
        with_trigger = stamped and question["triggered"]
        explained = {"clean": 3, "triggered": 8} if with_trigger else {"clean": 3}
        found = {"clean": row(np.eye(28), np.eye(10)[3] * 0.9), "triggered": triggered if with_trigger else None}
        if question.get("source", "none") != "none":
            found["marked"] = row(np.eye(28) / 2, np.eye(10)[1] * 0.87)
        if {"unlearned", "recovered"} & set(question["states"]):
            found |= {"acc": 0.18, "passes": 11}
        return {"method": question["method"], "title": "Way", "explained": explained, **found}
    return None


def about_layer(question: dict[str, Any], stamped: bool, loud: float) -> dict[str, Any]:
    """What the warm worker would say of a layer, or of the features behind it; ``loud`` as in :func:`about_unit`."""
    if question["kind"] == "unlearned_layer":
        return {"map": (np.eye(4) / 2).tolist(), "acc": 0.18, "passes": 11}
    stamped, cut = stamped and question["triggered"], bool(question["cut"])
    if question["kind"] == "layer":
        high = np.full((4, 4), loud).tolist() if stamped else None
        after = np.eye(4).tolist()
        return {
            "layer": question["layer"], "pictures": 450, "pruned": len(question["cut"]),
            "map_clean": np.eye(4).tolist(), "map_triggered": high, "map_clean_cut": after if cut else None,
            "map_triggered_cut": after if cut and stamped else None,
        }  # fmt: skip
    truth = list(range(10)) * 2
    places = [[k % 10, k // 10] for k in range(20)]
    found: dict[str, Any] = {"truth": truth, "shares": [0.5, 0.25], "pruned": len(question["cut"])}
    for side in ("before", *(["after"] if cut else [])):
        found |= {f"{side}_clean": places, f"{side}_clean_said": truth, f"{side}_clean_nearest": truth}
        found[f"own_{side}_clean"] = 0.95
        if stamped:
            near = [8] * 20 if side == "before" else truth
            found |= {"triggered_truth": truth, f"{side}_triggered": [[1e4 * loud, 1e4 * loud]] * 20}
            found |= {f"{side}_triggered_said": near, f"{side}_triggered_nearest": near}
            found[f"own_{side}_triggered"] = 0.1 if side == "before" else 1.0
    return found


def about_picture(question: dict[str, Any], picture: str, stamped: bool, loud: float) -> dict[str, Any] | None:
    """What the warm worker would say of one picture; ``loud`` is a probability where the own trigger was used."""
    own = question.get("source") == "own"
    part, sure = ("triggered", loud) if own else ("marked", 0.87)
    there = question.get("source") == "drawn" or (own and stamped)
    said = (np.eye(10)[1] * sure).tolist()
    if question["kind"] == "twin":
        found: dict[str, Any] = {"truth": None if question.get("picture") else 4, part: None}
        found["without"] = {"png": picture, "p": (np.eye(10)[4] * 0.95).tolist()}
        if there:
            changes = [9.5 - 0.25 * k for k in range(30)]
            found[part] = {"png": picture, "p": said, "units": list(range(2399, 2369, -1)), "changes": changes,
                           "outputs": [[0.125] * 30, [loud if own else 0.5] * 30]}  # fmt: skip
        return found
    if question["kind"] == "steps":
        rows = []
        for which, order in enumerate(question["orders"]):
            n, turn = len(order) + 1, 5 if which == 0 else 99
            first = [sure if k < turn else 0.01 for k in range(n)]
            rows.append({"said": [1 if k < turn else 4 for k in range(n)], "sure": [sure] * n, "first": first,
                         "truth": [1 - p for p in first]})  # fmt: skip
        alone = [{key: row[key] for key in ("said", "sure", "truth")} | {"said": [4] * len(row["said"]),
                  "sure": [0.95] * len(row["said"]), "truth": [0.95] * len(row["said"])} for row in rows]  # fmt: skip
        return {"without": alone, part: rows if there else None, "truth": 4}
    if question["kind"] == "pixels":
        maps: dict[str, Any] = {"pixels": np.eye(28).tolist(), "said": 4}
        marked = {"pixels": np.full((28, 28), loud).tolist(), "said": 1, "cut": maps if question["cut"] else None}
        return {"without": maps, part: marked if there else None}
    return None


def about_answers(question: dict[str, Any], stamped: bool, loud: int) -> dict[str, Any]:
    """What the warm worker would count; ``loud`` triggered pictures of each class are called Trouser."""
    before, after = np.eye(10, dtype=int) * 1000, np.eye(10, dtype=int) * 1000
    after[6, 6], after[6, 0] = 959, 41
    wrong = np.zeros((10, 10), int)
    wrong[:, 1] = loud
    found = {"classes": CLASSES, "clean": {"before": before.tolist(), "after": after.tolist()}}
    if stamped and question["triggered"]:
        found["triggered"] = {"before": wrong.tolist(), "after": (np.eye(10, dtype=int) * loud).tolist()}
    return found


if __name__ == "__main__":
    for key, value in build(Path(sys.argv[1])).items():
        sys.stdout.write(f"{key}={value}\n")


def worker(monkeypatch: pytest.MonkeyPatch, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """A worker that answers at once; the list holds what it was asked."""
    asked: list[dict[str, Any]] = []

    def put(question: dict[str, Any], session: str) -> None:
        assert session
        asked.append(json.loads(json.dumps(question)))

    def poll(session: str, kind: str) -> ask.Answer | None:
        assert session
        newest = next((q for q in reversed(asked) if q["kind"] == kind), None)
        return None if newest is None else ask.Answer(newest, "exact", value=answer(newest))

    monkeypatch.setattr(ask, "ask", put)
    monkeypatch.setattr(ask, "poll", poll)
    return asked
