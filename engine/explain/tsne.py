"""t-SNE: a map on which neighbours in many dimensions stay neighbours. Distances across it mean little.

van der Maaten, Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008,
https://www.jmlr.org/papers/v9/vandermaaten08a.html

Row i of P says how likely i would pick j as its neighbour under a Gaussian whose width is set so that the row has the
wanted perplexity (2 to the power of its entropy: a soft number of neighbours):

    p_j|i = exp(-b_i d_ij^2) / sum_k exp(-b_i d_ik^2),    P = (p_j|i + p_i|j) / 2N
    q_ij  = (1 + |y_i - y_j|^2)^-1 / sum,                 loss = KL(P || Q)
    grad_i = 4 sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2)

Exact, O(N^2) a step. As is usual today, it starts from the first two principal components, small (Kobak, Berens 2019,
https://doi.org/10.1038/s41467-019-13056-x), with a rate of N / 12 (Belkina et al. 2019,
https://doi.org/10.1038/s41467-019-13055-y). Nothing in it is random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.compute import Compute
from engine.explain.latent import pca
from engine.runs.checkpoints import NOTHING, Keep
from engine.train import Progress, silent

EXAGGERATION, EARLY = 12.0, 250
_TINY = 1e-12


def affinities(x: Tensor, perplexity: float) -> Tensor:
    """P (N, N) float64 for features (N, D): symmetric, of sum 1, zero on the diagonal.

    Raises:
        ValueError: unless 1 <= perplexity <= (N - 1) / 3.
    """
    most = (len(x) - 1) / 3
    if not 1 <= perplexity <= most:
        raise ValueError(f"expected a perplexity from 1 to {most:.0f} for {len(x):,} points, got {perplexity:g}")
    rows = conditional(x, perplexity)
    return (rows + rows.T) / (2 * len(x))


def conditional(x: Tensor, perplexity: float) -> Tensor:
    """p_j|i, float64 (N, N): every row of sum 1 and of this perplexity, found by bisection."""
    away = torch.cdist(x.double(), x.double()).square().fill_diagonal_(torch.inf)
    scale = away[away.isfinite()].mean().clamp_min(_TINY)
    away = away / scale - (away / scale).amin(1, keepdim=True)
    low, high = away.new_full((len(x), 1), -30.0), away.new_full((len(x), 1), 30.0)  # of log b_i
    wanted = away.new_tensor(perplexity).log()
    for _ in range(60):
        middle = (low + high) / 2
        p = torch.softmax(-middle.exp() * away, 1)
        flat = -(p * p.clamp_min(1e-300).log()).sum(1, keepdim=True) > wanted
        low, high = torch.where(flat, middle, low), torch.where(flat, high, middle)
    return torch.softmax(-((low + high) / 2).exp() * away, 1)


@torch.no_grad()
def tsne(
    x: Tensor,
    perplexity: float,
    compute: Compute,
    steps: int = 1000,
    progress: Progress = silent,
    keep: Keep = NOTHING,
) -> tuple[Tensor, float]:
    """A map of features (N, D): places float32 (N, 2) on the CPU, centred, and KL(P || Q).

    Args:
        perplexity: how many neighbours count, 1 to (N - 1) / 3.
        keep: goes on from the step that an earlier process had come to.

    Raises:
        ValueError: for a perplexity that the number of points does not allow.
    """
    device = compute.torch_device
    p = affinities(x, perplexity).float().to(device)
    basis = pca(x)
    start = basis.project(x)
    y = (start / start[:, 0].std().clamp_min(_TINY) * 1e-4).float().to(device)
    speed, gains, first = torch.zeros_like(y), torch.ones_like(y), 0
    if saved := keep.read("tsne"):
        y, speed, gains = (torch.from_numpy(saved[0][name].copy()).to(device) for name in ("y", "speed", "gains"))
        first = int(saved[1])
    rate, loss = max(len(x) / EXAGGERATION / 4, 50.0), torch.tensor(0.0)
    for step in range(first, steps):
        if step % 10 == 0:
            progress("t-SNE", step / steps, step=step, steps=steps, loss=round(float(loss), 4) if step else None)
        if keep.due:
            state = {"y": y, "speed": speed, "gains": gains}
            keep.write("tsne", {name: value.cpu().numpy() for name, value in state.items()}, step)
        early = step < min(EARLY, steps // 2)
        near = (1 + torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").square()).reciprocal()
        near.fill_diagonal_(0)
        q = (near / near.sum()).clamp_min(_TINY)
        loss = (p * (p.clamp_min(_TINY) / q).log()).sum()
        pull = (p * (EXAGGERATION if early else 1.0) - q) * near
        slope = 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
        gains = torch.where(slope * speed < 0, gains + 0.2, gains * 0.8).clamp_min(0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gains * slope
        y = y + speed
        y = y - y.mean(0)
    near = (1 + torch.cdist(y, y).square()).reciprocal().fill_diagonal_(0)
    loss = (p * (p.clamp_min(_TINY) / (near / near.sum()).clamp_min(_TINY)).log()).sum()
    return y.cpu(), float(loss)
