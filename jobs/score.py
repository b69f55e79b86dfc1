"""Score a corpus: the entry for `ray job submit -- python jobs/score.py JOB.yaml …`."""

import sys

from clftask.cli.main import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
