"""An app without torch, whose error is a curve of its epochs, and which can be made to die or misbehave."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> Any:
    directory = Path(HydraConfig.get().runtime.output_dir)
    state, epoch = directory / "checkpoints" / "last.txt", 0
    state.parent.mkdir(exist_ok=True)
    if cfg.ckpt_path is not None:
        epoch = int((directory / "checkpoints" / f"{cfg.ckpt_path}.txt").read_text())
        if epoch >= cfg.trainer.max_epochs:  # as Lightning's trainer refuses it
            raise ValueError(f"the checkpoint has {epoch} of {cfg.trainer.max_epochs} epochs already")
    while epoch < cfg.trainer.max_epochs:
        epoch += 1
        log.info("epoch %d", epoch)
        if directory.name == os.environ.get("ENDS") and not (ended := directory / "ended").exists():
            ended.touch()
            os.kill(os.getpid(), int(os.environ.get("BY", signal.SIGKILL)))
        state.write_text(str(epoch))
    error = abs(cfg.model.lr - 0.03) + cfg.model.width / 1000 + 1 / epoch
    match cfg.returns:
        case "number":
            return error
        case "dict":
            return {"error": error, "accuracy": 1 - error, "name": "curve"}
        case "exit":
            raise SystemExit(2)
        case "raise" if cfg.model.lr > 0.1:
            raise ValueError("the rate is too high\nby far")
        case "raise":
            return error
        case _:
            return None


if __name__ == "__main__":
    main()
