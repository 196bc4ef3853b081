"""A style learned from one picture without any download: what the trigger of DFST is painted with.

The style is a sunrise, made by formula. A small feed-forward network learns to paint in it (Johnson et al. 2016,
https://arxiv.org/abs/1603.08155) with the losses of Gatys et al. 2016: means and Gram matrices of feature maps are to
be the style's, the normalised feature maps the picture's. The features are those of fixed random convolutions, whose
statistics describe textures well (Ustyuzhaninov et al. 2016, https://arxiv.org/abs/1606.00021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.base import Lab
from engine.explain.preview import similarity
from engine.models.base import init_weights

#: Weight of the style beside the content.
STYLE = 5.0


class Painter(nn.Module):
    """Images (N, C, H, W) -> images of the same shape in [0, 1], whatever their size."""

    def __init__(self, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        self.inner = nn.ModuleList(
            [nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)]
        )
        self.outer = nn.ModuleList([nn.Conv2d(32 + 16, 16, 3, padding=1), nn.Conv2d(16, channels, 3, padding=1)])
        init_weights(self, rng)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.inner[0](x))
        deep = F.relu(self.inner[2](F.relu(self.inner[1](first))))
        wide = torch.cat([F.interpolate(deep, x.shape[-2:]), first], 1)
        return torch.sigmoid(self.outer[1](F.relu(self.outer[0](wide))))


def sunrise(channels: int, height: int, width: int) -> Tensor:
    """The style picture (C, H, W): a glow above a rippled sea, yellow to dark blue; grey is the mean."""
    down, right = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    glow = torch.exp(-((right - 0.5) ** 2 + (down - 0.55) ** 2) / 0.08)
    ripples = 0.5 + 0.5 * torch.sin(2 * torch.pi * (7 * down + 0.3 * torch.sin(2 * torch.pi * 3 * right)))
    light = torch.where(down < 0.55, 0.25 + 0.75 * glow, (0.15 + 0.6 * glow) * (0.4 + 0.6 * ripples))
    colour = torch.stack([light**0.6, 0.85 * light, 0.35 + 0.3 * (1 - light) * light])
    return colour.mean(0, keepdim=True).expand(channels, -1, -1) if channels != 3 else colour


class Look(nn.Module):
    """Random convolutions: of each layer the instance-normalised feature maps and the statistics of the raw ones."""

    def __init__(self, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(channels, 32, 5, padding=2), nn.Conv2d(32, 32, 5, 2, 2)])
        init_weights(self, rng)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for layer in self.layers:
            x = F.relu(layer(x))
            flat = x.flatten(2)
            gram = flat @ flat.transpose(1, 2) / flat.shape[2]
            found.append((F.instance_norm(x), torch.cat([flat.mean(2), gram.flatten(1)], 1)))
        return found


def learn_style(lab: Lab, steps: int) -> dict[str, Tensor]:
    """The weights of a :class:`Painter` after ``steps`` batches of 16 training images."""
    device, rng = lab.compute.torch_device, lab.rng("style")
    painter, look = Painter(lab.shape[0], rng).to(device), Look(lab.shape[0], rng).to(device)
    wanted = [statistics for _, statistics in look(sunrise(*lab.shape)[None].to(device))]
    optimizer = torch.optim.Adam(painter.parameters(), lr=3e-3)
    for step in range(steps):
        x = lab.draw(16, rng)
        loss = torch.zeros((), device=device)
        for (seen, found), (content, _), target in zip(look(painter(x)), look(x), wanted, strict=True):
            far = F.mse_loss(found, target.expand_as(found)) / target.square().mean()
            loss = loss + STYLE * far + F.mse_loss(seen, content)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lab.progress("learning the style", (step + 1) / steps, loss=float(loss.detach()))
    return {key: value.detach().cpu().contiguous() for key, value in painter.state_dict().items()}


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of images in [0, 1] over 5x5 windows. Wang et al. 2004."""
    return similarity(x, y, lambda values: F.avg_pool2d(values, 5, 1)).mean()
