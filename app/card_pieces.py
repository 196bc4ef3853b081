"""Pieces of the unit card: pictures in columns, boxes where one is not, and the scale of their colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app import neuron_figures, pictures
from app.panels import esc
from engine.runs import ask

SIDE = 112  # four times the 28 pixels of a picture, sixteen times the 7 of a map


def pairs(cells: list[str], pixels: int) -> None:
    """Two columns, as wide as a whole multiple of a picture's ``pixels``."""
    side = neuron_figures.fitted(pixels, SIDE)
    st.html(f'<div class="um-pairs" style="--um-side:{side}px">{"".join(cells)}</div>')


def column(name: str, key: str) -> str:
    return f'<p class="um-name"><span class="um-key {key}"></span><span>{name}</span></p>'


def image(pixels: np.ndarray, alt: str) -> str:
    return f'<img src="{esc(pictures.png(pixels, SIDE))}" alt="{esc(alt)}">'


def absent(name: str, answer: ask.Answer) -> str:
    """A box where a picture is not: impossible, or on its way."""
    words = "not computed" if answer.error else "on its way" if not answer.final else "This model has no trigger."
    said = esc(f"{name}: {words}")
    return f'<div class="um-blank" role="img" aria-label="{said}"><span>{esc(words)}</span></div>'


def scale(colours: Any, low: str, high: str) -> str:
    ramp = f"linear-gradient(90deg, {', '.join(colours)})"
    ends = (f"<span>{esc(end)}</span>" for end in (low, high))
    return '<div class="um-scale">{0}<i style="background:{2}"></i>{1}</div>'.format(*ends, ramp)
