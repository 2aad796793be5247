# python examples/autoencoder.py
"""A training loop of one's own, an autoencoder. After Ctrl-C the same command goes on where it was interrupted."""

import itertools

import halving
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

R_MAX = 9
SPACE = {
    "hidden": [4, 8, 16],
    "lr": {"_target_": "scipy.stats.loguniform", "a": 1e-4, "b": 1e-1},
    "noise": {"_target_": "scipy.stats.uniform", "loc": 0.0, "scale": 0.5},
}
IMAGES = torch.tensor(load_digits().data / 16, dtype=torch.float32)
TRAINING, VALIDATION = IMAGES[:1400], IMAGES[1400:]


def build(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 64), nn.Sigmoid())


def train(trial):
    configuration = trial.configuration
    model = build(configuration["hidden"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=configuration["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, R_MAX)  # spans r_max, never the rung
    loader = DataLoader(TRAINING, batch_size=64, shuffle=True)
    done = trial.keep(model=model, optimizer=optimizer, schedule=schedule)  # when all is built
    for _ in itertools.count(done + 1):  # closed at the rung
        for batch in loader:
            noisy = batch + configuration["noise"] * torch.randn_like(batch)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(noisy), batch).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            mse = nn.functional.mse_loss(model(VALIDATION), VALIDATION)
        yield {"mse": mse}


if __name__ == "__main__":
    where = {"run_dir": "outputs/autoencoder", "resume": True}
    study = halving.tune(train, SPACE, halving.SuccessiveHalving, metric="mse", eta=3, r_max=R_MAX, **where)
    best = study.best
    model = build(best.configuration["hidden"])
    model.load_state_dict(study.best_state()["model"])
    print(f"trial {best.trial} is best: {best.configuration}, mse {study.curves[best.trial][-1]['mse']:.4f}")
