"""Entry point of `python -m clftask`."""

from clftask.cli.main import main

main()
