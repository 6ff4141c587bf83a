"""Programs that want a terminal and a person who types."""

import contextlib
import os
import pty
import select
import subprocess
import time


class Terminal:
    """`said` is everything that the program wrote."""

    def __init__(self, command, cwd, env):
        self._fd, theirs = pty.openpty()
        there = ["sh", "-c", 'cd "$0" && exec "$@"', os.fspath(cwd), *command]
        self.process = subprocess.Popen(there, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self.said = ""
        self._seen = 0

    def type(self, keys):
        os.write(self._fd, keys.encode())

    def wait_for(self, words, timeout=20):
        """Until the program says this, after what was waited for before."""
        deadline = time.monotonic() + timeout
        while (at := self.said.find(words, self._seen)) < 0:
            assert time.monotonic() < deadline and self._read(), f"no {words!r} in {self.said[self._seen:]!r}"
        self._seen = at + len(words)

    def end(self, timeout=20):
        """Waits for the program's own end; its exit status."""
        deadline = time.monotonic() + timeout
        while self._read():
            assert time.monotonic() < deadline, f"it goes on: {self.said[self._seen:]!r}"
        return self.process.wait(timeout)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def _read(self):
        """False when nobody has the terminal open any more."""
        if not select.select([self._fd], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        self.said += data.decode(errors="replace")
        return bool(data)


@contextlib.contextmanager
def at_terminal(*command, cwd, env):
    terminal = Terminal(command, cwd, env)
    try:
        yield terminal
    finally:
        terminal.close()
