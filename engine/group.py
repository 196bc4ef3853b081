"""One training by several processes: PyTorch's DistributedDataParallel, started by torchrun inside a run.

Every process builds the same model and the same poisoned images from the specification and draws the same batches; each
computes its part of a batch, and the gradients are averaged. Normalisation statistics are those of the whole batch, as
in one process (SyncBN), and not of each part: pruning reads running statistics and weights of exactly these layers, and
a suspect must not depend on how many processes trained it. The first process writes the checkpoints; from the last one
the run itself goes on. On GPUs each process has one, or shares it where there are fewer; on the CPU gloo connects them.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.paths import ROOT
from engine.runs import process
from engine.runs.checkpoints import Keep

if TYPE_CHECKING:
    from engine.compute import Compute
    from engine.suspects import AttackRun
    from engine.train import Progress

#: So often is a group started again from its last checkpoint when one of its processes was killed.
RESTARTS = 2


class Group:
    """The processes that train one model together, seen from one of them; here, the only one."""

    rank, size = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """What is called in training in the model's place."""
        return model

    def part(self, batch: Tensor) -> Tensor:
        """The part of a batch (N, …) that this process computes."""
        return batch

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes."""
        return list(values)


ALONE = Group()


class _Several(Group):
    """A process that torchrun started."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self._device = dist.get_rank(), dist.get_world_size(), device

    def wrap(self, model: nn.Module) -> nn.Module:
        if self._device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            for module in model.modules():
                if isinstance(module, _BatchNorm):  # torch's own synchronised form needs a GPU
                    module.forward = functools.partial(synchronised, module)  # type: ignore[method-assign]
        return nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)

    def part(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, *values: float) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return [float(value) for value in total]


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each one's part adds to everybody's loss, so gradients are summed, too."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_context, gradient)


def _sum(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))


def synchronised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch normalisation of (N, C, …) with the statistics of all processes' parts in training."""
    if not norm.training:
        return type(norm).forward(norm, x)
    over, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    wide = x.float()
    sums = _sum(torch.cat([wide.sum(over), wide.new_tensor([x.numel() / x.shape[1]])]))
    count, mean = sums[-1].detach(), sums[:-1] / sums[-1]
    centred = wide - mean.view(shape)
    variance = _sum(centred.square().sum(over)) / count
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.detach(), norm.momentum)
        norm.running_var.lerp_(variance.detach() * count / (count - 1), norm.momentum)
    result = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        result = result * norm.weight.view(shape) + norm.bias.view(shape)
    return result.to(x.dtype)


def train_in_group(spec: AttackRun, keep: Keep, compute: Compute, progress: Progress) -> None:
    """Train with ``spec.training.nproc`` processes; what they found is the piece ``train`` of ``keep``.

    Raises:
        ValueError: in one line, as in one process.
        OSError: if the processes ended before they were done; the last checkpoint is kept.
    """
    if ":" in compute.device:
        raise ValueError(f"expected --device auto, cpu or cuda for several processes, got {compute.device}")
    assert keep.folder is not None
    asked = {
        "spec": spec.model_dump(mode="json"),
        "folder": str(keep.folder.resolve()),
        "run": keep.run,
        "device": compute.torch_device.type,
        "exact": compute.exact,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", str(RESTARTS)]
    command += ["--nproc-per-node", str(spec.training.nproc), "-m", "engine.group", json.dumps(asked)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = str(torch.get_num_threads())
    # Whoever ends the job's group ends them; each also looks whether this process lives.
    child = process.listen(command, {process.PARENT: process.named(), "PYTHONPATH": paths, "OMP_NUM_THREADS": threads})
    assert child.stdout is not None
    try:
        for line in child.stdout:
            said = _parsed(line)
            if "error" in said:
                raise ValueError(str(said["error"]))
            if "what" in said:
                progress(said.pop("what"), said.pop("share"), **said)
        if code := child.wait():
            raise ChildProcessError(f"the processes of the training ended with code {code} before they were done")
    finally:
        child.terminate()
        child.wait()


def _parsed(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _tell(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(asked: dict[str, Any]) -> None:
    """The work of one process of a group."""
    from engine.compute import Compute, generator
    from engine.suspects import AttackRun, Start, probe
    from engine.train import silent, train

    process.follow_parent()
    device, local = asked["device"], int(os.environ["LOCAL_RANK"])
    cards, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if device == "cuda":
        device = f"cuda:{local % cards}"
        torch.cuda.set_device(device)
    # NCCL wants a card for each process.
    backend = "nccl" if device != "cpu" and cards >= here else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    compute, spec = Compute(device, asked["exact"]), AttackRun.build(asked["spec"])
    group = _Several(compute.torch_device)

    def report(what: str, share: float, **figures: float | None) -> None:
        _tell({"what": what, "share": share, **figures})

    first = group.rank == 0
    try:
        keep = Keep(Path(asked["folder"]), asked["run"])
        start = Start.of(spec, compute, keep)
        measure = probe(start.data.test, start.attack, compute) if first else None
        order = generator(spec.seed, "order")
        train(
            start.model, start.images, spec.training, order, compute, report if first else silent, keep, measure, group
        )
    except ValueError as error:  # the same in every process, and again after a restart
        if first:
            _tell({"error": " ".join(str(error).split())})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
