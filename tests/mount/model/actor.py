"""
Does on a mount what the model does on its dictionary. Each operation runs in a process of its own, because a mount
treats who has emptied a directory in a special way; open files live in one process that stays.

It reads a JSON line for each operation from its standard input and answers with one: {"ok": …} or {"errno": …}.
"""

import ctypes
import json
import os
import shutil
import stat
import sys

FLAGS = "user.consul.flags"
libc = ctypes.CDLL(None, use_errno=True)


def joined(root, path):
    return os.path.join(root, *path)


def write_all(path, flags, data, offset=None):
    fd = os.open(path, flags, 0o644)
    try:
        if offset is not None:
            os.lseek(fd, offset, os.SEEK_SET)
        if data:
            assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def renameat2(path, new_path, flags):
    if libc.renameat2(-100, os.fsencode(path), -100, os.fsencode(new_path), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def allocate(path, offset, length):
    fd = os.open(path, os.O_WRONLY)
    try:
        if libc.fallocate(fd, 0, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(fd)


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        data = b""
        while part := os.read(fd, 1 << 20):
            data += part
        assert len(data) == size, f"{len(data)} bytes, but a size of {size}"
        return data.hex()
    finally:
        os.close(fd)


def tree(root, except_for):
    seen, todo = {}, [""]
    while todo:
        path = todo.pop()
        for entry in os.scandir(os.path.join(root, path)):
            if path + entry.name == except_for:
                continue
            full = os.path.join(root, path + entry.name)
            assert path + entry.name not in seen, f"{path + entry.name} is listed twice"
            if entry.is_dir():
                seen[path + entry.name] = None
                todo.append(path + entry.name + "/")
            else:
                try:
                    seen[path + entry.name] = [read(full), int(os.getxattr(full, FLAGS))]
                except OSError as error:
                    raise OSError(error.errno, error.strerror, path + entry.name) from None
    return seen


def size_of(path):
    """Of a file; None of a directory; -1 of what is not there."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    return None if stat.S_ISDIR(found.st_mode) else found.st_size


def remove_tree(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


CREATE = os.O_WRONLY | os.O_CREAT

ONCE = {
    "tree": tree,
    "sizes": lambda root, paths: {path: size_of(os.path.join(root, path)) for path in paths},
    "read": lambda root, path: read(joined(root, path)),
    "write": lambda root, path, data: write_all(joined(root, path), CREATE | os.O_TRUNC, data),
    "create": lambda root, path: write_all(joined(root, path), CREATE, b""),
    "create_exclusive": lambda root, path: write_all(joined(root, path), CREATE | os.O_EXCL, b""),
    "append": lambda root, path, data: write_all(joined(root, path), CREATE | os.O_APPEND, data),
    "pwrite": lambda root, path, offset, data: write_all(joined(root, path), os.O_WRONLY, data, offset),
    "truncate": lambda root, path, size: os.truncate(joined(root, path), size),
    "allocate": lambda root, path, offset, length: allocate(joined(root, path), offset, length),
    "set_flags": lambda root, path, flags: os.setxattr(joined(root, path), FLAGS, b"%d" % flags),
    "unlink": lambda root, path: os.unlink(joined(root, path)),
    "mkdir": lambda root, path: os.mkdir(joined(root, path)),
    "rmdir": lambda root, path: os.rmdir(joined(root, path)),
    "remove_tree": lambda root, path: remove_tree(joined(root, path)),
    "rename": lambda root, path, new, flags: renameat2(joined(root, path), joined(root, new), flags),
}

descriptors = {}


def open_slot(root, slot, path, append):
    descriptors[slot] = os.open(joined(root, path), os.O_RDWR | (os.O_APPEND if append else 0))


def write_slot(root, slot, offset, data):
    assert os.pwrite(descriptors[slot], data, offset) == len(data)


KEPT = {
    "open": open_slot,
    "handle_read": lambda root, slot: os.pread(descriptors[slot], 1 << 20, 0).hex(),
    "handle_write": write_slot,
    "handle_truncate": lambda root, slot, size: os.ftruncate(descriptors[slot], size),
    "handle_store": lambda root, slot: os.fsync(descriptors[slot]),
    "handle_close": lambda root, slot: os.close(descriptors.pop(slot)),
}


def unpack(packed):
    return bytes(range(packed["counting"])) if "counting" in packed else bytes.fromhex(packed["hex"]) * packed.get("times", 1)


def from_json(line):
    return [unpack(a) if isinstance(a, dict) else a for a in json.loads(line)]


def outcome(action, arguments):
    try:
        return {"ok": action(*arguments)}
    except OSError as error:
        return {"errno": error.errno, "text": str(error)}
    except AssertionError as error:
        return {"errno": -1, "text": str(error)}


def in_child(action, arguments):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(writing, "w") as out:
            json.dump(outcome(action, arguments), out)
            out.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def main():
    for line in sys.stdin:
        name, *arguments = from_json(line)
        answer = outcome(KEPT[name], arguments) if name in KEPT else in_child(ONCE[name], arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
