"""What Consul's ACLs deny: errors that say so, nothing that looks absent where it can be told apart, no secret anywhere."""

import errno
import os
import re
import stat
import uuid
from errno import EACCES, ENOENT

import pytest

from harness.agent import ANONYMOUS
from harness.programs import fails_with, sh
from harness.proxy import Answer

RESOURCES = ("agent", "event", "key", "node", "query", "service", "session")
READ_ALL = "\n".join(f'{name}_prefix "" {{ policy = "read" }}' for name in RESOURCES) + '\noperator = "read"'
READ_APP = 'key_prefix "app/" { policy = "read" }'
WRITE_APP = 'key_prefix "app/" { policy = "write" }'

TOKENS = ("reads all", "reads app/", "none", "bad")

NO_CHECKS = b"STATUS  NODE  SERVICE  CHECK  NAME\n"

# What each directory or file answers to each of TOKENS: the names in it or its bytes (... for whatever they are) or an
# error. A list that Consul filters silently is empty; what it does not name there is absent.
TABLE = {
    "kv": (["app", "secret", "top"], ["app"], [], EACCES),
    "kv/app": (["a"], ["a"], EACCES, EACCES),
    "kv/app/a": (b"in app", b"in app", EACCES, EACCES),
    "kv/app/absent": (ENOENT, ENOENT, EACCES, EACCES),
    "kv/secret": (["b"], EACCES, EACCES, EACCES),
    "kv/secret/b": (b"in secret", EACCES, EACCES, EACCES),
    "kv/top": (b"at the top", EACCES, EACCES, EACCES),
    "kv/absent": (ENOENT, EACCES, EACCES, EACCES),
    "services": (["consul", "web"], [], [], EACCES),
    "services/web": (..., ENOENT, ENOENT, EACCES),
    "services/web/passing": (..., ENOENT, ENOENT, EACCES),
    "services/web.json": (..., ENOENT, ENOENT, EACCES),
    "nodes": (["n1"], [], [], EACCES),
    "nodes/n1": (..., ENOENT, ENOENT, EACCES),
    "nodes/n1/services": (["consul.json", "web.json"], ENOENT, ENOENT, EACCES),
    "checks/any": (["serfHealth.json", "ttl:web.json"], [], [], EACCES),
    "checks/passing": (["serfHealth.json", "ttl:web.json"], [], [], EACCES),
    "checks/summary": (..., NO_CHECKS, NO_CHECKS, EACCES),
    "status/leader": (..., ..., ..., ...),
    "status/peers": (..., ..., ..., ...),
    "sessions": (..., ..., ..., EACCES),
    "agent/self.json": (..., EACCES, EACCES, EACCES),
    "agent/members.json": (..., b"[]\n", b"[]\n", EACCES),
    "agent/services": (["web.json", "web.maintenance"], [], [], EACCES),
    "agent/checks": (["ttl:web.json", "ttl:web.status"], [], [], EACCES),
    "events": ([], [], [], EACCES),
    "queries": ([], [], [], EACCES),
    "config/service-defaults": ([], [], [], EACCES),
    "connect/intentions": ([], [], [], EACCES),
    "acl": (..., ..., ..., ...),
    "acl/tokens": (EACCES, EACCES, EACCES, EACCES),
    "acl/policies": (EACCES, EACCES, EACCES, EACCES),
    "acl/roles": (EACCES, EACCES, EACCES, EACCES),
    "acl/self.json": (..., ..., EACCES, EACCES),
    "datacenters": (["dc1"], ["dc1"], ["dc1"], ["dc1"]),
    "operator/raft": (["configuration.json", "peers"], EACCES, EACCES, EACCES),
    "operator/raft/configuration.json": (..., EACCES, EACCES, EACCES),
}


@pytest.fixture
def agent(acl_agent):
    acl_agent.kv_set("app/a", b"in app")
    acl_agent.kv_set("secret/b", b"in secret")
    acl_agent.kv_set("top", b"at the top")
    acl_agent.register("web", Port=80)
    return acl_agent


@pytest.fixture
def mount_with(agent, mount):
    """Mounts with a token of these rules (None: without a token), or with this token."""

    def make(rules=None, token=None, server=agent, **more):
        if rules is not None:
            token = agent.new_token(rules)
        env = {"CONSUL_HTTP_TOKEN": token} if token else {}
        return mount(server, env=env, **more)

    return make


@pytest.fixture
def mounts(mount_with):
    """One for each of TOKENS."""
    return [mount_with(READ_ALL), mount_with(READ_APP), mount_with(), mount_with(token=str(uuid.uuid4()))]


def look(path):
    """The names in a directory, the bytes of a file, or the errno."""
    try:
        return sorted(os.listdir(path)) if stat.S_ISDIR(os.stat(path).st_mode) else path.read_bytes()
    except OSError as error:
        return error.errno


def same(expected, found):
    return not isinstance(found, int) and len(found) > 0 if expected is ... else found == expected


def shown(value):
    return errno.errorcode[value] if isinstance(value, int) else value


@pytest.mark.parametrize("number", range(len(TOKENS)), ids=TOKENS)
def test_each_directory_for_each_token(mounts, number):
    mnt = mounts[number]
    found = {path: (look(mnt / path), row[number]) for path, row in TABLE.items()}
    wrong = {path: (shown(got), shown(want)) for path, (got, want) in found.items() if not same(want, got)}
    assert not wrong, "found and expected"
    assert "filtered_by_acl unknown" in status(mnt)


def status(mnt):
    return (mnt / ".consulfs/status").read_text()


# Keys


def test_a_hidden_key_cannot_be_created_over(agent, mount_with):
    mnt = mount_with(WRITE_APP)
    for attempt in (
        lambda: (mnt / "kv/secret/b").write_bytes(b"x"),
        lambda: (mnt / "kv/top").write_bytes(b"x"),
        lambda: open(mnt / "kv/top", "x"),
        lambda: open(mnt / "kv/top", "a").close(),
        lambda: os.mkdir(mnt / "kv/secret"),
        lambda: os.unlink(mnt / "kv/top"),
        lambda: os.rename(mnt / "kv/app/a", mnt / "kv/top"),
    ):
        with fails_with(EACCES):
            attempt()
    assert agent.kv_get("top") == b"at the top" and agent.kv_get("app/a") == b"in app"


def test_below_its_prefix_a_token_does_what_it_may(agent, mount_with):
    """The key `app` is denied, what begins with `app/` is not."""
    mnt = mount_with(WRITE_APP)
    agent.delete("/v1/kv/app", recurse="")
    sh("mkdir -p kv/app/deep && echo value > kv/app/deep/new && mv kv/app/deep/new kv/app/moved", cwd=mnt.path)
    assert agent.kv_get("app/moved") == b"value\n"
    sh("rm -r kv/app", cwd=mnt.path)
    assert [key for key in agent.kv_keys() if key.startswith("app")] == []


def test_reading_does_not_allow_writing(agent, mount_with):
    mnt = mount_with(READ_ALL)
    for attempt in (
        lambda: (mnt / "kv/app/a").write_bytes(b"x"),
        lambda: (mnt / "kv/new").write_bytes(b"x"),
        lambda: os.unlink(mnt / "kv/app/a"),
        lambda: os.mkdir(mnt / "kv/d"),
        lambda: os.rename(mnt / "kv/app/a", mnt / "kv/app/c"),
        lambda: (mnt / "services/new.json").write_text("{}"),
        lambda: os.unlink(mnt / "services/web/web.json"),
    ):
        with fails_with(EACCES):
            attempt()
    assert "Permission denied" in (mnt / ".consulfs/errors").read_text()
    assert agent.kv_keys() == ["app/a", "secret/b", "top"] and agent.instances("web") == ["web"]


def test_a_key_that_is_allowed_later_appears(agent, mount_with):
    mnt = mount_with()
    assert look(mnt / "kv/app/a") == EACCES
    policy = agent.new_policy(READ_ALL)
    agent.put(f"/v1/acl/token/{ANONYMOUS}", {"Policies": [{"Name": policy}]})
    sh("until cat kv/app/a; do echo 1 > .consulfs/drop-caches; done", cwd=mnt.path, timeout=60)
    assert look(mnt / "kv/absent") == ENOENT


# What the mount says of it


def test_without_acls_nothing_is_asked_twice(mount, new_agent, proxy_for):
    agent = new_agent()
    proxy = proxy_for(agent)
    mnt = mount(proxy)
    assert "filtered_by_acl no\n" in status(mnt)
    os.listdir(mnt / "kv")
    with proxy.record() as seen:
        assert look(mnt / "kv/absent") == ENOENT
    assert not seen.matching(path="/v1/kv/absent")


# Stand-ins for what servers from 1.11 on say.
SELF = b'{"Config": {"NodeName": "n1", "Datacenter": "dc1", "Version": "1.15.0"}, "DebugConfig": {"ACLsEnabled": true}}'
NODES = "/v1/catalog/nodes"
FILTERED = {"X-Consul-Index": 1, "X-Consul-Results-Filtered-By-ACLs": "true"}


def test_newer_servers_tell_what_they_filtered(mount_with, proxy_for, agent):
    proxy = proxy_for(agent)
    with proxy.fault(Answer(200, SELF), path="/v1/agent/self"):
        mnt = mount_with(READ_ALL, server=proxy)
    assert look(mnt / "nodes") == ["n1"] and look(mnt / "kv/absent") == ENOENT
    assert "filtered_by_acl no\n" in status(mnt)
    (mnt / ".consulfs/drop-caches").write_text("1\n")
    with proxy.fault(Answer(200, b"[]", FILTERED), path=NODES):
        assert look(mnt / "nodes") == []
        assert f"filtered_by_acl yes\nfiltered {NODES}\n" in status(mnt)
    (mnt / ".consulfs/drop-caches").write_text("1\n")
    assert look(mnt / "nodes") == ["n1"]
    assert "filtered_by_acl no\n" in status(mnt)


def test_newer_servers_are_asked_only_where_they_filtered(mount_with, proxy_for, agent):
    proxy = proxy_for(agent)
    with proxy.fault(Answer(200, SELF), path="/v1/agent/self"):
        mnt = mount_with(READ_APP, server=proxy)
    with proxy.fault(Answer(404, b"", FILTERED), path="/v1/kv/"):
        os.listdir(mnt / "kv")
        assert look(mnt / "kv/top") == EACCES
    (mnt / ".consulfs/drop-caches").write_text("1\n")
    os.listdir(mnt / "kv")
    with proxy.record() as seen:
        assert look(mnt / "kv/other") == ENOENT  # it says nothing: the list is whole
    assert not seen.matching(path="/v1/kv/other")


# Secrets


def everything_said(mnt):
    """By the mount itself, and by the errors of programs."""
    said = [mnt.log, sh("cat .consulfs/* 2>&1; cat kv/top kv/secret/b 2>&1; echo x 2>&1 > kv/top", check=False, cwd=mnt.path)]
    return said[0] + said[1].stdout + said[1].stderr


@pytest.mark.parametrize("rules", [READ_ALL, WRITE_APP, None], ids=["reads", "writes app/", "bad"])
def test_the_token_is_said_nowhere(agent, mount_with, tmp_path, rules):
    token = agent.new_token(rules) if rules else str(uuid.uuid4())
    token_file = tmp_path / "token"
    token_file.write_text(f"{token}\n")
    mnt = mount_with(args=["-d"], token_file=token_file)
    mnt.expect_log()
    for path in TABLE:
        look(mnt / path)
    for attempt in (
        lambda: (mnt / "kv/app/a").write_bytes(b"x"),
        lambda: (mnt / "services/new.json").write_text("{}"),
        lambda: (mnt / "services/new.json").write_text('{"Bogus": 1}'),
        lambda: os.mkdir(mnt / "kv/d"),
    ):
        try:
            attempt()
        except OSError:
            pass
    assert token not in everything_said(mnt)
    assert token not in sh(f"cat /proc/{mnt.process.pid}/cmdline").stdout


def test_a_token_that_the_server_repeats_is_masked(mount_with, agent, proxy_for):
    token = agent.new_token(READ_ALL)
    proxy = proxy_for(agent)
    mnt = mount_with(token=token, server=proxy, args=["-d"])
    mnt.expect_log()
    with proxy.fault(Answer(403, f"token {token} lacks permission, {token}".encode()), method="PUT"):
        with fails_with(EACCES):
            (mnt / "kv/app/a").write_bytes(b"x")
    assert re.search(r"403 token \*+ lacks permission, \*+$", (mnt / ".consulfs/errors").read_text(), re.M)
    assert token not in everything_said(mnt)
