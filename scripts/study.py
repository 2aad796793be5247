"""Work on the run directory of a study: `python scripts/study.py explain <run dir> --trial 7`, see `--help`."""

import sys

from halving.review.inspection import main

if __name__ == "__main__":
    main(sys.argv[1:])
