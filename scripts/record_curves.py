"""Write studies as a table of recorded curves, to simulate others on it.

python scripts/record_curves.py <run dirs or a multirun's directory> --out curves/mine.npz
python train.py experiment=simulated scheduler=asha executor.curves=curves/mine.npz executor.workers=4
"""

import argparse
import shlex
import sys

from halving import load
from halving.curves import save
from halving.curves.recording import record
from halving.environment import expanded
from halving.journal.run_directories import run_directories
from halving.tracking.terminal import one_line
from halving.tracking.wording import count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=expanded, nargs="+", help="run directories, or directories above them")
    parser.add_argument("--out", type=expanded, required=True, help="the table: NAME.npz, and NAME.csv beside it")
    parser.add_argument("--until", type=int, help="last level (default: the most resource that any trial reached)")
    with one_line(OSError):
        arguments = parser.parse_args()
        directories = run_directories(arguments.paths)
        histories = [load(directory).history for directory in directories]
        commands = {" ".join(h.header.provenance.overrides) for h in histories if h.header is not None}
        meta = {
            "name": arguments.out.stem,
            "recorded": shlex.join(["python", "scripts/record_curves.py", *sys.argv[1:]]),
            "studies": sorted(commands)[:10],
        }
        curves, left_out = record(histories, arguments.until, meta)
        save(curves, arguments.out)
        print(
            f"{count(len(curves), 'configurations')} x {count(len(curves.resource), 'levels')}: "
            f"{arguments.out.with_suffix('.npz')}"
        )
        for reason, trials in left_out.items():
            print(f"left out {count(trials, 'trials')}: {reason}")


if __name__ == "__main__":
    main()
