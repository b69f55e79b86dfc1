"""`python -m clftask` is the command `clftask`."""

from clftask.cli.main import main

main()
