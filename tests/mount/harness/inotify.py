"""inotify(7) by its system calls, so that a test sees each event as the kernel gave it."""

import ctypes
import os
import select
import struct
import time

MODIFY, ATTRIB, CLOSE_WRITE, OPEN = 0x2, 0x4, 0x8, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, IGNORED, ISDIR = 0x400, 0x800, 0x8000, 0x40000000

NAMES = {
    MODIFY: "MODIFY",
    ATTRIB: "ATTRIB",
    CLOSE_WRITE: "CLOSE_WRITE",
    OPEN: "OPEN",
    MOVED_FROM: "MOVED_FROM",
    MOVED_TO: "MOVED_TO",
    CREATE: "CREATE",
    DELETE: "DELETE",
    DELETE_SELF: "DELETE_SELF",
    MOVE_SELF: "MOVE_SELF",
    IGNORED: "IGNORED",
    ISDIR: "ISDIR",
}

# What a program that reloads wants to know; not what reading does.
CHANGES = MODIFY | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ATTRIB

libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """
    Watches of which each event is a text, "LABEL/NAME: CREATE" or, of what is watched itself, "LABEL: DELETE_SELF".
    The label is the path's last component unless another is given.
    """

    def __init__(self):
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.labels = {}
        self.seen = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def watch(self, path, mask=CHANGES, label=None):
        wd = libc.inotify_add_watch(self.fd, os.fsencode(path), mask)
        if wd < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", os.fspath(path))
        self.labels[wd] = label or os.path.basename(path)
        return self

    def _read(self, timeout):
        if not select.select([self.fd], [], [], timeout)[0]:
            return
        data = os.read(self.fd, 65536)
        while data:
            wd, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            data = data[16 + length :]
            words = "|".join(text for bit, text in NAMES.items() if mask & bit)
            self.seen.append(f"{self.labels[wd]}{'/' if name else ''}{name}: {words}")

    def until(self, last, timeout=20):
        """All events up to and with the first that is `last`; those after it stay for the next call."""
        deadline = time.monotonic() + timeout
        while last not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"waited {timeout} s for {last!r}; there were {self.seen}"
            self._read(left)
        n = self.seen.index(last) + 1
        events, self.seen = self.seen[:n], self.seen[n:]
        return events
