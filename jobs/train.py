"""Train a classifier: the entry for `ray job submit -- python jobs/train.py JOB.yaml …`."""

import sys

from clftask.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
