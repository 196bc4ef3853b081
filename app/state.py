"""What the page shows and what it may show: the address, the selection, the undo stack, and who sees what.

*Address.* Everything that a link restores is one frozen :class:`Address`. The session holds the truth and writes it to
the URL; a URL that the session did not write (a link, the Back button) replaces the whole address.

*Roles.* A real defender has clean pictures and no trigger. In the Defender view every figure that needs the trigger
stays hidden until the cut is committed. That is not left to the figures: whatever a view shows has passed
:func:`redact`, so what must not be seen never reaches a figure, a hover text, an alt text, a table or a file.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.redaction import redact as redact
from app.redaction import redact_text as redact_text

Role = Literal["defender", "oracle"]
Mode = Literal["scale", "silence"]
Origin = Literal["url", "grid", "scatter", "scores", "table", "find"]
Edits = dict[str, str]

PREFIX = "demo:"
#: What the Attack lab is set to, its second column with a 2 behind the name. Only that page writes them: the link of a
#: page that a defender is given must not say which attack was tried next door.
LAB = (
    "data", "model", "width", "epochs", "seed",
    "attack", "preset", "set", "twin", "attack2", "preset2", "set2", "twin2", "job2",
)  # fmt: skip
#: What Compare is set to: the figure of its matrix, the pictures and the trigger of the defenses in it, how many units
#: two scores are compared by, and the defense whose answers are shown. The last is the open question that is looked at.
COMPARE = ("figure", "samples", "source", "top", "defense", "question")
#: What Layers is set to: the layer, whose features are projected (the last layer's unless ``layer``), and how.
LAYERS = ("layer", "features", "projection")
KEYS = (
    "run", "pin", "neuron", "score", "thr", "role", "lesson", "mode", "edits", "picture", "step", "job", "versus",
    *COMPARE, *LAYERS, *LAB,
)  # fmt: skip
_KNOWN = frozenset(KEYS)
DEFAULT_SCORE = "rnp"
#: In place of a lesson: the questions of the Learn page, which are about no suspect and so about no role.
QUESTIONS = "questions"
#: Hand edits that fit into a link: so many parts, of which each may be a run of neighbours.
MOST_EDITS = 100
#: Seconds in which a URL we wrote ourselves may still come back after a newer one was written: a part that polls brings
#: back the one it was started with, whenever its answer comes. Of going back the browser tells.
_ECHO = 60.0
#: Characters of one of the lab's parameters, at most.
_LONGEST = 4000
_LAYER = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_UNIT = re.compile(rf"{_LAYER.pattern}:\d{{1,6}}")
_RUN = re.compile(rf"({_UNIT.pattern})(?:-(\d{{1,6}}))?([!~])")
#: Units of a layer at most, so that a link cannot ask for a run without end.
_LONGEST_RUN = 20_000
_SIGN = {"cut": "!", "spare": "~"}


# --- the address -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a link restores. ``thr`` is a number, ``None`` (nothing is cut) or ``"default"``: what the policy chose."""

    run: str | None = None
    pin: str | None = None
    neuron: str | None = None
    score: str = DEFAULT_SCORE
    thr: float | None | Literal["default"] = "default"
    role: Role | None = None
    lesson: str | None = None
    mode: Mode = "scale"
    edits: tuple[tuple[str, str], ...] = ()
    picture: int = 0
    step: int = 0
    job: str | None = None
    versus: str | None = None
    figure: str | None = None
    samples: int | None = None
    source: str | None = None
    top: int | None = None
    defense: str | None = None
    question: str | None = None
    layer: str | None = None
    features: Literal["layer"] | None = None
    projection: Literal["tsne"] | None = None
    lab: tuple[tuple[str, str], ...] = ()

    def params(self, lab: bool = False) -> dict[str, str]:
        """As URL parameters; whatever is at its default is left out, the Attack lab's unless it asks for them."""
        found: dict[str, str] = {}
        words = ("run", "pin", "neuron", "role", "lesson", "job", "versus", "figure", "source", "defense", "question")
        for key in (*words, *LAYERS):
            if value := getattr(self, key):
                found[key] = value
        if self.score != DEFAULT_SCORE:
            found["score"] = self.score
        if self.thr != "default":
            found["thr"] = "none" if self.thr is None else repr(float(f"{self.thr:.8g}"))
        if self.mode != "scale":
            found["mode"] = self.mode
        if self.edits:
            found["edits"] = ",".join(_packed(self.edits)[:MOST_EDITS])
        for key in ("picture", "step", "samples", "top"):
            if number := getattr(self, key):
                found[key] = str(number)
        return {**found, **(dict(self.lab) if lab else {})}

    @property
    def edited(self) -> Edits:
        return dict(self.edits)


def parse(params: Mapping[str, str]) -> tuple[Address, list[str]]:
    """An address from URL parameters, and one line for each that makes no sense (its default is used instead)."""
    values: dict[str, Any] = {}
    wrong: list[str] = []

    def refuse(key: str, expected: str) -> None:
        wrong.append(f"expected {key} in the link to be {expected}, got {params[key][:60]!r}; the default is used")

    for key in ("run", "pin", "lesson", "job", "versus", "defense"):
        if params.get(key):
            values[key] = params[key][:500]
    if neuron := params.get("neuron"):
        if _UNIT.fullmatch(neuron):
            values["neuron"] = neuron
        else:
            refuse("neuron", "a unit id such as layer4.1.bn2:87")
    if layer := params.get("layer"):
        if _LAYER.fullmatch(layer):
            values["layer"] = layer
        else:
            refuse("layer", "the name of a layer such as layer4.1.bn2")
    for key, example in (
        ("score", "the name of a score such as rnp"),
        ("figure", "a figure such as asr"),
        ("source", "where the trigger came from, such as none"),
        ("question", "an open question such as asymmetry"),
    ):
        if word := params.get(key):
            if re.fullmatch(r"[a-z0-9_]{1,40}", word):
                values[key] = word
            else:
                refuse(key, example)
    if thr := params.get("thr"):
        try:
            value = None if thr == "none" else float(thr)
            if value is not None and not abs(value) < 1e30:
                raise ValueError
            values["thr"] = value
        except ValueError:
            refuse("thr", "a number or none")
    for key, allowed in (
        ("role", ("defender", "oracle")), ("mode", ("scale", "silence")), ("features", ("last", "layer")),
        ("projection", ("pca", "tsne")),
    ):  # fmt: skip
        if word := params.get(key):
            if word in allowed:
                values[key] = None if word in ("last", "pca") else word
            else:
                refuse(key, " or ".join(allowed))
    if edits := params.get("edits"):
        unpacked = _unpacked(edits.split(",")[:MOST_EDITS])
        if unpacked is not None:
            values["edits"] = unpacked
        else:
            refuse("edits", "unit ids that end in ! (cut) or ~ (spared)")
    for key, meaning in (
        ("picture", "the number of a test picture"), ("step", "how many units are cut"),
        ("samples", "a number of pictures"), ("top", "a number of units"),
    ):  # fmt: skip
        if number := params.get(key):
            if number.isdecimal() and len(number) < 8:
                values |= {key: int(number)} if int(number) else {}
            else:
                refuse(key, meaning)
    # What these mean depends on the attacks that there are: app/lab.py reads them.
    if lab := tuple((key, params[key][:_LONGEST]) for key in LAB if params.get(key)):
        values["lab"] = lab
    return Address(**values), wrong


def _packed(edits: Sequence[tuple[str, str]]) -> list[str]:
    """Hand edits as a link writes them, neighbours as a run: ``bn1:3!``, ``bn1:5-9~``."""
    runs: list[tuple[str, str, str, str]] = []
    for unit, edit in edits:
        layer, _, index = unit.rpartition(":")
        if runs and (runs[-1][0], str(int(runs[-1][2]) + 1), runs[-1][3]) == (layer, index, edit):
            runs[-1] = (layer, runs[-1][1], index, edit)
        else:
            runs.append((layer, index, index, edit))
    return [f"{layer}:{a}{f'-{b}' if b != a else ''}{_SIGN[edit]}" for layer, a, b, edit in runs]


def _unpacked(parts: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
    """What :func:`_packed` wrote; None where a part makes no sense."""
    found: dict[str, str] = {}
    for part in parts:
        match = _RUN.fullmatch(part)
        if match is None:
            return None
        layer, _, first = match[1].rpartition(":")
        more = int(match[2] or first) - int(first)
        if not 0 <= more < _LONGEST_RUN:
            return None
        units = [match[1], *(f"{layer}:{int(first) + k}" for k in range(1, more + 1))]
        found |= dict.fromkeys(units, "cut" if match[3] == "!" else "spare")
    return tuple(found.items())


def load() -> Address:
    """The address of this run of the script: the session's, unless the URL brings another."""
    store = st.session_state
    store.setdefault("session", secrets.token_hex(8))
    query = {key: value for key, value in st.query_params.items() if key in _KNOWN}
    if "address" not in store:
        _adopt(query)
    elif query and query != store.written and (went_back() or not _is_echo(query)):
        # Not what we wrote last, and not an earlier one of ours that was on its way: a link, or Back.
        _adopt(query)
    return cast(Address, store.address)


def _is_echo(query: dict[str, str]) -> bool:
    return time.monotonic() - st.session_state.echoes.get(_line(query), -_ECHO) < _ECHO


def went_back() -> bool:
    """Whether the browser says that the person went back or forward."""
    return bool(getattr(get_script_run_ctx(suppress_warning=True), "is_history_navigation", False))


def _adopt(query: dict[str, str]) -> None:
    store = st.session_state
    before = store.get("address", Address())
    store.address, store.notices = parse(query)
    if not store.address.lab:  # a link to another page leaves the lab as it is
        store.address = replace(store.address, lab=before.lab)
    store.written = query
    store.setdefault("echoes", {})
    store.origin = "url"
    history(store.address, fresh=True)


def go(**changes: Any) -> Address:
    """Change the address; the URL follows when the page calls :func:`write`."""
    st.session_state.address = replace(load(), **changes)
    st.session_state.notices = []
    return cast(Address, st.session_state.address)


def fill_in(run: str, notice: str | None = None) -> Address:
    """Choose the suspect for a link that names none, or one that is not there; what was wrong stays on the page."""
    wrong = [*notices(), *([notice] if notice else [])]
    choose_run(run, load().role)
    st.session_state.notices = wrong
    return load()


def change(**changes: Any) -> None:
    """:func:`go` as a callback of a widget."""
    go(**changes)


def write(lab: bool = False) -> None:
    """Bring the URL in step with the address; foreign parameters stay. ``lab``: with what the Attack lab is set to."""
    store = st.session_state
    wanted = store.address.params(lab)
    now = {key: value for key, value in st.query_params.items() if key in _KNOWN}
    if now != wanted:
        moment = time.monotonic()
        store.echoes = {k: t for k, t in store.echoes.items() if moment - t < _ECHO}
        store.echoes[_line(store.written)] = store.echoes[_line(now)] = moment
        others = {key: st.query_params.get_all(key) for key in st.query_params if key not in KEYS}
        st.query_params.from_dict({**others, **wanted})
    store.written = wanted


def _line(query: Mapping[str, str]) -> str:
    return "&".join(f"{key}={query[key]}" for key in sorted(query))


def session() -> str:
    """Names this browser session to the warm worker."""
    return str(st.session_state.setdefault("session", secrets.token_hex(8)))


def notices() -> list[str]:
    """What was wrong with the link, until something else is chosen."""
    return list(st.session_state.get("notices", []))


# --- widgets that show the address ------------------------------------------------------------------------------------


def shows(name: str, value: Any) -> str:
    """The key of a widget that shows ``value`` of the address, however that changed.

    A value that comes from elsewhere (a link, undo, the grid) gets a new key. Under the same one, a browser that has
    not seen the news yet would report the old value with whatever it sends next, which looks like a choice made there.
    """
    store = st.session_state
    slot = f"{name}:turn"
    turn = store.setdefault(slot, 0)
    key = _turned(name, turn)
    if key in store and store[key] != value:
        store[slot] = turn + 1
        key = _turned(name, turn + 1)
    store[key] = value
    return key


def shown(name: str) -> Any:
    """What the person chose in that widget, for its callback."""
    store = st.session_state
    return store[_turned(name, store[f"{name}:turn"])]


def _turned(name: str, turn: int) -> str:
    return name if not turn else f"{name} {turn}"


# --- the selection ---------------------------------------------------------------------------------------------------


def select(neuron: str | None, origin: Origin, group: Sequence[str] | None = None) -> None:
    """Select a unit everywhere, and where ``group`` names several, those together with it.

    The panel it came from does not get its own selection back. Without ``group`` one that has the unit stays.
    """
    st.session_state.origin = origin
    if group is None and neuron not in selected():
        group = ()
    if group is not None:
        st.session_state.group = (load().run, tuple(group) if len(group) > 1 else ())
    go(neuron=neuron)


def selected() -> tuple[str, ...]:
    """The units that were chosen together, of this suspect; empty unless there are several."""
    run, group = st.session_state.get("group", (None, ()))
    return cast("tuple[str, ...]", group if run == load().run else ())


def rings(panel: Origin, anew: bool = False) -> tuple[str | None, tuple[str, ...]]:
    """What a scatter plot must mark: the selected unit and those chosen with it, unless that was done in the plot.

    Redrawing a Plotly chart wipes its selection, so its specification may change only for news from elsewhere; and it
    takes long, so it waits until the hand :func:`rests`, unless it is redrawn ``anew`` anyway.
    """
    store = st.session_state
    known = store.setdefault("rings", {})
    if store.get("origin") != panel and (anew or rests() or panel not in known):
        known[panel] = (load().neuron, selected())
    return cast("tuple[str | None, tuple[str, ...]]", known.get(panel, (None, ())))


def rests() -> bool:
    """Whether what is slow to redraw may show the present selection; what it shows of another suspect is old."""
    shown, now = st.session_state.get("rested"), (load().run, load().neuron, selected())
    return shown is None or shown == now or shown[0] != now[0]


def rest() -> None:
    """From now on what is slow to redraw shows the present selection, too."""
    st.session_state["rested"] = (load().run, load().neuron, selected())


# --- undo ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A threshold with hand edits: what undo goes back to."""

    thr: float | None | Literal["default"] = "default"
    edits: tuple[tuple[str, str], ...] = ()


@dataclass
class History:
    """Cuts in the order in which they were made; ``at`` is the present one."""

    cuts: list[Cut] = field(default_factory=lambda: [Cut()])
    at: int = 0

    @property
    def present(self) -> Cut:
        return self.cuts[self.at]

    @property
    def can_undo(self) -> bool:
        return self.at > 0

    @property
    def can_redo(self) -> bool:
        return self.at < len(self.cuts) - 1

    def push(self, cut: Cut) -> None:
        """A new cut; what had been undone is forgotten."""
        if cut != self.present:
            self.cuts[self.at + 1 :] = [cut]
            del self.cuts[:-200]
            self.at = len(self.cuts) - 1

    def undo(self) -> Cut:
        self.at = max(0, self.at - 1)
        return self.present

    def redo(self) -> Cut:
        self.at = min(len(self.cuts) - 1, self.at + 1)
        return self.present


def history(address: Address, fresh: bool = False) -> History:
    """The undo stack of this suspect and score; ``fresh`` puts the address's cut on it, as a link does."""
    stacks: dict[tuple[str | None, str], History] = st.session_state.setdefault("histories", {})
    key = (address.run, address.score)
    cut = Cut(address.thr, address.edits)
    if key not in stacks:
        stacks[key] = History([cut])
    elif fresh:
        stacks[key].push(cut)
    return stacks[key]


def recut(thr: float | None | Literal["default"], edits: Mapping[str, str]) -> None:
    """Make another cut: one step that undo takes back."""
    address = load()
    cut = Cut(thr, tuple(edits.items()))
    history(address).push(cut)
    go(thr=cut.thr, edits=cut.edits)


def undo() -> None:
    _step(history(load()).undo())


def redo() -> None:
    _step(history(load()).redo())


def _step(cut: Cut) -> None:
    go(thr=cut.thr, edits=cut.edits)


def choose_score(score: str) -> None:
    """Another score has another scale: go to the cut last made with it."""
    address = replace(load(), score=score, thr="default", edits=())
    cut = history(address).present
    go(score=score, thr=cut.thr, edits=cut.edits)


def choose_run(run: str, role: Role | None = None) -> None:
    """Another suspect; it is seen as its kind is seen by default unless a role is given."""
    address = load()
    if run == address.run and role is None:
        return
    fresh = Address(run=run, pin=address.pin, role=role, score=address.score)
    cut = history(fresh).present
    st.session_state.origin = "url"
    go(run=run, role=role, neuron=None, thr=cut.thr, edits=cut.edits, picture=0, step=0, layer=None)


# --- roles -----------------------------------------------------------------------------------------------------------


def role(address: Address) -> Role:
    """Demos start in the Oracle view, whatever else is examined (and every lesson) in the Defender view."""
    if address.role is not None:
        return address.role
    return "oracle" if (address.run or "").startswith(PREFIX) and address.lesson in (None, QUESTIONS) else "defender"


def commits() -> dict[str, dict[str, Any]]:
    """The cut last committed in this session, frozen, by suspect."""
    return cast("dict[str, dict[str, Any]]", st.session_state.setdefault("commits", {}))


def commit(run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Freeze a cut. Made as a defender it reveals the suspect; made with ASR in view it is an oracle's."""
    address = load()
    blind = not revealed(address, run)
    before = run in st.session_state.get("looked", set())
    frozen = {**record, "role": "defender" if blind else "oracle", "suspect": run, "seen_before": before}
    commits()[run] = frozen
    if blind:
        _defended().add(run)
    return frozen


def note_seen(run: str, seen: bool) -> None:
    """Remember that a suspect's ASR was in view, so that the record of a later commitment can say so."""
    if seen:
        st.session_state.setdefault("looked", set()).add(run)


def cover(run: str) -> None:
    """Hide a suspect from the defender again, to choose another cut."""
    _defended().discard(run)
    commits().pop(run, None)


def _defended() -> set[str]:
    return cast("set[str]", st.session_state.setdefault("defended", set()))


def revealed(address: Address, run: str | None = None) -> bool:
    """Whether figures that need the trigger may be seen of a suspect (of the present one if none is named).

    The Oracle view that a demo starts in is about that demo: another suspect, which starts in the Defender view, stays
    covered unless the person chose to be the oracle.
    """
    named = run or address.run or ""
    return role(address) == role(replace(address, run=named)) == "oracle" or named in _defended()
