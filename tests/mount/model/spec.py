"""
What kv/ is: a dictionary of keys, and what POSIX calls do to it. This is the specification that the mount is compared
with, so it is written to be read; how the mount does it is of no interest here.

A path is a list of file names. Each operation does what the system call of its name does, or raises OSError.
"""

import os
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY, ESTALE, EXDEV

NOREPLACE, EXCHANGE = 1, 2
OPERATIONS = 64  # in one transaction of an old server: three for a key that moves, one for one that changes

# Names


def encode(component):
    """The file name of a component of a key. LAYOUT, "Names" and "kv/"."""
    if component == "":
        return "%empty"
    if component in (".", ".."):
        return component.replace(".", "%2E")
    out = ""
    for at, char in enumerate(component):
        escapes = char == "%" and (at == 0 or component[at : at + 3] in ("%2F", "%25", "%2E"))
        out += "%25" if escapes else char
    return out


def decode(name):
    """The component of a file name; None where no component has this name."""
    if name == "%empty":
        return ""
    component = name.replace("%2F", "/").replace("%2E", ".").replace("%25", "%")
    # One to one: whatever has several spellings, only the one that would be listed exists.
    return component if "/" not in component and component and encode(component) == name else None


@dataclass
class Entry:
    value: bytes
    flags: int = 0
    version: int = 0  # different after each change


@dataclass
class Handle:
    """An open file: what a descriptor for reading and writing sees and does."""

    mount: int
    key: str
    entry: Entry  # as it was when it was opened, or last stored through this descriptor
    append: bool = False
    data: bytes = None  # what it has written, or None
    dirty: bool = False
    stored_by_write: bool = False
    rewrites: bool = False  # opened to append, but cut since: until that is stored it is like any other
    unlinked: bool = False
    refused: bool = False


@dataclass
class Kv:
    keys: dict = field(default_factory=dict)
    handles: dict = field(default_factory=dict)
    versions: int = 0

    # What there is

    def below(self, prefix):
        return [key for key in self.keys if key.startswith(prefix)]

    def is_dir(self, key):
        return bool(self.below(key + "/"))

    def key_of(self, prefix, name):
        """The key whose value a file of this name in the directory of this prefix would be; None: there is no such one."""
        if name == "%value":
            return prefix[:-1] if prefix else None
        component = decode(name)
        return None if component is None else prefix + component

    def look(self, prefix, name):
        """'dir', 'file' or None."""
        key = self.key_of(prefix, name)
        if key is None:
            return None
        if name == "%value":
            return "file" if key in self.keys else None
        if self.is_dir(key):
            return "dir"
        if key not in self.keys or (name == "%empty" and not self.keys[key].value):
            return None  # an empty folder marker is only the directory's
        return "file"

    def names(self, prefix):
        found = {"%value"} if prefix and prefix[:-1] in self.keys else set()
        for key in self.below(prefix):
            name = encode(key[len(prefix) :].split("/")[0])
            if len(os.fsencode(name)) <= 255 and self.look(prefix, name):
                found.add(name)
        return found

    def tree(self):
        """Everything that can be seen: {path: None for a directory, or (value, flags)}."""
        seen, todo = {}, [("", "")]
        while todo:
            path, prefix = todo.pop()
            for name in self.names(prefix):
                key = self.key_of(prefix, name)
                if self.look(prefix, name) == "dir":
                    seen[path + name] = None
                    todo.append((path + name + "/", key + "/"))
                else:
                    seen[path + name] = (self.keys[key].value, self.keys[key].flags)
        return seen

    # Finding the way

    def walk(self, path):
        """The prefix of the directory that the last name of the path is in, and that name."""
        prefix = ""
        for name in path[:-1]:
            check_length(name)
            kind = self.look(prefix, name)
            if kind != "dir":
                fail(ENOTDIR if kind else ENOENT)
            prefix = self.key_of(prefix, name) + "/"
        return prefix, path[-1]

    def place(self, path):
        prefix, name = self.walk(path)
        check_length(name)
        return self.key_of(prefix, name), self.look(prefix, name)

    def file(self, path):
        """The key of a file that is there."""
        key, kind = self.place(path)
        if kind is None:
            fail(ENOENT)
        if kind == "dir":
            fail(EISDIR)
        return key

    def new_key(self, path):
        """The key of a file that may be created there."""
        key, kind = self.place(path)
        if kind == "dir":
            fail(EISDIR)
        if not key:
            fail(EINVAL)
        return key

    # Changing keys

    def set(self, key, value, flags):
        old = self.keys.get(key)
        self.versions += 1
        # Consul gives an identical value no new index.
        same = old and old.value == value and old.flags == flags
        self.keys[key] = Entry(value, flags, old.version if same else self.versions)
        return self.keys[key]

    def put(self, key, value):
        """A new value; flags stay."""
        return self.set(key, value, self.keys[key].flags if key in self.keys else 0)

    # Files

    def read(self, path):
        return self.keys[self.file(path)].value

    def write(self, path, value):
        self.put(self.new_key(path), value)

    def create(self, path):
        key = self.new_key(path)
        if key not in self.keys:
            self.put(key, b"")

    def create_exclusive(self, path):
        _, kind = self.place(path)
        if kind:
            fail(EEXIST)
        self.put(self.new_key(path), b"")

    def append(self, path, data):
        key = self.new_key(path)
        self.put(key, (self.keys[key].value if key in self.keys else b"") + data)

    def pwrite(self, path, offset, data):
        key = self.file(path)
        self.put(key, patched(self.keys[key].value, offset, data))

    def truncate(self, path, size):
        key = self.file(path)
        self.put(key, self.keys[key].value[:size].ljust(size, b"\0"))

    def allocate(self, path, offset, length):
        key = self.file(path)
        self.put(key, self.keys[key].value.ljust(offset + length, b"\0"))

    def set_flags(self, mount, path, flags):
        """No conflict for who writes through this mount: the value is the same."""
        key, kind = self.place(path)
        if kind is None:
            fail(ENOENT)
        if kind == "dir":
            raise OSError(95, "EOPNOTSUPP")
        before = self.keys[key]
        stored = self.set(key, before.value, flags)
        for handle in self.handles.values():
            if handle.mount == mount and handle.key == key and not handle.unlinked and handle.entry.version == before.version:
                handle.entry = stored

    def unlink(self, mount, path):
        key = self.file(path)
        del self.keys[key]
        self._unlinked(mount, key)

    # Directories

    def mkdir(self, path):
        prefix, name = self.walk(path)
        check_length(name)
        key, kind = self.key_of(prefix, name), self.look(prefix, name)
        if kind:
            fail(EEXIST)
        if name == "%value" or key is None:
            fail(EINVAL)
        self.put(key + "/", b"")

    def rmdir(self, path):
        key, kind = self.place(path)
        if kind != "dir":
            fail(ENOTDIR if kind else ENOENT)
        if not self._is_empty(key):
            fail(ENOTEMPTY)
        del self.keys[key + "/"]

    def _is_empty(self, key):
        """Only a marker, which holds nothing."""
        return self.below(key + "/") == [key + "/"] and not self.keys[key + "/"].value and key not in self.keys

    def remove_tree(self, mount, path):
        key, kind = self.place(path)
        if kind is None:
            fail(ENOENT)
        for gone in self._all_of(key, kind):
            entry = self.keys.pop(gone)
            if entry.value or not gone.endswith("/"):  # an empty marker is no file
                self._unlinked(mount, gone)

    # Renaming

    def rename(self, mount, path, new_path, flags=0):
        """Most of these rules are the kernel's: what it finds does not reach the file system."""
        self.walk(path)
        new_prefix, new_name = self.walk(new_path)
        key, kind = self.place(path)
        if kind is None:
            fail(ENOENT)
        check_length(new_name)
        new_key, new_kind = self.key_of(new_prefix, new_name), self.look(new_prefix, new_name)
        if flags & NOREPLACE and new_kind:
            fail(EEXIST)
        if flags & EXCHANGE and not new_kind:
            fail(ENOENT)
        if new_path[: len(path)] == path and new_path != path:
            fail(EINVAL)
        if path[: len(new_path)] == new_path and new_path != path:
            fail(EINVAL if flags & EXCHANGE else ENOTEMPTY)
        if path == new_path:
            return
        if flags & EXCHANGE:
            if (kind == "dir" and new_name == "%value") or (new_kind == "dir" and path[-1] == "%value"):
                fail(EINVAL)
            self._exchange(mount, key, kind, new_key, new_kind)
            return
        if new_kind and kind != new_kind:
            fail(ENOTDIR if kind == "dir" else EISDIR)
        if kind == "file":
            self._rename_file(mount, key, new_key)
        else:
            self._rename_dir(mount, key, new_key, new_kind, new_name)

    def _rename_file(self, mount, key, new_key):
        if not new_key:
            fail(EINVAL)
        self._unlinked(mount, new_key)
        self._move({key: new_key}, mount)

    def _rename_dir(self, mount, key, new_key, new_kind, new_name):
        if new_name == "%value" or new_key is None:
            fail(EINVAL)
        if new_kind and not self._is_empty(new_key):
            fail(ENOTEMPTY)
        moves = {old: new_key + old[len(key) :] for old in self._all_of(key, "dir")}
        if 3 * len(moves) > OPERATIONS:
            fail(EXDEV)
        self._unlinked(mount, new_key)
        self._move(moves, mount, {key: new_key})

    def _exchange(self, mount, key, kind, other, other_kind):
        here, there = self._all_of(key, kind), self._all_of(other, other_kind)
        moves = {old: other + old[len(key) :] for old in here}
        moves.update({old: key + old[len(other) :] for old in there})
        here_below, there_below = {old[len(key) :] for old in here}, {old[len(other) :] for old in there}
        if 2 * len(here_below & there_below) + 3 * len(here_below ^ there_below) > OPERATIONS:
            fail(EXDEV)
        dirs = {key: other} if kind == "dir" else {}
        self._move(moves, mount, dirs | ({other: key} if other_kind == "dir" else {}))

    def _all_of(self, key, kind):
        """The keys that a name stands for: a directory's are those below it, and its own value."""
        return ([key] if key in self.keys else []) + (self.below(key + "/") if kind == "dir" else [])

    def _move(self, moves, mount, dirs={}):
        """All at once. Who has a file open goes along, with what it has of it; also if its key is gone by now."""
        if "" in moves.values():
            fail(EINVAL)  # no key is empty
        gone = [
            (handle, new + handle.key[len(old) :])
            for handle in self.handles.values()
            for old, new in dirs.items()
            if handle.mount == mount and handle.key not in self.keys and (handle.key + "/").startswith(old + "/")
        ]
        entries = {old: self.keys[old] for old in moves}
        for old in moves.keys() - moves.values():
            del self.keys[old]
        for old, new in moves.items():
            entry = entries[old]
            follow = [h for h in self.handles.values() if h.mount == mount and h.key == old and not h.unlinked]
            current = [handle for handle in follow if handle.entry.value == entry.value]
            stored = self.set(new, entry.value, entry.flags)
            moves[old] = (new, stored, follow, current)
        for new, stored, follow, current in moves.values():
            for handle in follow:
                handle.key = new
            for handle in current:
                handle.entry = stored
        for handle, new in gone:
            handle.key = new

    # Open files. What is written is stored whole: by the write that looks like all of it, by fsync() and by close().

    def _unlinked(self, mount, key):
        for handle in self.handles.values():
            if handle.mount == mount and handle.key == key:
                handle.unlinked = True

    def open(self, mount, slot, path, append):
        key = self.file(path)
        self.handles[slot] = Handle(mount, key, self.keys[key], append)

    def handle_read(self, slot):
        handle = self.handles[slot]
        return handle.entry.value if handle.data is None else handle.data

    def handle_write(self, slot, offset, data):
        handle = self.handles[slot]
        if not data:
            return
        if handle.refused:
            fail(ESTALE)
        if handle.append and handle.unlinked:
            handle.data = self.handle_read(slot) + data
            return
        if handle.append and not handle.rewrites:
            handle.data = data
            handle.dirty = handle.stored_by_write = True
            self.handle_store(slot)
            return
        before = self.handle_read(slot)
        handle.data = patched(before, len(before) if handle.append else offset, data)
        handle.dirty = True
        if len(data) % 512 and not handle.stored_by_write:
            handle.stored_by_write = True
            self.handle_store(slot)

    def handle_truncate(self, slot, size):
        handle = self.handles[slot]
        handle.data = self.handle_read(slot)[:size].ljust(size, b"\0")
        handle.dirty = handle.rewrites = True
        handle.refused = False

    def handle_store(self, slot):
        handle = self.handles[slot]
        if not handle.dirty or handle.unlinked:
            return
        handle.dirty = False
        before = self.keys.get(handle.key)
        if not handle.key:  # it was moved to where no key can be
            handle.refused = True
            fail(ESTALE)
        elif handle.append and not handle.rewrites:  # nobody's bytes are lost, so there is no conflict
            stored = self.put(handle.key, (before.value if before else b"") + handle.data)
        elif before is None or before.version != handle.entry.version:
            handle.refused = True  # somebody was faster; nothing is stored
            fail(ESTALE)
        else:
            stored = self.put(handle.key, handle.data)
        handle.entry, handle.rewrites = stored, False
        if handle.append:
            handle.data = None
        # One process sees through each of its descriptors what it stored through another.
        for other in self.handles.values():
            sees = other.key == handle.key and other.mount == handle.mount and not other.unlinked
            fresh = before and other.entry.version == before.version
            if sees and fresh and other is not handle and not other.dirty and not other.refused:
                other.entry, other.data = stored, None

    def handle_close(self, slot):
        try:
            self.handle_store(slot)
        finally:
            del self.handles[slot]

    # Others, through Consul's API

    def external_set(self, key, value, flags):
        self.set(key, value, flags)

    def external_delete(self, key):
        self.keys.pop(key, None)


def patched(value, offset, data):
    return value[:offset].ljust(offset, b"\0") + data + value[offset + len(data) :]


def check_length(name):
    if len(os.fsencode(name)) > 255:
        fail(ENAMETOOLONG)


def fail(code):
    raise OSError(code, os.strerror(code))
