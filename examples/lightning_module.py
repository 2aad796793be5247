# python examples/lightning_module.py
"""A LightningModule: one callback pauses its trainer after every epoch. It needs pip install 'halving[lightning]'."""

import logging

import halving
from halving.lightning import Pausing
from halving.schedulers import ASHA
import lightning.pytorch as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

R_MAX = 9
SPACE = {"width": [16, 32, 64], "lr": {"_target_": "scipy.stats.loguniform", "a": 1e-3, "b": 1.0}}
DIGITS = TensorDataset(*map(torch.tensor, load_digits(return_X_y=True)))
TRAINING, VALIDATION = torch.utils.data.Subset(DIGITS, range(1400)), torch.utils.data.Subset(DIGITS, range(1400, 1797))
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Classifier(L.LightningModule):
    def __init__(self, width, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0].float() / 16), batch[1])

    def validation_step(self, batch, _):
        self.log("accuracy", (self.net(batch[0].float() / 16).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, R_MAX)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def train(trial):
    pausing = Pausing(trial)
    trainer = L.Trainer(max_epochs=R_MAX, devices=1, callbacks=[pausing], **QUIET)  # r_max, never the rung
    loaders = DataLoader(TRAINING, 64, shuffle=True), DataLoader(VALIDATION, 397)
    trainer.fit(Classifier(**trial.configuration), *loaders, ckpt_path=pausing.checkpoint)


if __name__ == "__main__":
    where = {"run_dir": "outputs/lightning_module", "resume": True}
    study = halving.tune(train, SPACE, ASHA, metric="max:accuracy", eta=3, r_max=R_MAX, max_trials=9, **where)
    best = study.best
    model = Classifier.load_from_checkpoint(study.best_directory / "trainer.ckpt")
    print(f"trial {best.trial} is best: {best.configuration}, accuracy {study.curves[best.trial][-1]['accuracy']:.3f}")
