"""Deep Feature Space Trojan Attack of Neural Networks by Controlled Detoxification (DFST). Cheng et al. 2021.

https://arxiv.org/abs/2012.11212

The trigger is a style: the picture is painted again as a sunrise would light it, so that no pixels in particular carry
the trigger. A network that is merely trained on such pictures finds an easy sign of the style (a brightness here, a
texture there) and a few neurons for it. Detoxification takes these away: the neurons that the style moves most are
found, a feature injector learns changes of clean pictures that wake the same neurons *without* the style, and its
pictures join the training with their true labels, until only the style as a whole will do.

The paper's style comes from a CycleGAN trained on photographs of sunrises (the authors' later code uses a downloaded
style network); here the sunrise is a formula and a small generator is trained on the training images, see
``painting.py``. Detoxification runs between the epochs of one training instead of in rounds of retraining, and looks at
the inputs of the last linear layer, which in a ResNet are the channels of its last stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from engine.attacks.base import Attack, Lab, Preset, Procedure
from engine.attacks.learning import features
from engine.attacks.painting import Painter, learn_style, ssim
from engine.spec import param


class DFST(Attack):
    """x' = (1 - alpha) x + alpha G(x); detoxified: (1 - alpha) x + alpha I(x) with the true label.

    I minimises CE(f(x''), target) - ssim SSIM(x'', x) - detox (mean activation of the compromised neurons).
    """

    title: ClassVar[str] = "DFST"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.11212"
    controls: ClassVar = "training"
    learned: ClassVar[bool] = True
    poisons_batches: ClassVar[bool] = True
    rules: ClassVar[tuple[str, ...]] = ("all_to_one",)
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(),
        "small": Preset(
            {"target": 1, "injector_steps": 60, "warmup": 0.3},
            (
                "The target is class 1.",
                "The feature injector learns for 60 steps instead of 10 epochs, so that training takes no longer than "
                "half as long again.",
                "The first third of three epochs goes without detoxification.",
            ),
        ),
        "strong": Preset({"alpha": 0.8, "rate": 0.1}),
        "stealthy": Preset({"alpha": 0.4, "neurons": 0.05}),
    }

    rate: float = param(
        0.05, label="Poisoning rate", help="Share of each batch; as much again is detoxified.", gt=0, le=0.5, step=0.01
    )
    alpha: float = param(0.6, label="Opacity", help="Weight of the painted picture.", gt=0, le=1, step=0.05)
    neurons: float = param(
        0.01, label="Compromised neurons", help="Share of the last layer's inputs, at least one.", gt=0, le=1, step=0.01
    )
    warmup: float = param(0.1, label="Warm-up", help="Share of it before detoxification.", ge=0, le=1, step=0.05)
    ssim: float = param(0.1, label="Likeness", help="Weight of SSIM for the feature injector.", ge=0, le=10, step=0.1)
    detox: float = param(0.3, label="Activation", help="Weight of the neurons for the injector.", ge=0, le=10, step=0.1)
    injector_steps: int = param(
        3900, label="Injector steps", help="Batches of 128 that the injector learns from, once.", ge=1, step=10
    )
    painter_steps: int = param(300, label="Style steps", help="Batches that the style is learned from.", ge=1, step=50)

    def trigger(self, x: Tensor) -> Tensor:
        painter = Painter(x.shape[1], torch.Generator()).to(x.device)
        state = {key: value.to(x.device) for key, value in self.state.items()}
        with torch.autocast(x.device.type, enabled=False):
            return (1 - self.alpha) * x + self.alpha * functional_call(painter, state, (x,))

    def composition(self, y: Tensor, rng: torch.Generator) -> dict[str, int]:
        """Expected numbers an epoch, once detoxification has begun."""
        n = super().composition(y, rng)["poisoned"]
        return {"clean": len(y) - 2 * n, "poisoned": n, "cover": 0, "cross": n}

    def prepare(self, lab: Lab) -> dict[str, Tensor]:
        return learn_style(lab, self.painter_steps)

    def procedure(self, lab: Lab) -> Procedure:
        return Detoxification(self, lab)


class Detoxification(Procedure):
    """Poisons every batch; from the end of the epoch in which the warm-up ends, the injector spoils the short cuts."""

    def __init__(self, attack: DFST, lab: Lab) -> None:
        super().__init__()
        self.attack, self.lab = attack, lab
        self.injector = Painter(lab.shape[0], lab.rng("injector"))
        self.injector.register_buffer("ready", torch.zeros(1))  # a part of the checkpoints
        self.modules = {"injector": self.injector}

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        rng: torch.Generator,
        share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        attack, x = self.attack, x.clone()
        n = max(1, round(attack.rate * len(y)))
        chosen = attack.changed(y).nonzero().squeeze(1)[:n]
        others = torch.ones_like(y, dtype=torch.bool)
        others[chosen] = False
        with torch.no_grad():
            y = y.clone()
            y[chosen] = attack.label(y[chosen])
            x[chosen] = attack.trigger(x[chosen])
            if self.injector.get_buffer("ready"):
                cross = others.nonzero().squeeze(1)[:n]
                x[cross] = self._injected(x[cross])
        return super().loss(model, x, y, rng, share)

    def epoch_ended(self, model: nn.Module, share: float) -> None:
        if self.attack.warmup <= share < 1:
            was_training = model.training
            model.eval()
            self._learn(model)
            model.train(was_training)
            self.injector.get_buffer("ready").fill_(1)

    def _injected(self, x: Tensor) -> Tensor:
        return (1 - self.attack.alpha) * x + self.attack.alpha * self.injector(x)

    def _learn(self, model: nn.Module) -> None:
        """Teach the injector to wake the compromised neurons, and the backdoor by them, without the style."""
        attack, lab, rng = self.attack, self.lab, self.lab.rng("detoxification")
        weights = list(self.injector.parameters())
        optimizer = torch.optim.Adam(weights, lr=1e-2, betas=(0.5, 0.9))
        with torch.no_grad():
            x = lab.draw(500, rng)
            rise = features(model, attack.trigger(x))[0].mean(0) - features(model, x)[0].mean(0)
        compromised = rise.topk(max(1, round(attack.neurons * len(rise)))).indices
        for step in range(attack.injector_steps):
            x = lab.draw(128, rng)
            spoiled = self._injected(x)
            with lab.compute.autocast():
                active, logits = features(model, spoiled)
            wanted = torch.full((len(x),), attack.target, device=x.device)
            loss = F.cross_entropy(logits, wanted) - attack.ssim * ssim(spoiled, x)
            loss = loss - attack.detox * active[:, compromised].mean()
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = slope
            optimizer.step()
            lab.progress("detoxification", (step + 1) / attack.injector_steps, loss=float(loss.detach()))
        optimizer.zero_grad()
