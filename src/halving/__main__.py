"""What train.py and scripts/study.py do, from any directory: `halving scheduler=sha`, `halving study --help`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from halving.config.polite import command_line, job

CONF = Path(__file__).with_name("conf").resolve()


@command_line(conf=CONF)
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
@job
def train(cfg: DictConfig) -> None:
    from halving.app import run

    run(cfg)


def main() -> None:
    if sys.argv[1:2] == ["study"]:
        from halving.review.inspection import main as study

        study(sys.argv[2:], "halving study")
    else:
        train()


if __name__ == "__main__":
    main()
