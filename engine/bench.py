"""Benchmarks of the engine: ``python -m engine bench NAME``. Machines are noisy, so a speed is a ratio, side by side.

Each returns ``seconds`` (ours), ``reference_seconds`` (the plain way), their ratio ``speedup``, and ``max_abs_diff``
between what both compute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import Attack
from engine.attacks.badnets import BadNets
from engine.compute import BATCH, Compute, generator
from engine.data import load
from engine.data.base import DataSet, Images
from engine.metrics import TestSet, answers
from engine.models import build
from engine.models.base import Classifier
from engine.models.masking import masked
from engine.registry import Registry
from engine.suspects import load_suspect, shares
from engine.suspects import statistics as pixel_statistics
from engine.train import Progress, Training, silent, stage, train

#: Steps of each loop that are timed, alternately; the first pair is thrown away.
PAIRS = 12


def _setting(compute: Compute) -> tuple[DataSet, Images, str, int | None, Training, Attack]:
    """Data, training images, architecture, training and attack: CIFAR-10 on a GPU that has it, else Fashion-MNIST."""
    if compute.torch_device.type == "cuda":
        training = Training(epochs=24, lr=0.4, batch=512, augment=True)
        return (data := load("cifar10")), data.train, "resnet18", None, training, BadNets(target=0)
    try:
        data = load("fashion-mnist:full")
        images = data.train[:20_000]
    except ValueError:
        data = load("fashion-mnist")
        images = data.train
    return data, images, "resnet18", 32, Training(epochs=3), BadNets(target=8)


def _plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, device: Any) -> None:
    """What a training loop does that nobody has thought about: float32, channels first, images converted each time."""
    loss = F.cross_entropy(model((x.float() / 255).to(device)), y.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def bench_train(compute: Compute, progress: Progress = silent) -> dict[str, Any]:
    """Train a BadNets model with our loop; time its steps against a plain float32 loop's, alternately.

    ``seconds`` is the whole training, ``reference_seconds`` the plain loop's time for as many steps, from the median
    step; ``max_abs_diff`` is between the loss of one batch in both precisions. ``acc`` and ``asr`` are on test images.
    """
    data, images, name, width, training, attack = _setting(compute)
    mean, std = pixel_statistics(images)

    def fresh() -> Classifier:
        rng = generator(0, "init")
        c, n = data.shape[0], len(data.classes)
        return build(name, classes=n, channels=c, mean=mean, std=std, width=width, rng=rng)

    poisoned = attack.bound(len(data.classes)).poison(images, generator(0, "poison"))
    batch, device = training.batch, compute.torch_device
    fast_model, plain_model = fresh(), fresh().to(device)
    plain_optimizer = torch.optim.SGD(plain_model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    one_batch = Training(epochs=1, lr=1e-3, batch=batch)
    fast, plain = [], []
    for k in range(PAIRS + 1):
        part = poisoned.images[k * batch : (k + 1) * batch]
        began = time.perf_counter()
        train(fast_model, part, one_batch, generator(0, "order"), compute)
        _wait(compute)
        fast.append(time.perf_counter() - began)
        began = time.perf_counter()
        _plain_step(plain_model, plain_optimizer, part.x, part.y, device)
        _wait(compute)
        plain.append(time.perf_counter() - began)
        progress("steps of both loops", 0.2 * (k + 1) / (PAIRS + 1))
    ratio = statistics.median(p / f for p, f in zip(plain[1:], fast[1:], strict=True))
    step = statistics.median(plain[1:])

    part = poisoned.images[:batch]
    exact = Compute(compute.device, exact=True)
    losses = [float(F.cross_entropy(c.logits(c.model(fresh()), part.x), part.y)) for c in (compute, exact)]
    model, began = fresh(), time.perf_counter()
    train(model, poisoned.images, training, generator(0, "order"), compute, stage(progress, 0.2, 0.95))
    _wait(compute)
    seconds = time.perf_counter() - began
    compute.model(model).eval()
    found = answers(model, TestSet.of(data.test, attack), compute)
    steps = training.epochs * (len(images) // batch + (len(images) % batch > 1))
    return {
        "bench": "train",
        "seconds": round(seconds, 1),
        "reference_seconds": round(step * steps, 1),
        "speedup": round(ratio, 2),
        "max_abs_diff": abs(losses[0] - losses[1]),
        "images": len(images),
        "steps": steps,
        "images_per_second": round(len(images) * training.epochs / seconds),
        **shares(found),
        "data": data.name,
        "model": {"name": name, "width": width},
        "training": training.model_dump(mode="json"),
        "machine": compute.describe(),
    }


#: Test images of a what-if that is timed, times it is asked, and units that it cuts.
ASKED, TURNS, CUT = 2000, 5, 40


def bench_whatif(compute: Compute, progress: Progress = silent, n: int = ASKED) -> dict[str, Any]:
    """Ask ``demo:badnets`` with 40 units cut, anywhere, about ``n`` test images: our way and a plain one, alternately.

    The reference is a plain float32 pass; ``same_precision_seconds`` is a plain pass in our precision. All are medians.
    ``max_abs_diff`` is between probabilities, ``answers_differ`` the share of images that get another answer.
    """
    suspect = load_suspect("demo:badnets", compute)
    model, x = suspect.model, suspect.data.test.x[:n]
    cut = torch.zeros(len(suspect.units), dtype=torch.bool)
    cut[torch.randperm(len(cut), generator=generator(0, "bench"))[:CUT]] = True
    exact = Compute(compute.device, exact=True)

    @torch.inference_mode()
    def plain() -> Tensor:
        with compute.autocast():
            return torch.cat([model(compute.images(part)).float().cpu() for part in x.split(BATCH)])

    ways = {
        "seconds": lambda: compute.logits(model, x),
        "reference_seconds": lambda: exact.logits(model, x),
        "same_precision_seconds": plain,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, Tensor] = {}
    with masked(model, cut):
        for turn in range(TURNS + 1):  # the first is thrown away
            for name, way in ways.items():
                began = time.perf_counter()
                said[name] = way()
                _wait(compute)
                took[name].append(time.perf_counter() - began)
            progress("a what-if, three ways", (turn + 1) / (TURNS + 1))
    ours, reference = said["seconds"], said["reference_seconds"]
    medians = {name: statistics.median(times[1:]) for name, times in took.items()}
    return {
        "bench": "whatif",
        **{name: round(value, 3) for name, value in medians.items()},
        "speedup": round(medians["reference_seconds"] / medians["seconds"], 2),
        "same_precision_speedup": round(medians["same_precision_seconds"] / medians["seconds"], 2),
        "max_abs_diff": float((ours.softmax(1) - reference.softmax(1)).abs().max()),
        "answers_differ": float((ours.argmax(1) != reference.argmax(1)).float().mean()),
        "images": len(x),
        "images_per_second": round(len(x) / medians["seconds"]),
        "machine": compute.describe(),
    }


def _wait(compute: Compute) -> None:
    if compute.torch_device.type == "cuda":
        torch.cuda.synchronize(compute.torch_device)


BENCHMARKS: Registry[Callable[[Compute, Progress], dict[str, Any]]] = Registry("benchmark")
BENCHMARKS.add("train", bench_train)
BENCHMARKS.add("whatif", bench_whatif)
