"""The `tercet` command, and `python -m tercet`: Ctrl-C while modules load is a sentence too."""

import sys


def main() -> None:
    """Runs the command line of this process."""
    try:
        from tercet.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("tercet: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
