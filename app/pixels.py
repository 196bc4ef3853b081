"""A small pixel editor: a trigger is drawn on a grid as large as the data's pictures, with mouse, pen or keyboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from engine.intake import uploads

_HTML = """
<div class="bar" role="toolbar" aria-label="Colours"></div>
<canvas tabindex="0" role="application"></canvas>
<p class="said" aria-live="polite"></p>
"""

_CSS = """
.bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 0 0 8px; font: 0.86rem var(--st-font); }
.bar button { all: unset; box-sizing: border-box; width: 28px; height: 28px; border-radius: 4px; cursor: pointer;
  outline: 1px solid color-mix(in srgb, var(--st-text-color) 35%, transparent); text-align: center; line-height: 28px; }
.bar button.wide { width: auto; padding: 0 10px; color: var(--st-text-color); }
.bar button[aria-pressed=true] { outline: 2.5px solid var(--st-text-color); outline-offset: 1px; }
.bar button:focus-visible, canvas:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 2px; }
canvas { display: block; touch-action: none; cursor: crosshair; max-width: 100%; border-radius: 3px;
  outline: 1px solid color-mix(in srgb, var(--st-text-color) 25%, transparent); }
.said { margin: 6px 0 0; min-height: 1.3em; font: 0.82rem var(--st-font); opacity: 0.75; }
"""

# A cell is a colour's number, -1 where the picture stays as it is. Names go in as text, never as markup.
_JS = """
const mounts = new WeakMap();
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class Editor {
  constructor(root) {
    [this.bar, this.canvas, this.said] = [".bar", "canvas", ".said"].map(part => root.querySelector(part));
    this.colour = 0; this.x = this.y = 0; this.revision = null;
    this.canvas.onpointerdown = event => {
      this.canvas.setPointerCapture(event.pointerId);
      this.stroke = true;
      this.at(event);
    };
    this.canvas.onpointermove = event => {
      if (!this.stroke) return;
      // A fast hand moves further than a cell between two events; the browser kept what lies between.
      const passed = event.getCoalescedEvents?.() ?? [];
      (passed.length ? passed : [event]).forEach(one => this.at(one));
    };
    this.canvas.onpointerup = this.canvas.onpointercancel = () => {
      if (this.stroke) this.report();
      this.stroke = false;
    };
    this.canvas.onkeydown = event => this.key(event);
    this.canvas.onfocus = this.canvas.onblur = () => this.draw();
  }
  update(data, send) {
    this.data = data; this.send = send;
    if (this.revision !== data.revision) { this.revision = data.revision; this.cells = Int8Array.from(data.cells); }
    this.unit = Math.max(2, Math.floor(300 / Math.max(data.width, data.height)));
    this.canvas.width = data.width * this.unit; this.canvas.height = data.height * this.unit;
    this.canvas.setAttribute("aria-label", data.label);
    const tools = data.colours.map(([name, colour], k) => ({ name, colour, k }));
    tools.push({ name: "Eraser", k: -1 });
    this.bar.replaceChildren(...tools.map(tool => {
      const button = document.createElement("button");
      button.type = "button"; button.title = tool.name; button.setAttribute("aria-label", tool.name);
      if (tool.colour) button.style.background = tool.colour;
      else { button.textContent = tool.name; button.className = "wide"; }
      button.setAttribute("aria-pressed", String(tool.k === this.colour));
      button.onclick = () => {
        this.colour = tool.k;
        [...this.bar.children].forEach(other => other.setAttribute("aria-pressed", String(other === button)));
      };
      return button;
    }), this.clearer());
    this.draw();
  }
  clearer() {
    const button = document.createElement("button");
    button.type = "button"; button.className = "wide"; button.textContent = "Clear";
    button.onclick = () => { this.cells.fill(-1); this.draw(); this.report(); };
    return button;
  }
  at(event) {
    const box = this.canvas.getBoundingClientRect(), { width, height } = this.data;
    const x = Math.floor((event.clientX - box.left) / box.width * width);
    const y = Math.floor((event.clientY - box.top) / box.height * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    [this.x, this.y] = [x, y];
    this.cells[y * width + x] = this.colour;
    this.draw();
  }
  key(event) {
    const { width, height } = this.data, move = ARROWS[event.key];
    if (move) {
      this.x = Math.min(width - 1, Math.max(0, this.x + move[0]));
      this.y = Math.min(height - 1, Math.max(0, this.y + move[1]));
    } else if (event.key === " " || event.key === "Enter") {
      const place = this.y * width + this.x;
      this.cells[place] = this.cells[place] === this.colour ? -1 : this.colour;
      this.report();
    } else return;
    event.preventDefault(); event.stopPropagation();
    this.draw();
    const now = this.cells[this.y * width + this.x];
    this.said.textContent = `Column ${this.x + 1}, row ${this.y + 1}: ${now < 0 ? "empty" : this.data.colours[now][0]}`;
  }
  draw() {
    const pen = this.canvas.getContext("2d"), { width, height, colours } = this.data, unit = this.unit;
    const style = getComputedStyle(this.canvas), line = style.getPropertyValue("--st-border-color") || "#8888";
    pen.clearRect(0, 0, width * unit, height * unit);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const cell = this.cells[y * width + x];
      // What stays as it is shows as a chequered ground, as in any editor of pictures.
      pen.fillStyle = cell >= 0 ? colours[cell][1] : (x + y) % 2 ? "#b9b9b9" : "#cdcdcd";
      pen.fillRect(x * unit, y * unit, unit, unit);
      if (unit > 5) { pen.strokeStyle = line; pen.lineWidth = 0.5; pen.strokeRect(x * unit, y * unit, unit, unit); }
    }
    if (document.activeElement === this.canvas || this.canvas.matches(":focus")) {
      pen.strokeStyle = "#D55E00"; pen.lineWidth = 2;
      pen.strokeRect(this.x * unit + 1, this.y * unit + 1, unit - 2, unit - 2);
    }
  }
  report() { this.send("drawn", { cells: Array.from(this.cells), width: this.data.width, height: this.data.height }); }
}

export default function mount({ parentElement, data, setTriggerValue }) {
  if (!mounts.has(parentElement)) mounts.set(parentElement, new Editor(parentElement));
  mounts.get(parentElement).update(data, setTriggerValue);
}
"""

_component = st.components.v2.component("unmask_pixels", html=_HTML, css=_CSS, js=_JS)
_GREYS = (("white", "#FFFFFF"), ("light grey", "#BFBFBF"), ("grey", "#808080"), ("black", "#000000"))
_HUES = (("red", "#E02020"), ("yellow", "#F0D020"), ("green", "#20A040"), ("blue", "#2050E0"))


def palette(channels: int) -> tuple[tuple[str, str], ...]:
    """Names and colours that may be drawn with."""
    return _GREYS if channels == 1 else (*_GREYS, *_HUES)


def pixels(
    png: str, width: int, height: int, channels: int, *, key: str, label: str, on_draw: Callable[[str], None]
) -> None:
    """Show the editor; ``on_draw`` gets the drawing as a PNG in base64, "" if it is empty, before the script runs.

    Args:
        png: the present drawing. One that did not come from here (a link, a preset) replaces what the editor shows.
        label: what is drawn here, for screen readers.
    """
    colours = palette(channels)
    kept: dict[str, Any] = st.session_state.setdefault(f"{key}:cells", {"revision": 0})
    if (kept.get("width"), kept.get("height"), kept.get("png")) != (width, height, png):
        kept |= {"width": width, "height": height, "png": png, "cells": decoded(png, width, height, colours)}
        kept["revision"] += 1

    def drawn() -> None:
        report = st.session_state.get(key)
        found = report.get("drawn") if isinstance(report, Mapping) else None
        cells = checked(found, width, height, len(colours))
        if cells is not None:
            kept["cells"], kept["png"] = cells, encoded(cells, width, height, colours)
            on_draw(kept["png"])

    _component(
        key=key,
        data={"width": width, "height": height, "cells": kept["cells"], "revision": kept["revision"],
              "colours": [list(colour) for colour in colours], "label": label},
        on_drawn_change=drawn,
    )  # fmt: skip


def checked(report: object, width: int, height: int, colours: int) -> list[int] | None:
    """The cells of a report from the browser; None for one that is malformed or of another size."""
    if not isinstance(report, Mapping) or (report.get("width"), report.get("height")) != (width, height):
        return None
    cells = report.get("cells")
    if not isinstance(cells, Sequence) or isinstance(cells, str) or len(cells) != width * height:
        return None
    if not all(isinstance(cell, int | float) and -1 <= cell < colours for cell in cells):
        return None
    return [int(cell) for cell in cells]


def _table(colours: Sequence[tuple[str, str]]) -> np.ndarray:
    """Colours as uint8 (K + 1, 4), the last one transparent: what the cell -1 stands for."""
    found = [(*(int(colour[k : k + 2], 16) for k in (1, 3, 5)), 255) for _, colour in colours]
    return np.array([*found, (0, 0, 0, 0)], np.uint8)


def encoded(cells: Sequence[int], width: int, height: int, colours: Sequence[tuple[str, str]]) -> str:
    """Cells as a PNG with transparency, in base64; "" where nothing is drawn."""
    picture = _table(colours)[np.asarray(cells)].reshape(height, width, 4)
    if not picture[..., 3].any():
        return ""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decoded(png: str, width: int, height: int, colours: Sequence[tuple[str, str]]) -> list[int]:
    """The cells of a picture: all empty unless it is of this size and these colours, as one that was drawn is."""
    empty = [-1] * (width * height)
    if not png:
        return empty
    try:
        picture = uploads.pixels_of(png)
    except ValueError:
        return empty
    if picture.shape[:2] != (height, width):
        return empty
    same = (picture.reshape(-1, 1, 4) == _table(colours)).all(2)
    if not same.any(1).all():
        return empty
    return [int(k) if k < len(colours) else -1 for k in same.argmax(1)]
