"""The `tercet` command, and `python -m tercet`: Ctrl-C while modules load is a sentence too."""

import os
import sys


def main() -> None:
    """Runs the command line of this process."""
    try:
        from tercet.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("tercet: interrupted\n")
        sys.stderr.flush()
        os._exit(130)  # Python would end by the signal where it met code that is made by exec


if __name__ == "__main__":
    main()
