"""Pictures as PNG, for answers that travel as JSON."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor


def png(picture: Tensor) -> str:
    """A picture (C, H, W), float in [0, 1] (clipped), C 1 or 3, as PNG in base64."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
