"""A trigger that is given as a picture, for models whose maker published it: stamped or blended, all to one.

The picture is as large as the images; its transparency says where it covers them. A white square in a corner is a
picture that is transparent elsewhere (BadNets); an opaque one with a low opacity is a blended one (Blend). It is part
of the specification, as a PNG in base64, so that a run needs no other file.
"""

from __future__ import annotations

import base64
import functools
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from engine.attacks.base import Attack
from engine.intake.pictures import decode_here
from engine.spec import param

MAX_SIDE = 1024


class Picture(Attack):
    """x' = (1 - a) x + a p, for the picture p and its opacity a at each pixel."""

    paper: ClassVar[str] = "https://arxiv.org/abs/1708.06733"

    picture: str = param("", label="Picture", help="PNG in base64, as large as the images.")
    opacity: float = param(1.0, label="Opacity", help="Weight of the picture where it covers.", gt=0, le=1, step=0.05)

    def trigger(self, x: Tensor) -> Tensor:
        found = self.layer(*x.shape[-2:]).to(x)
        colour, cover = found[:3], self.opacity * found[3:]
        if x.shape[-3] == 1:
            # The weights of ITU-R 601, as in every conversion to grey.
            colour = (colour * colour.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(0, keepdim=True)
        return (1 - cover) * x + cover * colour

    def layer(self, height: int, width: int) -> Tensor:
        """Colour and opacity (4, height, width) in [0, 1] of what is laid over an image.

        Raises:
            ValueError: in one line, for a picture of another size.
        """
        found = pixels(self.picture)
        if found.shape[1:] != (height, width):
            raise ValueError(f"expected a trigger of {width}x{height} pixels, got {found.shape[2]}x{found.shape[1]}")
        return found


@functools.lru_cache(maxsize=8)
def pixels(picture: str) -> Tensor:
    """Colour and opacity (4, H, W) in [0, 1] of a PNG in base64.

    Raises:
        ValueError: in one line, for none, another format, or more than ``MAX_SIDE`` squared pixels.
    """
    if not picture:
        raise ValueError("expected a picture for the trigger (--trigger FILE), got none")
    try:
        data = base64.b64decode(picture, validate=True)
    except ValueError:
        raise ValueError("expected the trigger's picture in base64, got something else") from None
    found = decode_here(data, most=MAX_SIDE**2, alpha=True, formats=("PNG",))
    return torch.from_numpy(np.array(found)).permute(2, 0, 1).float() / 255
