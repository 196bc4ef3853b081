"""A trigger of one's own: any picture with transparency, trained like a published attack.

https://arxiv.org/abs/1708.06733 (BadNets), https://arxiv.org/abs/1712.05526 (Blend), of which this is the general form.

An opaque drawing in a corner makes a BadNets, a faint one that is scaled over everything a Blend. How small, how faint
and how rare may it be, until the network no longer learns it? With the label rule of the other attacks, or with true
labels: then only images of the target class carry it, as in SIG.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from engine.attacks.base import Preset
from engine.attacks.picture import Picture, pixels
from engine.spec import param

Place = Literal["lower_right", "lower_left", "upper_right", "upper_left", "centre", "everywhere"]


class _TrueLabels:
    """``clean_label`` of an attack where it is a setting; of the class it is False."""

    def __get__(self, attack: Any, kind: type | None = None) -> bool:
        return attack is not None and attack.labels == "true"


class Custom(Picture):
    """x' = (1 - a) x + a p, for the picture p, where it lies, and its opacity a at each pixel."""

    title: ClassVar[str] = "Your own trigger"
    clean_label: ClassVar[bool] = _TrueLabels()  # type: ignore[assignment]
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset({"target": 1}, ("The target is class 1.",)),
        "strong": Preset({"rate": 0.2}),
        "stealthy": Preset({"rate": 0.01, "opacity": 0.3}),
    }

    picture: str = param("", label="Picture", help="PNG in base64; on the command line --trigger FILE.")
    place: Place = param(
        "lower_right", label="Place", help="Where the picture lies; everywhere: scaled to the whole image."
    )
    size: int | None = param(
        None, label="Size", help="Longer side in pixels; as it is if not given.", ge=1, le=1024, step=1
    )
    margin: int = param(0, label="Margin", help="Pixels between a corner and the picture.", ge=0, le=1024, step=1)
    labels: Literal["wanted", "true"] = param(
        "wanted", label="Labels", help="wanted: by the label rule; true: clean-label, images of the target class only."
    )

    @model_validator(mode="after")
    def _true_labels_have_one_target(self) -> Self:
        if self.labels == "true" and self.rule != "all_to_one":
            raise ValueError(f"expected the rule all_to_one with true labels, got {self.rule!r}")
        return self

    def layer(self, height: int, width: int) -> Tensor:
        return _placed(self.picture, self.place, self.size, self.margin, height, width)


@functools.lru_cache(maxsize=8)
def _placed(picture: str, place: Place, size: int | None, margin: int, height: int, width: int) -> Tensor:
    """Colour and opacity (4, height, width) in [0, 1], transparent where the picture is not."""
    found = pixels(picture)
    tall, wide = found.shape[1:]
    if place == "everywhere":
        return _scaled(found, height, width)
    if size is not None:
        longer = max(tall, wide)
        tall, wide = max(1, round(tall * size / longer)), max(1, round(wide * size / longer))
        found = _scaled(found, tall, wide)
    space = 0 if place == "centre" else margin
    if tall + space > height or wide + space > width:
        got = f"{wide}x{tall}" + (f" with a margin of {space}" if space else "")
        raise ValueError(f"expected a trigger that fits {width}x{height} pixels, got {got}")
    top, left = (height - tall) // 2, (width - wide) // 2
    if place != "centre":
        top = height - tall - space if place.startswith("lower") else space
        left = width - wide - space if place.endswith("right") else space
    return F.pad(found, (left, width - wide - left, top, height - tall - top))


def _scaled(found: Tensor, height: int, width: int) -> Tensor:
    """Scaled without the colours of transparent pixels: they have none that should be seen."""
    if found.shape[1:] == (height, width):
        return found
    shown = torch.cat([found[:3] * found[3:], found[3:]])
    made = F.interpolate(shown[None], (height, width), mode="area")[0]
    return torch.cat([made[:3] / made[3:].clamp_min(1e-6), made[3:]])
