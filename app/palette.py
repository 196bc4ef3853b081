"""Colours, dashes and words of the pictures: the one place where they are chosen.

A colour means one thing everywhere. Clean and ACC are blue and solid, triggered and ASR vermilion and dashed, RA teal
and dotted; suspicion runs along cividis; differences go from blue to orange through the paper. Hue never carries a
meaning alone: each measure also has its dash and its marker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ThemeName = Literal["light", "dark"]
Measure = Literal["acc", "asr", "ra"]
MEASURES: tuple[Measure, ...] = ("acc", "asr", "ra")


@dataclass(frozen=True)
class Theme:
    """Colours of one theme. ``text`` variants of the three measures reach 4.5 : 1 on the paper."""

    name: ThemeName
    ink: str
    paper: str
    soft: str
    faint: str
    text: dict[Measure, str]
    line: dict[Measure, str]


LIGHT = Theme(
    "light",
    ink="#1B2430",
    paper="#FBFAF7",
    soft="#59606B",
    faint="#E0DDD5",
    text={"acc": "#005F96", "asr": "#B04A00", "ra": "#00704F"},
    line={"acc": "#0072B2", "asr": "#D55E00", "ra": "#009E73"},
)
DARK = Theme(
    "dark",
    ink="#E7E9EC",
    paper="#12161C",
    soft="#A3ABB7",
    faint="#2C3440",
    text={"acc": "#56B4E9", "asr": "#FF8A3D", "ra": "#3CCFA3"},
    line={"acc": "#2C97D6", "asr": "#E86F10", "ra": "#12B386"},
)


def theme(name: str | None) -> Theme:
    return DARK if name == "dark" else LIGHT


#: Dash and marker go with the colour, so that no line depends on hue.
DASH: dict[Measure, str] = {"acc": "solid", "asr": "dash", "ra": "dot"}
MARKER: dict[Measure, str] = {"acc": "circle", "asr": "square", "ra": "triangle-up"}
NAME: dict[Measure, str] = {"acc": "ACC", "asr": "ASR", "ra": "RA"}
MEANING: dict[Measure, str] = {
    "acc": "Clean accuracy: share of clean test pictures named correctly.",
    "asr": "Attack success rate: share of triggered test pictures that get the attacker's answer.",
    "ra": "Robust accuracy: share of the same triggered pictures named correctly all the same.",
}

#: Suspicion, low to high.
CIVIDIS = [
    "#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838",
]  # fmt: skip
#: True classes, where points are coloured by them, after Paul Tol's muted set; names stand beside them. Blue,
#: vermilion and teal are left out: they mean something.
CLASSES: dict[ThemeName, list[str]] = {
    "light": [
        "#882255", "#999933", "#332288", "#CC6677", "#117733", "#AA4499", "#6E7681", "#B8A13F", "#5A4FCF", "#7A4A1E",
    ],
    "dark": [
        "#D06A9F", "#B9B955", "#9A8FE8", "#E58B99", "#5FB37A", "#CF7FC4", "#A3ABB7", "#DDCC77", "#7C9BE0", "#C29A6B",
    ],
}  # fmt: skip
#: Ends of the difference scale; its middle is the paper.
LESS, MORE = "#0072B2", "#D55E00"
FONT = '"Source Sans", "Source Sans Pro", sans-serif'


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def fade(colour: str, alpha: float) -> str:
    return f"rgba({', '.join(map(str, rgb(colour)))}, {alpha:g})"


def blend(a: str, b: str, share: float) -> str:
    """The colour that lies ``share`` (0..1) of the way from ``a`` to ``b``."""
    return "#" + "".join(f"{round(x + (y - x) * share):02X}" for x, y in zip(rgb(a), rgb(b), strict=True))


def cividis_scale() -> list[list[float | str]]:
    return [[k / (len(CIVIDIS) - 1), colour] for k, colour in enumerate(CIVIDIS)]


# --- numbers and sentences -------------------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as ``99.9 %`` with a narrow no-break space; an en dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def points(change: float | None) -> str:
    """A change of a fraction in percentage points, with a true minus sign: ``−1.2``."""
    if change is None:
        return ""
    text = f"{abs(100 * change):.1f}"
    sign = "" if text == "0.0" else "+" if change > 0 else "\u2212"
    return f"{sign}{text}"


def count(value: int) -> str:
    return f"{value:,}"


def units(value: int) -> str:
    return "1 unit" if value == 1 else f"{value:,} units"


def number(value: float | None) -> str:
    """A threshold or a score, four significant digits."""
    if value is None:
        return "none"
    text = f"{value:.4g}"
    return text.replace("-", "\u2212")


def clock(seconds: float) -> str:
    """A time as a person says it: ``2 min 05 s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def one_point(change: float) -> str:
    """``loses 1.2 points``, ``gains 0.3 points`` or ``stays the same``."""
    size = f"{abs(100 * change):.1f}"
    if size == "0.0":
        return "stays the same"
    return f"{'loses' if change < 0 else 'gains'} {size} {'point' if size == '1.0' else 'points'}"


def cut_sentence(before: dict[str, float | None], after: dict[str, float | None], pruned: int, total: int) -> str:
    """What a cut does, in one sentence; without ASR where it is hidden or there is none."""
    acc_before, acc_after = before.get("acc"), after.get("acc")
    asr_before, asr_after = before.get("asr"), after.get("asr")
    if pruned == 0:
        whole = f"Nothing is cut: accuracy is {percent(acc_before)}"
        return whole + (f" and ASR is {percent(asr_before)}." if asr_before is not None else ".")
    cut = f"{count(pruned)} of {count(total)} units are cut"
    change = "" if acc_before is None or acc_after is None else f"accuracy {one_point(acc_after - acc_before)}"
    if asr_before is not None and asr_after is not None:
        same = percent(asr_before) == percent(asr_after)
        moves = "stays at" if same else "falls" if asr_after < asr_before else "rises"
        move = (
            f"stays at {percent(asr_after)}" if same else f"{moves} from {percent(asr_before)} to {percent(asr_after)}"
        )
        return f"ASR {move} when {cut}; {change}." if change else f"ASR {move} when {cut}."
    if not change:
        return f"{cut}.".capitalize()
    return f"{change[0].upper()}{change[1:]} ({percent(acc_before)} to {percent(acc_after)}) when {cut}."
