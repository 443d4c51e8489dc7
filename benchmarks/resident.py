"""How much memory this process has, and the most it had in a while: Linux."""

import threading
import time
from pathlib import Path


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak(threading.Thread):
    """The most resident memory while it runs, looked at 500 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0, False

    def run(self) -> None:
        while not self.done:
            self.most = max(self.most, resident())
            time.sleep(0.002)

    def stop(self) -> int:
        """Ends it; the most bytes that were seen."""
        self.done = True
        self.join()
        return self.most
