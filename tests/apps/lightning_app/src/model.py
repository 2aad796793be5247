from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn


class Classifier(L.LightningModule):
    def __init__(
        self, optimizer: Callable[..., Any], scheduler: Callable[..., Any], width: int, dropout: float
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 2))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.log("val/loss", nn.functional.cross_entropy(logits, y))
        self.log("val/acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.hparams["optimizer"](params=self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.hparams["scheduler"](optimizer=optimizer)}
