"""What an attack does to pictures and to a training set, as the Attack lab shows it before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import data, lab, lab_figures, own_trigger, panels, pictures, state
from app.lab import Lab, Side
from app.lab_figures import KINDS
from app.palette import Theme, count, percent
from app.panels import esc
from engine.runs import ask

#: CSS pixels of a picture: three times the 28 of Fashion-MNIST. As many are asked for as a wide window has room for.
SIDE, PICTURES = 84, 9
#: Seconds that a run of the page waits for an answer, so that a warm worker's is on the page at once.
_PATIENCE = 0.35


def asked(now: Lab, turn: int) -> dict[str, Any]:
    """The question whose answer the page shows: both columns at once."""
    drafts = []
    for side in now.sides:
        draft: dict[str, Any] = {"name": side.name, "settings": side.draft}
        if side.row["learned"] and (run := lab.learned_by(now.bench, side)) is not None:
            draft["learned_by"] = run.name
        drafts.append(draft)
    bench = now.bench
    return {
        "kind": "preview", "data": bench.path, "attacks": drafts, "seed": bench.seed, "count": PICTURES, "turn": turn,
    }  # fmt: skip


def answer(question: Mapping[str, Any]) -> ask.Answer:
    """The answer, waited for as long as a person does not notice."""
    until = time.monotonic() + _PATIENCE
    found = panels.answer_to(question, True)
    while not found.final and found.state != "starting" and time.monotonic() < until:
        time.sleep(0.015)
        found = panels.answer_to(question, True)
    return found


def waits(question: Mapping[str, Any], what: str) -> None:
    """How far an answer is; the page is drawn again when it is there."""

    def look() -> None:
        found = panels.answer_to(question, True)
        if found.final:
            st.rerun()
        panels.waiting(found, what)

    st.fragment(look, run_every=panels.pace())()


def show(now: Lab, side: Side, value: Mapping[str, Any], theme: Theme, stale: bool) -> None:
    """One column's preview; ``stale``: of settings that have changed since."""
    with st.container(key=f"lab-preview{side.suffix}", gap="small"):
        _figures(now, side, value)
        if value["items"]:
            panels.heading(_sentence(now, value), lines=len(now.sides))
            _film(now, value, theme)
            _origin(now, side)
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                panels.note(f"PSNR and SSIM are means over {count(value['figures']['n'])} training pictures.")
                st.space("stretch")
                st.button(
                    "Other pictures", key=f"lab-turn{side.suffix}", type="tertiary", icon=":material/shuffle:",
                    on_click=_turn,
                )  # fmt: skip
        else:
            _no_pictures(side, value)
        wide = len(now.sides) == 1
        left, right = st.columns([1.15, 1], gap="medium") if wide else (st.container(), st.container())
        with left:
            _composition(now, side, value)
        with right:
            if value["spectrum"]:
                panels.chart(lab_figures.spectrum(value["spectrum"], theme), f"lab-spectrum{side.suffix}")
        if stale:
            # The style sheet greys what stands beside it; under another key the panel would be built anew.
            st.html('<i class="um-stale" hidden></i>')


def _turn() -> None:
    st.session_state["lab:turn"] += 1


# --- pictures --------------------------------------------------------------------------------------------------------


def _sentence(now: Lab, value: Mapping[str, Any]) -> str:
    item, classes = value["items"][0], now.bench.classes
    was, becomes = panels.article(classes[item["label"]]), panels.article(classes[item["becomes"]])
    if value["clean_label"]:
        return f"{was[0].upper()}{was[1:]} with the trigger keeps its label: who reads labels finds nothing."
    return f"{was[0].upper()}{was[1:]} with the trigger is to be answered as {becomes}."


def _film(now: Lab, value: Mapping[str, Any], theme: Theme) -> None:
    """Original, triggered and difference below each other, as many pictures as there is room for."""
    classes = now.bench.classes
    rows = [("Original", "acc"), ("With the trigger", "asr"), ("Difference \u00d7 10", "")]
    if with_stored := any(item["stored"] for item in value["items"]):
        rows.insert(2, ("As it is stored in training", "asr"))
    heads = "".join(
        f'<span style="height:{SIDE}px"><i class="um-key {key}"></i>{esc(name)}</span>' for name, key in rows
    )
    frames = []
    for item in value["items"]:
        clean, triggered = pictures.opened(item["clean"]), pictures.opened(item["triggered"])
        name, becomes = classes[item["label"]], classes[item["becomes"]]
        moved = (clean != triggered).reshape(*clean.shape[:2], -1).any(2)
        shown = [
            (clean, f"Training picture {item['number']}, {panels.article(name)}, as it was."),
            (triggered, f"The same {name} with the trigger, labelled {becomes}."),
            (
                pictures.difference(clean, triggered, theme),
                f"What the trigger changes in it, ten times enlarged: {int(moved.sum())} of {moved.size} pixels.",
            ),
        ]
        if with_stored:
            shown.insert(
                2, (pictures.opened(item["stored"]), f"The same {name} as the poisoned training set holds it.")
            )
        images = "".join(
            f'<img src="{pictures.png(pixels, SIDE)}" alt="{esc(alt)}" width="{SIDE}" height="{SIDE}">'
            for pixels, alt in shown
        )
        label = name if becomes == name else f"{name} \u2192 {becomes}"
        frames.append((label, images))
    # What does not fit into the first row is cut off, so every caption must be as high as the others.
    caption = 20 if max(len(label) for label, _ in frames) <= 16 else 36
    figures = "".join(
        f'<figure>{images}<figcaption style="height:{caption}px" title="{label}">{label}</figcaption></figure>'
        for label, images in ((esc(label), images) for label, images in frames)
    )
    height = len(rows) * (SIDE + 6) + caption + 2
    st.html(
        f'<div class="um-film"><div class="um-film-names">{heads}</div>'
        f'<div class="um-film-frames" style="max-height:{height}px">{figures}</div></div>'
    )


def _origin(now: Lab, side: Side) -> None:
    if side.row["learned"] and (run := lab.learned_by(now.bench, side)) is not None:
        panels.note(
            f"The trigger is learned. This is the one that {_called(run)} has learned, with that run's "
            "settings; yours will be another."
        )
    elif side.row["needs_clean_model"]:
        panels.note("What is done to training pictures beyond the trigger depends on the clean model, and comes later.")
    elif side.row["poisons_batches"]:
        panels.note("Pictures are poisoned anew in each batch of the training; this is the trigger at test time.")


def _called(run: data.Listed) -> str:
    return run.name if run.name.startswith(state.PREFIX) else run.title


def _no_pictures(side: Side, value: Mapping[str, Any]) -> None:
    with st.container(border=True, key=f"lab-empty{side.suffix}"):
        if side.row["learned"] and not value["error"]:
            panels.heading("This trigger is learned, not given by a formula", lines=1)
            panels.note(
                value.get("unseen") or "There is nothing to look at before a first run. Train one: afterwards its "
                "trigger is shown here. What the training set is made of is known already."
            )  # fmt: skip
        elif wanted := own_trigger.missing(side):
            panels.heading(wanted, lines=1)
            panels.note("What it does to pictures and to the training set appears here with the first stroke.")
        else:
            panels.heading("No pictures yet", lines=1)
            panels.note("With these settings there is no trigger. What has to change is said beside the settings.")


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(now: Lab, side: Side, value: Mapping[str, Any]) -> None:
    """How many pictures are poisoned, and how visible that is."""
    counts, seen = value["counts"], value["figures"]
    total = sum(counts.values()) if counts else 0
    poisoned = f'{count(counts["poisoned"])}<span class="of">of {count(total)}</span>' if counts else "\u2013"
    psnr = ssim = largest = "\u2013"
    moved = "no trigger yet"
    if seen:
        psnr = "\u221e" if seen["psnr"] is None else f"{seen['psnr']:.1f}<small>dB</small>"
        ssim = f"{seen['ssim']:.3f}"
        largest = f'{seen["largest"]}<span class="of">of 255</span>'
        moved = f"{percent(seen['changed'])} of pixels"
    share = lab_figures.share(counts["poisoned"], total) if counts else ""
    cells = [
        ("Poisoned", poisoned, share, "How many training pictures carry the trigger and the attacker's label"),
        ("PSNR", psnr, "higher is fainter", "Peak signal-to-noise ratio of pictures with the trigger"),
        ("SSIM", ssim, "1 is unchanged", "Structural similarity in an 11 x 11 Gaussian window"),
        ("Change", largest, moved, "The largest change of any pixel in grey levels, and how many pixels change"),
    ]
    key = '<span class="um-key asr"></span>'
    parts = [
        f'<div class="um-cell" title="{esc(help)}"><div class="um-head">{key if k == 0 else ""}<b>{esc(name)}</b></div>'
        f'<div class="um-value">{shown}</div><div class="um-detail"><span>{esc(below)}</span></div></div>'
        for k, (name, shown, below, help) in enumerate(cells)
    ]
    narrow = " narrow" if len(now.sides) > 1 else ""
    st.html(
        f'<div class="um-strip{narrow}" role="group" aria-label="Figures of {esc(side.title)}">{"".join(parts)}</div>'
    )


def _composition(now: Lab, side: Side, value: Mapping[str, Any]) -> None:
    counts = value["counts"]
    if not counts:
        panels.heading("What the training set is made of", lines=1)
        panels.note("Not known with these settings.")
        return
    total, target = sum(counts.values()), side.values.get("target")
    named = now.bench.classes[target] if isinstance(target, int) and target < len(now.bench.classes) else "the target"
    every = bool(side.row["poisons_batches"])
    sentence = lab_figures.made_of(
        counts, value["candidates"] if value["clean_label"] else None, every=every, target=named
    )
    panels.heading(sentence)
    there = [(kind, counts[kind]) for kind in KINDS if counts.get(kind)]
    about = {kind: words for kind, (_, words) in KINDS.items()}
    if value["clean_label"]:
        about["poisoned"] = "trigger and the true label"
    bar = "".join(
        f'<i class="{kind}" style="flex-grow:{n}" title="{esc(KINDS[kind][0])}: {count(n)}"></i>' for kind, n in there
    )
    rows = "".join(
        f'<tr><td><span class="um-kind {kind}"></span>{esc(KINDS[kind][0])}</td><td class="n">{count(n)}</td>'
        f'<td class="n">{lab_figures.share(n, total)}</td><td>{esc(about[kind])}</td></tr>'
        for kind, n in there
    )
    words = ", ".join(f"{count(n)} {KINDS[kind][0].lower()}" for kind, n in there)
    st.html(
        f'<div class="um-made" role="img" aria-label="{esc(sentence)} {esc(words)}.">{bar}</div>'
        f'<table class="um-facts um-kinds"><tbody>{rows}</tbody></table>'
    )
