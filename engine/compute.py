"""Where and in which precision tensors are computed.

Inference and training use bfloat16 autocast where the processor has the instructions for it (it is two to
five times faster there) and float32 elsewhere. ``Compute(exact=True)`` is the float32 path that the fast one
is checked against. Randomness comes in as a generator made here from a seed and a purpose, so that no two
purposes share a stream and nothing touches the global seed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine import torchvision_compat as _compat  # noqa: F401  (must come before any torchvision import)
from engine.models.fused import Stage, fused_stages, stages, through
from engine.runs.checkpoints import Keep

BATCH = 100


def _cpu_has_bf16() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


@dataclass(frozen=True)
class Compute:
    """A device and a precision.

    Args:
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        exact: float32 everywhere instead of bfloat16 autocast.
    """

    device: str = "auto"
    exact: bool = False
    torch_device: torch.device = field(init=False)
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            device = torch.device("meta")
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"expected device to be auto, cpu, cuda or cuda:N, got {self.device!r}")
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= there:
            raise ValueError(f"expected a CUDA device for {self.device!r}, got a machine with {there}")
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported() or device.type == "cpu" and _cpu_has_bf16()
        object.__setattr__(self, "torch_device", device)
        object.__setattr__(self, "precision", "float32" if self.exact or not fast else "bfloat16")

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def model(self, model: nn.Module) -> nn.Module:
        return model.to(self.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, x: Tensor) -> Tensor:
        """uint8 or float images (N, C, H, W) as float in [0, 1] on the device."""
        x = x.to(self.torch_device)
        if x.dtype == torch.uint8:
            x = x.float() / 255
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def stages(self, model: nn.Module) -> list[Stage]:
        """What a model in evaluation mode is computed by, one after the other: the fast way unless it is exact."""
        fast = self.torch_device.type == "cpu" and not self.exact and torch.backends.mkldnn.is_available()
        return fused_stages(model, getattr(torch, self.precision)) if fast else stages(model)

    @torch.inference_mode()
    def logits(self, model: nn.Module, x: Tensor, batch: int | None = None) -> Tensor:
        """Outputs (N, classes) as float32 on the CPU, in evaluation mode; the mode of each module is restored."""
        were_training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            run = self.stages(model)
            with self.autocast():
                parts = [through(run, self.images(part)).float().cpu() for part in x.split(batch or self.batch)]
        finally:
            # Not model.train(): parts of a model in training may be held in evaluation mode, as normalisation is.
            for module in were_training:
                module.training = True
        return torch.cat(parts)

    @property
    def batch(self) -> int:
        """Images per slice of an answer: a slice's widest layer stays in a processor's cache, and fills a GPU."""
        return 50 if self.torch_device.type == "cpu" else 500

    def describe(self) -> str:
        if self.torch_device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.torch_device)}, {self.precision}"
        return f"CPU ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads), {self.precision}"


def use_threads(threads: int) -> None:
    """Compute with so many processor threads from now on.

    Raises:
        ValueError: for a number outside 1..1024.
    """
    if not 1 <= threads <= 1024:
        raise ValueError(f"expected between 1 and 1024 threads, got {threads}")
    torch.set_num_threads(threads)


def steady(keep: Keep) -> None:
    """Compute with as many threads as the process that began this run: sums in another order have other bits."""
    if saved := keep.read("threads"):
        if torch.get_num_threads() != saved[1]:
            torch.set_num_threads(saved[1])
    else:
        keep.write("threads", {}, torch.get_num_threads())


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator whose stream depends on the seed and on what it is for."""
    mixed = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:7], "big"))
