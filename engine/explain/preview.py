"""What a poison does to pictures, before anything is trained: how visible it is, and at which frequencies it lies.

PSNR and SSIM say how far a picture with the trigger is from the one without; the spectrum says what kind of change it
is: a patch is spread over all frequencies, a wave is one point, noise lies where natural pictures have next to nothing
(Zeng et al. 2021, https://arxiv.org/abs/2104.03413).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.base import turns

#: SSIM's window and constants as published, for values in [0, 1].
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
#: Decibels below the strongest frequency that a spectrum reaches down to, and points a side that it has at most.
FLOOR, POINTS = -60.0, 64


def stored(x: Tensor) -> Tensor:
    """Pictures in [0, 1] as they are stored, rounded to 8 bits."""
    return (x * 255).round().clamp(0, 255) / 255


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures (N, C, H, W) in [0, 1]; infinite where they are the same."""
    return -10 * (a - b).square().flatten(1).mean(1).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (N,) of pictures (N, C, H, W) in [0, 1], the mean over places and channels.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861: (2 m_a m_b + c1)(2 s_ab + c2) over
    (m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2) in a Gaussian window of 11 pixels that lies inside the picture; pictures
    that are smaller get the largest odd window that does.
    """
    channels, height, width = a.shape[1:]
    sides = [min(WINDOW, n - 1 + n % 2) for n in (height, width)]
    lines = [torch.exp(-((torch.arange(n) - n // 2) ** 2) / (2 * SIGMA**2)) for n in sides]
    down, across = (line / line.sum() for line in lines)
    window = torch.outer(down, across).to(a).expand(channels, 1, *sides)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    return similarity(a, b, mean).flatten(1).mean(1)


def similarity(a: Tensor, b: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Structural similarity at each place, for pictures in [0, 1] and the mean over a window around it."""
    at, bt = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - at * at, mean(b * b) - bt * bt, mean(a * b) - at * bt
    c1, c2 = K1**2, K2**2
    return (2 * at * bt + c1) * (2 * both + c2) / ((at * at + bt * bt + c1) * (var_a + var_b + c2))


def amplitude(x: Tensor) -> Tensor:
    """Mean amplitude spectrum (H, W) of pictures or differences (N, C, H, W), frequency 0 in the middle.

    The amplitudes are averaged, not the pictures: changes that differ from picture to picture do not cancel out.
    """
    return torch.fft.fftshift(torch.fft.fft2(x.mean(1)).abs().mean(0))


def decibels(spectrum: Tensor) -> Tensor:
    """A spectrum (H, W) in dB below its maximum, at most ``POINTS`` a side; all at the floor where there is nothing."""
    height, width = spectrum.shape
    small = F.adaptive_avg_pool2d(spectrum[None, None], (min(height, POINTS), min(width, POINTS)))[0, 0]
    if not small.max() > 0:
        return torch.full_like(small, FLOOR)
    return (20 * (small / small.max()).log10()).clamp(min=FLOOR)


def high_share(spectrum: Tensor) -> float:
    """Share of the energy above half of the highest frequency, without the mean (frequency 0)."""
    height, width = spectrum.shape
    down = (torch.arange(height) - height // 2) / (height / 2)
    across = (torch.arange(width) - width // 2) / (width / 2)
    far = (down[:, None] ** 2 + across[None, :] ** 2).sqrt().to(spectrum.device)
    energy = spectrum.square() * (far > 0)
    return float(energy[far > 0.5].sum() / energy.sum().clamp(min=1e-20))


def peak(spectrum: Tensor) -> tuple[int, int]:
    """Waves down and across the picture of the strongest frequency other than 0, across not negative."""
    height, width = spectrum.shape
    others = spectrum.clone()
    others[height // 2, width // 2] = -1
    # The spectrum of real pictures is symmetric: one half of it says everything.
    others[:, : width // 2] = -1
    at = int(others.argmax())
    return at // width - height // 2, at % width - width // 2


def show(y: Tensor, candidates: Tensor, count: int, turn: int) -> Tensor:
    """Numbers of ``count`` pictures among the candidates, bool (N,): one of each class, then another one of each.

    ``turn`` leafs through them.
    """
    places = candidates.nonzero()[:, 0]
    labels = y[places]
    order = torch.argsort(turns(labels) * (int(y.max()) + 1) + labels)
    first = turn * count % max(1, len(places))
    return places[order.roll(-first)[:count]]
