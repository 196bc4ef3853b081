"""Let torchvision's PyPI wheel import beside a CPU-only build of torch.

The wheel registers fake kernels for two operators that only its CUDA library defines, and fails with
``operator torchvision::nms does not exist``. Declaring their schemas first makes models, data sets and
transforms work; nothing here calls the operators. Imported before torchvision, and harmless where the
operators exist.
"""

from __future__ import annotations

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Kept alive: the operators vanish with the library object.
_library: torch.library.Library | None = None

if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(_name + _SCHEMA)
