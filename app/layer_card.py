"""One layer on the Layers page: what it puts out on average, clean beside triggered, before and after the cut.

Where there is no triggered picture to set beside the clean one, the second column is the unlearned model on the same
pictures. A defender's question leaves the trigger out, so that nothing in an answer tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from app import data, neuron_figures, panels, pictures
from app.attributions import rnp_of
from app.card_pieces import scale
from app.live import live
from app.neuron_figures import short
from app.palette import CIVIDIS, LESS, MORE, count, percent, units
from app.panels import Frame, Picture

SIDE = 112
Maps = dict[str, np.ndarray]


def layer_card(
    frame: Frame, studies: Mapping[str, data.Study], study: data.Study, now: data.Present, layer: str, mode: str
) -> None:
    """The card of a layer under the present cut."""
    questions = _questions(frame, studies, now, layer, mode)
    with st.container(border=True, key="layer-card", gap="small"):
        _head(study, now, layer)
        live(lambda: _body(frame, questions, layer), frame, *questions.values())


def _questions(
    frame: Frame, studies: Mapping[str, data.Study], now: data.Present, layer: str, mode: str
) -> dict[str, dict[str, Any]]:
    name = frame.suspect.name
    asked = {"layer": {"kind": "layer", "suspect": name, "layer": layer, "triggered": frame.seen,
                       "cut": now.numbers, "mode": mode}}  # fmt: skip
    known = panels.kept(asked["layer"], frame.seen)
    stamped = frame.seen and frame.suspect.result.get("asr") is not None
    # Some imported suspects have stamped test pictures but no trigger that could be put on others.
    if stamped and (known is None or known.value is None or known.value.get("map_triggered") is not None):
        return asked
    forgotten = {"kind": "unlearned_layer", "suspect": name, "layer": layer, "study": rnp_of(studies)}
    return {**asked, "unlearned": forgotten}


def _head(study: data.Study, now: data.Present, layer: str) -> None:
    rows = study.layers
    at = next(k for k, row in enumerate(rows) if row["name"] == layer)
    span = slice(int(rows[at]["offset"]), int(rows[at]["offset"]) + int(rows[at]["size"]))
    known = study.values[span][np.isfinite(study.values[span])]
    highest = f", highest {study.label} {short(float(known.max()))}" if len(known) else f", none has a {study.label}"
    st.html(
        f'<p class="um-unit" role="heading" aria-level="2">{panels.esc(layer)}</p>'
        f'<p class="um-note">Layer {at + 1} of {len(rows)}: {int(now.cut[span].sum())} of '
        f"{panels.esc(units(int(rows[at]['size'])))} cut{panels.esc(highest)}.</p>"
    )


def _body(frame: Frame, questions: Mapping[str, dict[str, Any]], layer: str) -> None:
    answers = {kind: panels.answer_to(question, frame.seen) for kind, question in questions.items()}
    for kind, answer in answers.items():
        if answer.error:
            panels.failed(questions[kind], answer, f"again-{kind}")
            return
    value, forgot = answers["layer"].value, answers.get("unlearned")
    if value is None:
        with st.container(height=420, border=False):
            panels.waiting(answers["layer"], "measuring the layer")
        return
    maps: Maps = {key.removeprefix("map_"): np.asarray(part, float) for key, part in value.items()
                  if key.startswith("map_") and part is not None}  # fmt: skip
    if forgot is not None and forgot.value is not None:
        maps["unlearned"] = np.asarray(forgot.value["map"], float)
    panels.heading(sentence(maps, layer, int(value["pruned"])))
    _pictures(frame, maps, layer, int(value["pruned"]), forgot is not None)
    if forgot is not None and not forgot.final:
        panels.waiting(forgot, "unlearning, once for this suspect")
    panels.note(_meaning(value, None if forgot is None else forgot.value))


def sentence(maps: Maps, layer: str, pruned: int) -> str:
    """How far the trigger (or forgetting, or the cut) moves a layer's mean map, where most."""
    other = "triggered" if "triggered" in maps else "unlearned" if "unlearned" in maps else None
    if other is None:
        return f"{layer} gives {short(float(maps['clean'].mean()))} on average on clean pictures."
    gap = maps[other] - maps["clean"]
    row, column = (int(k) for k in np.unravel_index(int(np.abs(gap).argmax()), gap.shape))
    moved, what = (
        short(float(np.abs(gap).max())),
        "The trigger" if other == "triggered" else "Forgetting clean pictures",
    )
    text = f"{what} moves the mean map of {layer} by up to {moved}"
    text += f", most at row {row + 1}, column {column + 1}" if gap.size > 1 else ""
    if other == "triggered" and "triggered_cut" in maps:
        left = float(np.abs(maps["triggered_cut"] - maps["clean_cut"]).max())
        text += f"; with {units(pruned)} cut by up to {short(left)}"
    return f"{text}."


def _pictures(frame: Frame, maps: Maps, layer: str, pruned: int, forgot: bool) -> None:
    """Two rows of maps on one scale, with the differences on another."""
    levels = [maps[key] for key in maps]
    low, high = min(float(m.min()) for m in levels), max(float(m.max()) for m in levels)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    second = "unlearned" if forgot else "triggered"
    plan: list[tuple[str, Sequence[tuple[str, str, str | tuple[str, str]]]]] = [
        (
            "Nothing is cut",
            [("Clean", "acc", "clean"), ("Unlearned", "forgot", "unlearned") if forgot else
             ("Triggered", "asr", "triggered"), ("Difference", "", (second, "clean"))],
        )
    ]  # fmt: skip
    if "clean_cut" in maps and forgot:
        plan.append((f"{units(pruned)} cut", [("Clean", "acc", "clean_cut"), ("Change", "", ("clean_cut", "clean"))]))
    elif "clean_cut" in maps:
        plan.append(
            (
                f"{units(pruned)} cut",
                [("Clean", "acc", "clean_cut"), ("Triggered", "asr", "triggered_cut"),
                 ("Difference", "", ("triggered_cut", "clean_cut"))],
            )
        )  # fmt: skip
    pairs = [key for _, row in plan for _, _, key in row if isinstance(key, tuple)]
    gaps = {key: maps[key[0]] - maps[key[1]] for key in pairs if key[0] in maps and key[1] in maps}
    reach = max((float(np.abs(gap).max()) for gap in gaps.values()), default=1.0) or 1.0
    for head, row in plan:
        panels.over(head)
        cards = []
        for name, key, of in row:
            what = f"Mean map of {layer}, {name.lower()}, {head[:1].lower()}{head[1:]}"
            if isinstance(of, tuple):
                found, drawn = gaps.get(of), None
                if found is not None:
                    drawn = pictures.diverging(found, reach, frame.theme)
            else:
                found = maps.get(of)
                drawn = None if found is None else neuron_figures.cividis(found, low, high)
            side = neuron_figures.fitted(max(maps["clean"].shape), SIDE)
            if drawn is None or found is None:
                cards.append(Picture(name, None, f"{what}: on its way", side, key, why="on its way"))
                continue
            mean = f"mean {short(float(found.mean()))}"
            alt = neuron_figures.describe(found, what)
            cards.append(Picture(name, pictures.png(drawn, side), alt, side, key, why=mean))
        panels.pictures(cards, tight=True)
    ends = short(low), short(high)
    st.html(
        f'<div class="um-scales"><div>{scale(CIVIDIS, *ends)}</div>'
        f"<div>{scale((LESS, frame.theme.paper, MORE), short(-reach), short(reach))}</div></div>"
    )


def _meaning(value: Mapping[str, Any], forgot: Mapping[str, Any] | None) -> str:
    height, width = np.shape(value["map_clean"])
    size = f"{height} \u00d7 {width} positions, " if height * width > 1 else "no positions, "
    words = f"Outputs before the activation function, averaged over the layer's units and {count(value['pictures'])} "
    words += f"pictures; {size}one scale for all maps and one for all differences."
    if forgot is not None:
        words += " Change: what the cut moves." * ("map_clean_cut" in value and value["map_clean_cut"] is not None)
        words += (
            f" Unlearned: the suspect after {forgot['passes']} passes that make it forget the clean pictures (accuracy "
            f"{percent(forgot['acc'], 0)}). What still answers there serves something else."
        )
    return words
