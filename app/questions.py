"""The open questions of the field, what was measured for each, and the answer that the figures give.

Rows come from the shipped table (``python -m tests.benchmarks.questions``). What must not be seen of a suspect is not
in them: as on Compare, its ASR is left out and its oracles do not exist. Pure: no page, no session.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app import comparison
from app.comparison import Figure, Row, Value
from app.palette import percent, points
from app.state import redact, redact_text

#: Accuracy that a defense may cost and still be of use.
ACCEPTED = 0.02


@dataclass(frozen=True)
class Question:
    """``compare``: which variant of each group is best, or whether the later ones differ from the first.

    ``of`` is what the groups are, and ``control`` the one among them that only says what would happen anyway.
    """

    tab: str
    title: str
    known: str
    compare: Literal["best", "first"] = "best"
    of: str = "defenses"
    control: str = ""


QUESTIONS: dict[str, Question] = {
    "asymmetry": Question(
        "Levels",
        "Why does RNP unlearn weights but recover filters?",
        "RNP moves every weight to forget clean pictures and then learns one mask per filter. Its authors argue "
        "that the same means in both directions only undo what was done. If another pair worked as well, the "
        "asymmetry would be a habit and no principle.",
    ),
    "samples": Question(
        "Pictures",
        "How many clean pictures does a defender need?",
        "Papers grant the defender 1 to 5 % of the training set, 500 to 2,500 pictures. Whoever examines a "
        "downloaded model may have a hundred. Fewer pictures make scores noisier and the held-out threshold "
        "coarser.",
    ),
    "triggers": Question(
        "Triggers",
        "What if there are several triggers at once?",
        "Defenses are measured against one trigger. Several attackers may poison one training set, and whoever "
        "cuts one shortcut has not cut the others. ASR is that of pictures with one of the triggers each; the "
        "worst single one is named below.",
        "first",
    ),
    "start": Question(
        "Start",
        "Do other defenses work better on the unlearned model?",
        "RNP's authors suggest its unlearned model as a start for any defense: clean features are gone from it "
        "and the backdoor stands out. Scores are then taken there and still cut the suspect; defenses that only "
        "tune start from it.",
        "first",
    ),
    "tuning_data": Question(
        "Tuning data",
        "Which pictures does Grad-Prune's tuning need?",
        "After its cuts Grad-Prune tunes on clean pictures and on the same ones with the trigger, correctly "
        "labelled. If clean ones were enough, the trigger would be needed only for the score; if triggered ones "
        "were, fewer pictures would do.",
    ),
    "adaptive": Question(
        "Adaptive",
        "What if the attacker knows the gradient score?",
        "Gradient scores look for few filters that carry much of the backdoor. An attacker who controls the "
        "training can descend that concentration beside the usual loss. The attack here is Unmask's own, from no "
        "paper: another one may do better.",
        "first",
    ),
    "light": Question(
        "Networks",
        "Does pruning work where little is redundant?",
        "Cutting filters is cheap in wide networks, whose filters stand in for one another. MobileNetV2 and "
        "EfficientNet-B0 were made to have few to spare. Each was trained for three passes with the same BadNets.",
        "first",
    ),
    "reactivation": Question(
        "Re-activation",
        "Does a repaired model stay repaired?",
        "A defense can leave a backdoor asleep. Tuning for five passes on five poisoned among 1,000 clean pictures "
        "shows how near it still is. Is it the five that wake it? Tuning also renews the running statistics of "
        "normalisation, in which the poison was: so the same without the five, and with the statistics kept. The "
        "control is a network trained from scratch: it never had the backdoor, and learns what it answers from the "
        "five.",
        "first",
        control="Retraining",
    ),
    "few": Question(
        "Few",
        "What if pictures are few, or of a few classes?",
        "Two pictures a class leave a threshold little to be held out against. And in the field some classes are "
        "rare: a score that hardly saw a class may cut what only that class needs.",
    ),
    "depth": Question(
        "Depth",
        "How deep should RNP unlearn?",
        "Masks can be learned on a model that has forgotten a little or nearly everything. Too shallow, and there "
        "is nothing that the backdoor stands in the way of; too deep, and masks cannot mend it whatever they do. "
        "The share is the accuracy on the defense pictures at which unlearning stops.",
        of="models",
    ),
    "threshold": Question(
        "Threshold",
        "Held-out accuracy or a fixed share: what should set the threshold?",
        "A fixed share of all filters needs no pictures, but backdoors take up more of one network than of "
        "another. The tolerance policy cuts until held-out accuracy falls. The oracle has seen the test pictures, "
        "and says what the score could do at best.",
        of="suspects",
    ),
}


@dataclass(frozen=True)
class Entry:
    """One variant: its ``row`` with what may be seen, and what is needed to measure it again.

    ``triggers``: what is left of each of several. ``n``: test pictures by measure.
    """

    group: str
    label: str
    row: Row
    command: str = ""
    trained_by: str = ""
    reason: str = ""
    threshold: float | None = None
    forgot: bool | None = None
    triggers: Mapping[str, Value] | None = None
    n: Mapping[str, int] | None = None

    @property
    def done(self) -> bool:
        return self.row.state == "done"

    def value(self, figure: Figure) -> float:
        return self.row.figures[figure].value

    def has(self, figure: Figure) -> bool:
        return self.done and figure in self.row.figures


def entry(raw: Mapping[str, Any], called: str, seen: bool, named: bool) -> Entry | None:
    """A row of the table, or None where it may not be seen at all.

    Args:
        named: whether the commands may name the model: they say of which attack it is.
    """
    row = comparison.table_row(raw, called, seen)
    if row is None:
        return None
    shown = redact(raw, seen)
    triggers = {
        str(name): Value(float(found["asr"]), *map(float, found["interval"]))
        for name, found in (shown.get("triggers_after") or {}).items()
    }
    return Entry(
        str(raw["group"]), str(raw["label"]), row,
        command=str(raw.get("command") or "") if named else "",
        trained_by=str(raw.get("trained_by") or "") if named else "",
        reason=redact_text(str(raw.get("reason") or ""), seen),
        threshold=shown.get("threshold"),
        forgot=shown.get("forgot"),
        triggers=triggers or None,
        n={key: int(n) for key, n in (shown.get("n_after") or {}).items() if n is not None},
    )  # fmt: skip


def groups(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The variants by group, in their order."""
    found: dict[str, list[Entry]] = {}
    for one in entries:
        found.setdefault(one.group, []).append(one)
    return found


# --- answers ---------------------------------------------------------------------------------------------------------


def answer(question: Question, entries: Sequence[Entry]) -> str:
    """The answer that the figures give, in a sentence or two."""
    done = [one for one in entries if one.has("acc_drop")]
    if len(done) < 2:
        return f"{'Nothing' if not done else 'One'} of {len(entries)} variants is measured yet: there is no answer."
    if not any(one.has("asr") for one in done):
        least = min(done, key=lambda one: one.value("acc_drop"))
        name = _say(least.label) if len(groups(done)) == 1 else f"{least.group}, {_say(least.label)}"
        return f"Accuracy suffers least with {name}: {_cost(least)}. What is left of the backdoor is hidden."
    told = _against_first(question, done) if question.compare == "first" else _bests(done)
    return told or "The measured variants have nothing to be compared with yet."


def _say(label: str) -> str:
    """The name of a variant within a sentence."""
    return f"\u201c{label}\u201d"


def _cost(one: Entry) -> str:
    lost = one.value("acc_drop")
    size = f"{abs(100 * lost):.1f}"
    return (
        f"{size} point{'' if size == '1.0' else 's'} of accuracy {'gained' if lost < 0 and size != '0.0' else 'lost'}"
    )


def _apart(a: Value, b: Value) -> bool:
    """Whether two shares differ beyond their intervals."""
    low, high = (a, b) if a.value < b.value else (b, a)
    return (low.high if low.high is not None else low.value) < (high.low if high.low is not None else high.value)


def _bests(done: Sequence[Entry]) -> str:
    """For each group the variant with the lowest ASR among those that cost little, and what the others leave."""
    parts, several = [], len(groups(done)) > 1
    for group, those in groups([one for one in done if one.has("asr")]).items():
        if len(those) < 2:
            continue
        head = f"{group}: " if several else ""
        # What has seen the test pictures is no advice where something else has not.
        blind = [one for one in those if not one.row.oracle] or those
        allowed = [one for one in blind if one.value("acc_drop") <= ACCEPTED] or blind
        best = min(allowed, key=lambda one: one.value("asr"))
        most = max(those, key=lambda one: one.value("asr"))
        if not _apart(best.row.figures["asr"], most.row.figures["asr"]) and len(allowed) == len(blind):
            parts.append(f"{head}no variant differs from another beyond its interval")
            continue
        text = f"{head}{_say(best.label)} leaves ASR {percent(best.value('asr'))} with {_cost(best)}"
        if best.value("acc_drop") > ACCEPTED:
            text += ", and none costs less than 2 points"
        if most is not best:
            text += f", {_say(most.label)} {percent(most.value('asr'))}"
        lowest = min(those, key=lambda one: one.value("asr"))
        if lowest not in (best, most) and _apart(lowest.row.figures["asr"], best.row.figures["asr"]):
            seen = " (an oracle)" if lowest.row.oracle and not best.row.oracle else ""
            text += f"; {_say(lowest.label)}{seen} reaches {percent(lowest.value('asr'))}, but with {_cost(lowest)}"
        parts.append(text)
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else ""


def _against_first(question: Question, done: Sequence[Entry]) -> str:
    """Each later variant against the first one of its group, over all groups that have both."""
    firsts = {group: those[0].label for group, those in groups(done).items()}
    first = statistics.mode(firsts.values())
    later = dict.fromkeys(one.label for one in done if one.label != first)
    brief = len(later) > 2
    parts: list[str] = []
    controls: list[tuple[Entry, Entry]] = []
    for label in later:
        pairs: list[tuple[Entry, Entry]] = []
        for those in groups([one for one in done if one.has("asr")]).values():
            by_label = {one.label: one for one in those}
            if first in by_label and label in by_label:
                pair = by_label[first], by_label[label]
                (controls if pair[0].group == question.control else pairs).append(pair)
        if not pairs:
            continue
        apart = [(a, b) for a, b in pairs if _apart(a.row.figures["asr"], b.row.figures["asr"])]
        less = sum(b.value("asr") < a.value("asr") for a, b in apart)
        asr = statistics.median(b.value("asr") - a.value("asr") for a, b in pairs)
        acc = statistics.median(b.value("acc_drop") - a.value("acc_drop") for a, b in pairs)
        more = len(apart) - less
        if brief:
            parts.append(
                f"{_say(label)}: {points(asr)} points, more is left for {more} of {len(pairs)} and less for {less}"
            )
            continue
        counted = f"less of the backdoor is left for {less} of {len(pairs)} {question.of}, more for {more}"
        parts.append(
            f"{_say(label)} against {_say(first)}: {counted}; the median changes are {points(asr)} points of ASR and "
            f"{points(-acc)} of accuracy"
        )
    if brief and parts:
        parts = [f"Median changes of ASR over the {question.of}, against {_say(first)}. {'; '.join(parts)}"]
    if controls:
        before, most = controls[0][0], max((after for _, after in controls), key=lambda one: one.value("asr"))
        text = f"The control, {before.group}, goes from {percent(before.value('asr'))} to {percent(most.value('asr'))}"
        parts.append(f"{text} at most" if len(controls) > 1 else text)
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "." if parts else ""


def limits(entries: Sequence[Entry]) -> str:
    """How far the answer goes: pictures, seeds, oracles, what is not measured."""
    done = [one for one in entries if one.done]
    counts = next((one.n for one in done if one.n), {})
    of = f" of {counts['acc']:,} clean" if counts.get("acc") else ""
    of += f" and {counts['asr']:,} triggered test pictures" if counts.get("asr") else " test pictures" if of else ""
    parts = [f"Shares are{of or ' of test pictures'}, with 95\u202f% intervals."] if done else []
    if done:
        parts.append("One attack seed and one defense seed: what differs by less than seeds do says nothing.")
    if any(one.row.oracle for one in done):
        parts.append("\u25c7 marks oracles, which used the true trigger or the test pictures.")
    shallow = [one.label for one in done if one.forgot is False]
    if shallow:
        parts.append(f"The unlearned model was still too accurate in: {', '.join(dict.fromkeys(shallow))}.")
    return " ".join(parts)


def waiting(entries: Sequence[Entry]) -> str:
    """Which variants are not measured, and which failed, by name."""
    several = len(groups(entries)) > 1

    def name(one: Entry) -> str:
        return f"{one.group}, {one.label}" if several else one.label

    pending = [name(one) + (f" ({one.reason})" if one.reason else "") for one in entries if one.row.state == "pending"]
    failed = [f"{name(one)} ({one.reason or 'no reason given'})" for one in entries if one.row.state == "failed"]
    parts = [f"Pending: {'; '.join(pending)}."] if pending else []
    return " ".join(parts + ([f"Failed: {'; '.join(failed)}."] if failed else []))


def worst_triggers(entries: Sequence[Entry]) -> str:
    """Of models with several triggers, which one is left most of."""
    parts = []
    for one in entries:
        if one.triggers:
            worst = max(one.triggers, key=lambda name: one.triggers[name].value if one.triggers else 0)
            parts.append(f"{one.group} {percent(one.triggers[worst].value)} ({worst.replace('_', ' ')})")
    return f"The worst single trigger afterwards: {', '.join(parts)}." if parts else ""
