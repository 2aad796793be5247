"""Several trained models as one: the mean of what they predict."""

from collections.abc import Iterable

import torch
from torch import Tensor

from halving.data.base import Data
from halving.training.loop import mean_loss, sums
from halving.training.trainer import Trainer


@torch.inference_mode()
def test(trainers: Iterable[Trainer]) -> dict[str, float]:
    """Return the test metrics of a uniform ensemble, of mean probabilities or mean numbers; nothing of no models.

    Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017.
    """
    total: Tensor | None = None
    data: Data | None = None
    count = 0
    for trainer in trainers:
        count += 1
        predicted, data = trainer.predicted(), trainer.data
        total = predicted if total is None else total + predicted
    if total is None or data is None:
        return {}
    outputs = (total / count).log() if data.classification else total / count
    targets = data.test.targets
    loss, error = (sums(mean_loss(outputs, targets), outputs, targets) / len(targets)).tolist()
    measured = {
        "loss": loss,
        "error": error,
        **{name: float(own(outputs, targets)) for name, own in data.metrics.items()},
    }
    return {f"test_{name}": value for name, value in measured.items()}
