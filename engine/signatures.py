"""Signs that a defense has failed, read from its record.

What a defender could see for himself, clean accuracy and what the method said on its way, is told apart from what only
the true trigger tells (``oracle``). The bounds are this project's own; what they stand for is known from the papers: a
cut that goes on past the backdoor costs accuracy fast (RNP's log: 41 of 4,800 channels cost 2.5 points, 204 cost 11.7),
one that stops before it leaves everything as it was, and a network that has not forgotten its clean classes, or has
forgotten them without falling into one answer, shows no backdoor to recover from. Pure, and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Accuracy lost on test images, as a fraction, that no backdoor needs.
LOST = 0.05
#: How much worse than on held-out images a cut may do on test images, as a fraction.
BEYOND = 0.02
#: Share of all units that a cut may take.
MOST_CUT = 0.2
#: ASR after the defense that counts as an attack that works.
ALIVE = 0.2
#: Share of the unlearned model's most frequent answer that points to one class.
SHARED = 0.3

Sign = dict[str, Any]
"""``code``, ``text`` and ``oracle``."""


def warnings_of(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[Sign]:
    """The signs of failure in a ``defend`` or ``sweep`` run; of a sweep, those of the cut that its policy chose.

    Keys that a record lacks, as those of older versions and of tables do, raise no warning.

    Returns:
        Rows of ``code`` (one of ``over-cut``, ``under-cut``, ``still-accurate``, ``no-shared-label``,
        ``lost-accuracy``, ``backdoor-left``), ``text`` and ``oracle``: whether it took the true trigger to see it.
    """
    found = [*_accuracy(result), *_cut(spec, result), *_unlearned(result.get("log") or {})]
    asr, measured = _asr(result)
    if asr is not None and asr > ALIVE:
        code = "under-cut" if _cuts(result) else "backdoor-left"
        found.append(_sign(code, f"{measured} is still {_percent(asr)}: the backdoor works.", oracle=True))
    return found


def _sign(code: str, text: str, oracle: bool = False) -> Sign:
    return {"code": code, "text": text, "oracle": oracle}


def _accuracy(result: Mapping[str, Any]) -> list[Sign]:
    """What the test images say of the accuracy."""
    before, after = _pair(result, "acc")
    if before is None or after is None:
        return []
    drop, pruned = before - after, _chosen(result).get("pruned") or 0
    lost = f"accuracy falls by {100 * drop:.1f} points on test images"
    if result.get("repair") or not _cuts(result):
        return [_sign("lost-accuracy", f"After tuning, {lost}: the repair costs too much.")] if drop > LOST else []
    if drop > LOST:
        return [_sign("over-cut", f"{lost[0].upper()}{lost[1:]}: the cut takes what clean classes need.")]
    # Equal scores are cut together, so a cut may be smaller than the count that it was judged by.
    judged = next((max(0.0, row["drop"]) for row in result.get("heldout") or () if row["pruned"] >= pruned), None)
    if judged is None or drop <= judged + BEYOND:
        return []
    text = f"{lost[0].upper()}{lost[1:]}, by {100 * judged:.1f} on held-out ones: those misjudged this cut."
    return [_sign("over-cut", text)]


def _cut(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[Sign]:
    """What the size of the cut and the held-out images say."""
    if not _cuts(result):
        return []
    pruned, units, found = int(_chosen(result)["pruned"]), int(result["units"]), []
    if pruned > MOST_CUT * units:
        text = f"{pruned:,} of {units:,} units are cut, {_percent(pruned / units)}: a backdoor lives in far fewer."
        found.append(_sign("over-cut", text))
    rows, tolerance = list(result.get("heldout") or []), (spec.get("policy") or {}).get("tolerance")
    if pruned == 0:
        found.append(_sign("under-cut", "Nothing is cut: whatever was in the model is still there."))
    elif len(rows) > 1 and tolerance is not None and max(row["drop"] for row in rows) <= tolerance:
        most = f"{rows[-1]['pruned']:,} units"
        text = f"Held-out accuracy never fell beyond the tolerance, with up to {most} cut: nothing to stop at."
        found.append(_sign("under-cut", text))
    return found


def _unlearned(log: Mapping[str, Any]) -> list[Sign]:
    """What is known of the model that unlearned the clean images."""
    found, rows = [], log.get("unlearn") or ()
    if log.get("forgot") is False or (log.get("repair") or {}).get("forgot") is False:
        last = f" ({_percent(rows[-1]['acc'])})" if rows else ""
        text = f"The unlearned model is still accurate{last}, so its scores say little: unlearn longer or faster."
        found.append(_sign("still-accurate", text))
    share, tried = (log.get("label") or {}).get("share"), log.get("rivals")
    if share is not None and (share < SHARED or tried):
        names = "name no class" if share < SHARED else "leave it open which class the backdoor has"
        text = f"The unlearned model's answers {names}: the most frequent one has {_percent(share)}."
        if tried:
            goes = ", ".join(f"{one['label']} goes with {_units(one['units'])}" for one in tried)
            text += f" So several were tried: class {goes}; the masks are against {log['favourite']}."
        found.append(_sign("no-shared-label", text))
    return found


def _units(count: int | None) -> str:
    return "no cut" if count is None else f"{count:,} units"


def _cuts(result: Mapping[str, Any]) -> bool:
    """Whether a policy chose a cut; a repair alone makes none."""
    return bool(_chosen(result).get("policy") and result.get("units")) and _chosen(result).get("pruned") is not None


def _chosen(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return result.get("chosen") or result


def _pair(result: Mapping[str, Any], measure: str) -> tuple[float | None, float | None]:
    """A figure before and after; of a sweep at its first point and at the chosen cut."""
    if "chosen" in result:
        first: Mapping[str, Any] = (result.get("points") or [{}])[0]
        return first.get(measure), result["chosen"].get(measure)
    return result.get(f"{measure}_before"), result.get(f"{measure}_after")


def _asr(result: Mapping[str, Any]) -> tuple[float | None, str]:
    asr = _pair(result, "asr")[1]
    return (asr, "ASR") if asr is not None else (_pair(result, "success")[1], "Success on the chosen images")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\u202f%"
