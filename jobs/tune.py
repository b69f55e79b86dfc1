"""Search hyperparameters: the entry for `ray job submit -- python jobs/tune.py JOB.yaml …`."""

import sys

from clftask.cli.main import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
