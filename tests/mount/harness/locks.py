"""What tests of locks share."""

from harness.programs import sh
from harness.stats import stat_of
from harness.wait import wait_equal

TTL = 10  # the shortest that Consul takes


def session_of(agent, key, **params):
    entry = agent.get(f"/v1/kv/{key}", **params).json()
    return entry[0].get("Session")


def sessions(agent, **params):
    return agent.get("/v1/session/list", **params).json()


def status(mnt, name):
    for line in (mnt / ".consulfs/status").read_text().splitlines():
        if line.split(" ", 1)[0] == name:
            return line.split(" ", 1)[1]
    return None


def wait_waiting(mnt, n):
    wait_equal(lambda: stat_of(mnt, "locks.waiting"), n)


def errors(mnt):
    return (mnt / ".consulfs/errors").read_text()


def is_free(mnt, key="job"):
    return sh(f"flock -n kv/{key} true", cwd=mnt.path, check=False).returncode == 0
