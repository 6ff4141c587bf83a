"""Waiting for events: tests never sleep for a time in the hope that something has happened by then."""

import time


def wait_until(predicate, what, timeout=20.0):
    """Returns the predicate's first true value. Fails, naming `what`, if there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        value = predicate()
        if value:
            return value
        if late:
            raise AssertionError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(0.002)


def wait_equal(get, expected, timeout=20.0):
    """Waits until get() gives what is expected; an OSError on the way counts as another value."""
    last = None

    def same():
        nonlocal last
        try:
            last = get()
        except OSError as error:
            last = error
        return last == expected

    try:
        wait_until(same, "", timeout)
    except AssertionError:
        raise AssertionError(f"waited {timeout:g} s for {expected!r}; in the end there was {last!r}") from None
