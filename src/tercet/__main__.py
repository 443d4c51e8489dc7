"""`python -m tercet`: the command line, for torchrun's `-m`."""

from tercet.cli import main

main()
