"""Train one trial, or run a study: see `python train.py --help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from halving.config.polite import command_line, job


@command_line(conf=Path(__file__).resolve().parent / "conf")
@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@job
def main(cfg: DictConfig) -> None:
    from halving.app import run

    run(cfg)


if __name__ == "__main__":
    main()
