"""Several trained models as one: the mean of what they predict."""

from collections.abc import Iterable

import torch
from torch import Tensor

from halving.training.loop import mean_loss, sums
from halving.training.trainer import Trainer


@torch.inference_mode()
def test(trainers: Iterable[Trainer]) -> dict[str, float]:
    """Return the test metrics of a uniform ensemble, of mean probabilities or mean numbers; nothing of no models.

    Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017.
    """
    total: Tensor | None = None
    last: Trainer | None = None
    count = 0
    for last in trainers:
        count += 1
        predicted = last.predicted()
        total = predicted if total is None else total + predicted
    if total is None or last is None:
        return {}
    data = last.data
    outputs = (total / count).log() if data.classification else total / count
    targets = data.test.targets
    loss, error = (sums(mean_loss(outputs, targets), outputs, targets) / len(targets)).tolist()
    own = {name: float(metric(outputs, targets)) for name, metric in data.metrics.items()}
    return last.named({"loss": loss, "error": error, **own}, last.prefix)
