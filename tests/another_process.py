"""Another process that holds something, and is killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def held_by_another_process(make: Callable[[], AbstractContextManager]) -> Iterator[int]:
    """Inside, a process of its own is inside of what it made; it is killed at the end. Yields its number."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            with make():
                os.write(tell, b"!")
                time.sleep(60)
        finally:
            os._exit(0)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
