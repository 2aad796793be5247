"""Fits a small network to a sine: a plain loop with a checkpoint of its own, as people write it."""

import logging
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    torch.manual_seed(cfg.seed)
    checkpoint = Path(HydraConfig.get().runtime.output_dir, "checkpoint.pt")
    x = torch.linspace(-3, 3, 64).unsqueeze(1)
    y = torch.sin(x)
    model = nn.Sequential(
        nn.Linear(1, cfg.model.width), instantiate(cfg.model.activation), nn.Linear(cfg.model.width, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.optimizer.lr, momentum=cfg.optimizer.momentum)
    done = 0
    if cfg.resume:
        state = torch.load(cfg.resume)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        done = state["epoch"]
    for epoch in range(done + 1, cfg.epochs + 1):
        for batch in torch.randperm(len(x)).split(cfg.batch_size):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = nn.functional.mse_loss(model(x), y).item()
        log.info("epoch %d: loss %r", epoch, loss)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": cfg.epochs}
    torch.save({**state, "random": torch.get_rng_state()}, checkpoint)
    return loss


if __name__ == "__main__":
    main()
