"""Another process: one that runs a function, or one that holds something until it is killed."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def held_by_another_process(make: Callable[[], AbstractContextManager]) -> Iterator[int]:
    """Inside, another process has entered the context manager that it made. Yields its ID, and kills it at the end."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            with make():
                os.write(tell, b"!")
                while True:
                    signal.pause()
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


def done_by_another_process(work: Callable[[], None]) -> None:
    """Runs a function in another process; returns when it has finished."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
