"""
Drives the model and the mounts side by side: the same operation on both, then the same outcome, the same tree on each
mount, and the same keys in Consul. A run that fails is cut down to a few operations that still fail.
"""

import base64
import json
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

from harness.wait import wait_until
from model.actor import from_json
from model.spec import EXCHANGE, NOREPLACE, Kv

ACTOR = Path(__file__).with_name("actor.py")
LONG = "x" * 255
FILLING = "~"  # the directory of what makes a store too large for one watch

# Collisions: a name that is another's beginning, that sorts between a key and what is below it, that looks like an
# escape, that must be escaped, that no key has.
NAMES = ["a", "a", "b", "b", "a!", "ab", "%value", "%empty", "%25x", "%2E", "50%off", "ключ", " two words ", LONG]
BAD_NAMES = ["a%2Fb", "%bogus", "a%2Eb", LONG + "y"]

# Keys that no URL names by themselves: of a large store all is read for each of them, so there it goes without.
UNNAMED = {"%empty", "%2E", "", "."}

VALUES = [b"", b"v", b"two\nlines\n", bytes(range(256)), b"z" * 512, b"z" * 4096]


class Disagreement(AssertionError):
    pass


def to_json(operation):
    text = json.dumps([pack(a) if isinstance(a, bytes) else a for a in operation], ensure_ascii=False)
    return text.replace(LONG, "LONG")


def pack(data):
    """Values are long and dull."""
    if len(data) > 32 and data == data[:1] * len(data):
        return {"hex": data[:1].hex(), "times": len(data)}
    return {"counting": len(data)} if data == bytes(range(256)) else {"hex": data.hex()}


class Actor:
    """Two processes: one in which each operation has a process of its own, and one that keeps the open files."""

    def __init__(self, root):
        self.root = str(root)
        self.processes = [
            subprocess.Popen(
                [sys.executable, ACTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for _ in range(2)
        ]

    def __call__(self, name, *arguments):
        process = self.processes[name == "open" or name.startswith("handle_")]
        # The mount's path would be a name to follow; everything below it is the operation's.
        process.stdin.write(to_json([name, self.root, *arguments]).replace("LONG", LONG) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def end(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


class World:
    """
    Mounts of one or more agents of one datacenter, empty in the beginning, and the model. A large store is too large to
    be watched as a whole: it has more, which neither the model nor the operations know.
    """

    def __init__(self, agents, make_mount, large=False):
        self.agents, self.make_mount, self.large = agents, make_mount, large
        agents[0].delete("/v1/kv/", recurse="")
        for number in range(3 if large else 0):
            agents[0].put(f"/v1/kv/{FILLING}/{number}", b"x" * 270_000)
        self.model = Kv()
        self.mounts = [make_mount(agent) for agent in agents]
        self.actors = [Actor(mnt / "kv") for mnt in self.mounts]

    def end(self):
        for actor in self.actors:
            actor.end()
        for mnt in self.mounts:
            mnt.end()

    # One step

    def step(self, operation, thorough=True):
        """Not thorough: what is not needed to know what the next one will find is left out."""
        mount, name, *arguments = operation
        before = self.model.tree()
        if name == "remount":
            self._remount(mount)
        elif name.startswith("external_"):
            getattr(self, f"_{name}")(*arguments)
            getattr(self.model, name)(*arguments)
        else:
            self._both(mount, name, arguments)
        own = not name.startswith("external_") and name != "remount"  # a new mount has done nothing itself
        looks = [lambda: self._compare_sizes(before, mount, own)]
        if thorough or len(self.mounts) > 1 or not own:
            looks.append(lambda: self._compare(mount, own))
        # What is listed first is listed by less than what has been looked at by its name; by the operation itself, so
        # that a failure can be cut down.
        for look in reversed(looks) if zlib.crc32(to_json(operation).encode()) & 1 else looks:
            look()

    def _both(self, mount, name, arguments):
        mount_matters = ("unlink", "remove_tree", "rename", "open", "set_flags")
        if name.startswith("handle_") and arguments[0] not in self.model.handles:
            return  # it was never opened, or was closed; so it is when a failure is being cut down
        if name == "open" and arguments[0] in self.model.handles:
            return
        actor = self.actors[self._mount_of(mount, name, arguments)]
        try:
            call = getattr(self.model, name)
            result = call(mount, *arguments) if name in mount_matters else call(*arguments)
            expected = {"ok": result.hex() if isinstance(result, bytes) else None}
        except OSError as error:
            expected = {"errno": error.errno}
        got = actor(name, *arguments)
        text = got.pop("text", "")
        if got != expected:
            raise Disagreement(f"{name}: the mount says {got} {text}, the model {expected}")

    def _mount_of(self, mount, name, arguments):
        """A descriptor is used on the mount that it was opened on."""
        if not name.startswith("handle_"):
            return mount
        return self.model.handles[arguments[0]].mount

    def _external_set(self, key, value, flags):
        operation = {"Verb": "set", "Key": key, "Value": base64.b64encode(value).decode(), "Flags": flags}
        self.agents[0].put("/v1/txn", [{"KV": operation}])

    def _external_delete(self, key):
        self.agents[0].put("/v1/txn", [{"KV": {"Verb": "delete", "Key": key}}])

    def _remount(self, mount):
        for slot, handle in list(self.model.handles.items()):
            if handle.mount == mount:
                try:
                    self.model.handle_close(slot)
                except OSError:
                    pass
        self.actors[mount].end()
        self.mounts[mount].end()
        self.mounts[mount] = self.make_mount(self.agents[mount])
        self.actors[mount] = Actor(self.mounts[mount] / "kv")

    # Afterwards

    def _compare_sizes(self, before, mount, own):
        """By the names that the kernel has, before a listing would bring it others: also of what is no longer there."""
        tree = self.model.tree()
        expected = {path: -1 for path in before}
        expected.update({path: None if what is None else len(what[0]) for path, what in tree.items()})
        for number in range(len(self.actors)):
            seen = self._sizes(number, expected)
            # A directory that became a file with its last key takes a moment: see _own_at_once().
            at_once = [path for path in tree if seen[path] is not None or before.get(path, 0) is not None]
            if number == mount and own and any(seen[path] != expected[path] for path in at_once):
                raise Disagreement(f"stat: not at once on its own mount: {describe_sizes(expected, seen)}")
            if seen == expected:
                continue
            try:
                wait_until(lambda n=number: self._sizes(n, expected) == expected, "", timeout=15)
            except AssertionError:
                wrong = describe_sizes(expected, self._sizes(number, expected))
                raise Disagreement(f"stat: mount {number} does not show what there is: {wrong}") from None

    def _sizes(self, number, paths):
        return self.actors[number]("sizes", list(paths))["ok"]

    def _compare(self, mount, own):
        expected = {
            path: None if what is None else [what[0].hex(), what[1]] for path, what in self.model.tree().items()
        }
        for number in [mount, *(n for n in range(len(self.actors)) if n != mount)]:
            seen = self._tree(number)
            if number == mount and own:
                self._own_at_once(expected, seen)
            if seen != expected:
                self._wait_equal(number, expected)
        self._compare_consul()

    def _tree(self, number):
        return self.actors[number]("tree", FILLING)

    def _own_at_once(self, expected, seen):
        """What this mount did it shows at once; only a directory that vanished with its last key takes a moment."""
        if "ok" not in seen:
            return  # a directory vanished under the walk
        seen.update(seen.pop("ok"))
        wrong = {path for path in expected.keys() | seen.keys() if expected.get(path, 0) != seen.get(path, 0)}
        wrong = {path for path in wrong if path in expected or seen[path] is not None}
        if wrong:
            raise Disagreement(f"not at once on its own mount: {describe(wrong, expected, seen)}")

    def _wait_equal(self, number, expected):
        last = None

        def same():
            nonlocal last
            last = self._tree(number)
            return last.get("ok") == expected

        try:
            wait_until(same, "", timeout=15)
        except AssertionError:
            seen = last.get("ok", {})
            wrong = {path for path in expected.keys() | seen.keys() if expected.get(path, 0) != seen.get(path, 0)}
            said = describe(wrong, expected, seen) if "ok" in last else last
            raise Disagreement(f"mount {number} does not show what there is: {said}") from None

    def _compare_consul(self):
        # A mount's write is in Consul when it says so; a server asked through another agent may be a moment behind.
        answer = self.agents[0].get("/v1/kv/", recurse="", consistent="")
        stored = {
            e["Key"]: (base64.b64decode(e["Value"] or ""), e["Flags"])
            for e in (answer.json() if answer.status_code == 200 else [])
            if not e["Key"].startswith(FILLING + "/")
        }
        expected = {key: (entry.value, entry.flags) for key, entry in self.model.keys.items()}
        if stored != expected:
            wrong = {key for key in stored.keys() | expected.keys() if stored.get(key) != expected.get(key)}
            raise Disagreement(f"Consul has other keys: {describe(wrong, expected, stored)}")


def describe(wrong, expected, seen):
    def short(what):
        if isinstance(what, (list, tuple)):
            value, flags = what
            return f"{len(value)}:{value[:10]!r}…{value[-10:]!r} flags {flags}"
        return repr(what)

    nothing = "nothing"
    return "; ".join(
        f"{ascii(at)}: {short(seen.get(at, nothing))} instead of {short(expected.get(at, nothing))}" for at in sorted(wrong)
    )


def describe_sizes(expected, seen):
    return "; ".join(f"{ascii(at)}: {seen[at]} instead of {expected[at]}" for at in sorted(seen) if seen[at] != expected[at])


# Choosing operations


class Chooser:
    def __init__(self, seed, mounts, large):
        self.random, self.mounts, self.slots = random.Random(seed), mounts, 0
        self.names = [name for name in NAMES if not (large and name in UNNAMED)]
        self.components = [part for part in ["a", "b", "", "a!", ".", "%x", "ключ"] if not (large and part in UNNAMED)]

    def path(self, model, there=0.5):
        pick = self.random
        paths = list(model.tree())
        if paths and pick.random() < there:
            return pick.choice(sorted(paths)).split("/")
        dirs = [path for path, what in sorted(model.tree().items()) if what is None and path.count("/") < 2]
        base = pick.choice(dirs).split("/") if dirs and pick.random() < 0.6 else []
        return base + [pick.choice(BAD_NAMES if pick.random() < 0.03 else self.names)]

    def key(self, model):
        pick = self.random
        if model.keys and pick.random() < 0.4:
            return pick.choice(sorted(model.keys))
        parts = [pick.choice(self.components) for _ in range(pick.choice([1, 2, 2, 3]))]
        return "/".join(parts) or "a"

    def value(self):
        return self.random.choice(VALUES)

    def __call__(self, model):
        pick = self.random
        mount = pick.randrange(self.mounts)
        path = self.path(model)
        kind = pick.choices(*zip(*WEIGHTS))[0]
        if len(model.keys) > 40:
            kind = "remove_tree"
        slots = sorted(model.handles)
        if kind.startswith("handle_"):
            if not slots:
                kind = "open"
            else:
                slot = pick.choice(slots)
                more = {"handle_write": [pick.randrange(600), self.value()], "handle_truncate": [pick.randrange(600)]}
                return [model.handles[slot].mount, kind, slot, *more.get(kind, [])]
        if kind == "open":
            files = [p for p, what in sorted(model.tree().items()) if what is not None]
            self.slots += 1
            if files and len(slots) < 4:
                return [mount, "open", self.slots, pick.choice(files).split("/"), pick.random() < 0.2]
            return [mount, "create", path]
        if kind == "rename":
            other = self.path(model, 0.3)
            flags = pick.choice([0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE])
            if flags == EXCHANGE:
                other = self.path(model, 0.9)
            return [mount, "rename", self.path(model, 0.9), other, flags]
        if kind == "external_set":
            return [mount, kind, self.key(model), self.value(), pick.choice([0, 0, 7, 2**64 - 1])]
        if kind == "external_delete":
            return [mount, kind, self.key(model)]
        more = {
            "write": [self.value()],
            "append": [self.value()],
            "pwrite": [pick.randrange(600), self.value() or b"x"],
            "truncate": [pick.randrange(600)],
            "allocate": [pick.randrange(600), 1 + pick.randrange(600)],
            "set_flags": [pick.choice([0, 1, 42, 2**63])],
        }
        return [mount, kind, *([] if kind == "remount" else [path]), *more.get(kind, [])]


WEIGHTS = [
    ("write", 14),
    ("create", 5),
    ("create_exclusive", 5),
    ("append", 5),
    ("pwrite", 4),
    ("truncate", 4),
    ("allocate", 2),
    ("set_flags", 3),
    ("read", 3),
    ("unlink", 8),
    ("mkdir", 10),
    ("rmdir", 7),
    ("remove_tree", 3),
    ("rename", 18),
    ("external_set", 8),
    ("external_delete", 5),
    ("open", 4),
    ("handle_read", 4),
    ("handle_write", 8),
    ("handle_truncate", 2),
    ("handle_store", 2),
    ("handle_close", 3),
    ("remount", 0.3),
]

# Running, and cutting down


def run(world, operations, thorough=True):
    """The number of operations that agreed, and the disagreement, if there is one."""
    for done, operation in enumerate(operations):
        try:
            world.step(operation, thorough or done == len(operations) - 1)
        except Disagreement as difference:
            return done, difference
    return len(operations), None


def run_random(world, seed, steps):
    chooser, operations = Chooser(seed, len(world.mounts), world.large), []
    for _ in range(steps):
        operations.append(chooser(world.model))
        try:
            world.step(operations[-1])
        except Disagreement as difference:
            return operations, difference
    return operations, None


def shrink(new_world, operations, difference, seconds=120):
    """Delta debugging: the fewest of the operations that still disagree so, as far as the time allows."""
    kind = str(difference).split(":")[0]
    until = time.monotonic() + seconds

    def fails(candidate):
        world = new_world()
        try:
            done, difference = run(world, candidate, thorough=False)
        finally:
            world.end()
        return candidate[: done + 1] if str(difference).split(":")[0] == kind else None

    size = max(1, len(operations) // 2)
    while time.monotonic() < until:
        at, smaller = 0, False
        while at < len(operations) and time.monotonic() < until:
            shorter = fails(operations[:at] + operations[at + size :])
            if shorter:
                operations, smaller = shorter, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return operations


def script(operations):
    """As text that CONSULFS_MODEL_REPLAY takes."""
    return "\n".join(to_json(operation) for operation in operations)


def parse(text):
    operations = []
    for line in text.splitlines():
        if line.strip():
            operations.append(from_json(line.replace("LONG", LONG)))
    return operations
