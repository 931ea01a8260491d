"""How much a smaller net lost, before any training: on calibration images, against its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

VALUES = 2**25
"""Of the calibration images at most: 512 of 3 x 128 x 128, 222 of 3 x 224 x 224."""
BATCH = 64


class Judge:
    """Calibration images, and what the parent answers to them.

    They are mixed: sorted by class, as they come, a batch would hold two or three classes, and the variance of batch norms
    would be that within them.
    """

    def __init__(self, parent: nn.Module, data: Any, images: int = 512) -> None:
        import torch

        size = data.images["calibration"][0].numel()
        found = data.calibration(min(images, max(BATCH, VALUES // size)))
        self.images: torch.Tensor = found[
            torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
        ]
        self.reference = self._log_probabilities(parent)

    def damage(self, module: nn.Module) -> float:
        """Mean KL divergence, in nats, of ``module``'s answers from the parent's: 0 for the same net."""
        from torch.nn import functional

        answers = self._log_probabilities(module)
        return float(functional.kl_div(answers, self.reference, reduction="batchmean", log_target=True))

    def _log_probabilities(self, module: nn.Module) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            logits = [module.eval()(part).float() for part in self.images.split(BATCH)]
        return torch.cat(logits).log_softmax(dim=1)

    def recalibrate(self, module: nn.Module, images: int = 256) -> None:
        """Measure the batch-norm statistics of ``module`` anew (cumulative average), in place."""
        import torch
        from torch.nn.modules.batchnorm import _BatchNorm

        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        chosen = self.images[:: max(1, len(self.images) // images)]
        if not norms or len(chosen) < 2:
            return
        batches = chosen.chunk(
            -(-len(chosen) // BATCH)
        )  # of equal sizes: each batch counts the same in the average
        module.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()  # only these: dropout stays off
        with torch.no_grad():
            for part in batches:
                module(part)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()


def accuracy(module: nn.Module, data: Any, limit: int = 2000) -> float:
    """Share of right answers on at most ``limit`` validation images, spread over the split."""
    import torch

    count = len(data.images["validation"])
    rows = torch.linspace(0, count - 1, min(limit, count)).round().long()
    right = 0
    with torch.inference_mode():
        for part in torch.split(rows, 2 * BATCH):
            logits = module.eval()(data.normalise(data.images["validation"][part]))
            right += int((logits.argmax(1) == data.labels["validation"][part]).sum())
    return right / max(1, len(rows))
