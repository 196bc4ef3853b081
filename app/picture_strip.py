"""A row of small pictures to choose one from: buttons with pictures on them, which Streamlit does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

SIDE = 56  # CSS pixels: twice the 28 of a picture

_CSS = """
.strip { display: flex; gap: 5px; padding: 3px 3px 5px; min-height: 64px; box-sizing: border-box; overflow: auto hidden;
  scrollbar-width: thin; }
.strip button, .strip i { flex: none; box-sizing: border-box; width: 56px; height: 56px; border-radius: 4px;
  background: color-mix(in srgb, var(--st-text-color) 7%, transparent); }
.strip button { all: unset; flex: none; display: grid; place-items: center; width: 56px; height: 56px; cursor: pointer;
  border-radius: 4px; outline: 1px solid color-mix(in srgb, var(--st-text-color) 18%, transparent); }
.strip button img { display: block; max-width: 56px; max-height: 56px; image-rendering: pixelated; border-radius: 4px; }
.strip button:hover { outline: 2px solid color-mix(in srgb, var(--st-text-color) 55%, transparent); }
.strip button[aria-pressed=true] { outline: 2.5px solid var(--st-text-color); outline-offset: 0.5px; }
.strip button:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 1px; }
"""

# Names go in through attributes and pictures are base64: nothing from Python is parsed as markup.
_JS = """
export default function mount({ parentElement, data, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  strip.setAttribute("aria-label", data.label);
  strip.replaceChildren(...data.items.map(item => {
    if (!item.src) return document.createElement("i");
    const button = document.createElement("button"), picture = document.createElement("img");
    button.type = "button";
    button.title = item.name;
    button.setAttribute("aria-pressed", String(item.number === data.chosen));
    picture.src = `data:image/png;base64,${item.src}`;
    picture.alt = item.name;
    button.append(picture);
    button.onclick = () => {
      for (const other of strip.children) other.setAttribute("aria-pressed", String(other === button));
      setTriggerValue("picked", item.number);
    };
    return button;
  }));
}
"""

_component = st.components.v2.component(
    "unmask_picture_strip", html='<div class="strip" role="group"></div>', css=_CSS, js=_JS
)


def picture_strip(
    items: Sequence[Mapping[str, Any]], chosen: int, *, label: str, key: str, on_pick: Callable[[int], None]
) -> None:
    """Show pictures; ``on_pick`` gets the number of the one that was clicked, before the script runs.

    Args:
        items: ``number``, ``name`` (its alt text) and ``src`` (PNG in base64; empty while it is not there yet).
        chosen: number of the picture that is marked.
        label: what the row is, for screen readers.
    """

    def picked() -> None:
        report = st.session_state.get(key)
        number = report.get("picked") if isinstance(report, Mapping) else None
        if isinstance(number, int | float) and any(item["number"] == int(number) for item in items):
            on_pick(int(number))

    _component(
        key=key,
        data={"items": [dict(item) for item in items], "chosen": chosen, "label": label},
        on_picked_change=picked,
    )
