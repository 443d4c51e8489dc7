"""The `tercet` command, and `python -m tercet`: Ctrl-C while modules load is a sentence too."""

import os
import sys

TYPE_CHECKING = False  # typing takes a while to load
if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def main() -> None:
    """Runs the command line of this process."""
    try:
        sys.unraisablehook = _unraisable
        # Threads of a kernel that wait for a slow core spin on the others for about 0.1 s, also
        # where other processes need them. This short, encoding beside a busy process is 1.5 to 1.7
        # times as fast on 2 cores, and as fast as before on a quiet machine.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        from tercet.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("tercet: interrupted\n")
        sys.stderr.flush()
        os._exit(130)  # Python would end by the signal where it met code that is made by exec


def _unraisable(event: "UnraisableHookArgs") -> None:
    """Ctrl-C in a callback, where Python would print and pass over it, comes again at once."""
    if issubclass(event.exc_type, KeyboardInterrupt):
        import signal
        import threading

        main_thread = threading.main_thread().ident
        threading.Timer(0.01, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(event)


if __name__ == "__main__":
    main()
