"""
README's table of every endpoint: each command is typed on a real agent with ACLs, what it prints is compared, what came
of it is looked at with another client; and then it is refused.
"""

import re
import subprocess
from pathlib import Path

import pytest

from harness.agent import Agent
from harness.mount import Mount, clean_environment
from harness.wait import wait_equal, wait_until

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
MANAGEMENT = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
ACCESSOR = "11111111-2222-3333-4444-555555555555"
UNKNOWN = "99999999-9999-9999-9999-999999999999"


def table():
    """{endpoint: (command, what it prints)}"""
    rows = {}
    for line in README.split("## Every endpoint\n", 1)[1].split("\n## ", 1)[0].splitlines():
        cells = re.fullmatch(r"\| (.+?) \| `(.+)` \| ?(.*?) ?\|", line)
        if cells:
            endpoint, command, prints = cells.groups()
            assert endpoint not in rows
            rows[endpoint] = (command, "\n".join(re.findall(r"`(.+?)`", prints)))
    return rows


TABLE = table()


class World:
    """An agent with ACLs and something of everything, another one that can join, and three mounts."""

    def __init__(self, consul, directory):
        self.directory = directory
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT, "agent": MANAGEMENT}}
        self.agent = Agent(consul, directory, acl=acl, token=MANAGEMENT, telemetry={"prometheus_retention_time": "1h"})
        self.other = Agent(consul, directory, node="n8", server=False, dev=False)
        self.gone = Agent(consul, directory, node="gone")
        self.mounts = []
        self.clean = False

    def start(self):
        self.agent.start().wait_ready()
        # The agent's node is in the catalog before its coordinate is.
        wait_until(lambda: self.agent.get("/v1/coordinate/node/n1").ok, "the agent has a coordinate", 120)
        self.mnt = self.mount("good", self.agent, MANAGEMENT)
        self.denied = self.mount("denied", self.agent, UNKNOWN, delay_connect=True)
        self.nobody = self.mount("nobody", self.gone, None, delay_connect=True, timeout=2)
        self.denied.expect_log()
        self.nobody.expect_log()
        return self

    def mount(self, name, agent, token, **options):
        env = {"CONSUL_HTTP_TOKEN": token} if token else {}
        self.mounts.append(Mount(self.directory / name, agent.http, options, (), env))
        return self.mounts[-1].start()

    def end(self):
        for mount in self.mounts:
            mount.end()

    def kill(self):
        for mount in self.mounts:
            if mount.process and mount.process.poll() is None:
                mount.abort("the test ends")
        for agent in (self.agent, self.other):
            agent.kill()

    def reset(self):
        self.clean = True
        agent = self.agent
        agent.put("/v1/agent/maintenance", enable="false")
        agent.wipe()
        for token in agent.get("/v1/acl/tokens").json():
            if token["AccessorID"] != "00000000-0000-0000-0000-000000000002" and token["Description"] != "Master Token":
                agent.delete(f"/v1/acl/token/{token['AccessorID']}")
        for query in agent.get("/v1/query").json():
            agent.delete(f"/v1/query/{query['ID']}")
        for entry in agent.get("/v1/config/service-defaults").json():
            agent.delete(f"/v1/config/service-defaults/{entry['Name']}")
        self.fill()

    def fill(self):
        agent = self.agent
        for name, value in {"app/name": b"web\n", "app/port": b"8080\n"}.items():
            agent.kv_set(name, value)
        check = {"CheckID": "web-ttl", "Name": "TTL", "TTL": "1h", "Status": "passing"}
        agent.put("/v1/agent/service/register", {"Name": "web", "ID": "web-1", "Port": 8000, "Checks": [check]})
        agent.put("/v1/catalog/register", {"Node": "db07", "Address": "10.0.0.7", "Service": {"Service": "db", "Port": 5432},
                                           "Check": {"CheckID": "ping", "Name": "Ping", "Status": "warning"}})
        agent.put("/v1/session/create", {"Name": "deploy"})
        agent.put("/v1/acl/token", {"AccessorID": ACCESSOR, "Description": "ci"})
        agent.request("POST", "/v1/query", json={"Name": "nearest", "Service": {"Service": "web"}})
        agent.put("/v1/config", {"Kind": "service-defaults", "Name": "db", "Protocol": "tcp"})
        agent._wait_status("web", "web-ttl", "passing")


@pytest.fixture(scope="module")
def world(consul, tmp_path_factory):
    world = World(consul, tmp_path_factory.mktemp("endpoints"))
    try:
        yield world.start()
        world.end()
    finally:
        world.kill()


def typed(world, mount, command):
    command = command.replace("10.0.0.8", world.other.lan)
    env = clean_environment(TMPDIR=str(world.directory))
    return subprocess.run(["bash", "-c", command], cwd=mount.path, env=env, capture_output=True, text=True, timeout=60)


def matches(prints, output):
    """`…` stands for anything in README, and for lines that follow at the end."""
    pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", prints))
    return re.fullmatch(pattern + r"\n?", output, re.DOTALL) is not None


# What another client has to see afterwards: {endpoint: function of the agent, true when the effect is there}. Those that
# only read have none: what they print is what was put there with that client.


def checks(agent):
    return agent.get("/v1/agent/checks").json()


def node(agent, name):
    return agent.get(f"/v1/catalog/node/{name}").json()


def tokens(agent):
    return {token["AccessorID"]: token for token in agent.get("/v1/acl/tokens").json()}


def sessions(agent):
    return [session["Name"] for session in agent.get("/v1/session/list").json()]


def kv(agent, key):
    return agent.client.kv.get(key)[1]


def members(agent):
    return {member["Name"]: member["Status"] for member in agent.get("/v1/agent/members").json()}


EFFECTS = {
    "PUT agent/join/ADDRESS": lambda a: members(a).get("n8") == 1,
    "PUT agent/force-leave/NODE": lambda a: members(a).get("n8") in (None, 3),
    "PUT agent/check/register": lambda a: "disk" in checks(a),
    "PUT agent/check/deregister/ID": lambda a: "web-ttl" not in checks(a),
    "PUT agent/check/pass/ID": lambda a: checks(a)["web-ttl"]["Status"] == "passing",
    "PUT agent/check/warn/ID": lambda a: (checks(a)["web-ttl"]["Status"], checks(a)["web-ttl"]["Output"])
    == ("warning", "getting full"),
    "PUT agent/check/fail/ID": lambda a: checks(a)["web-ttl"]["Status"] == "critical",
    "PUT agent/service/register": lambda a: a.get("/v1/agent/services").json()["web-2"]["Port"] == 8001,
    "PUT agent/service/deregister/ID": lambda a: "web-1" not in a.get("/v1/agent/services").json(),
    "PUT agent/maintenance": lambda a: checks(a)["_node_maintenance"]["Notes"] == "upgrading",
    "PUT agent/service/maintenance/ID": lambda a: "_service_maintenance:web-1" in checks(a),
    "PUT catalog/register, a node": lambda a: node(a, "db09")["Node"]["Address"] == "10.0.0.9",
    "PUT catalog/register, a service": lambda a: node(a, "db07")["Services"]["cache"]["Port"] == 11211,
    "PUT catalog/register, a check": lambda a: {c["CheckID"] for c in a.get("/v1/health/node/db07").json()}
    == {"ping", "disk"},
    "PUT catalog/deregister, a check": lambda a: a.get("/v1/health/node/db07").json() == [],
    "PUT catalog/deregister, a service": lambda a: node(a, "db07")["Services"] == {},
    "PUT catalog/deregister, a node": lambda a: node(a, "db07") is None,
    "PUT session/create": lambda a: sorted(sessions(a)) == ["backup", "deploy"],
    "PUT session/destroy/ID": lambda a: sessions(a) == [],
    "PUT acl/token, acl/create": lambda a: "backup" in [t["Description"] for t in tokens(a).values()],
    "PUT acl/token/ID, acl/update": lambda a: tokens(a)[ACCESSOR]["Description"] == "nightly",
    "DELETE acl/token/ID, acl/destroy": lambda a: ACCESSOR not in tokens(a),
    "PUT acl/token/ID/clone, acl/clone": lambda a: [t["Description"] for t in tokens(a).values()].count("ci") == 2,
    "PUT event/fire/NAME": lambda a: [e["Payload"] for e in a.get("/v1/event/list", name="deploy").json()][-1:] == ["djQy"],
    "PUT kv/KEY": lambda a: kv(a, "app/port")["Value"] == b"9090\n",
    "PUT kv/KEY?cas=0": lambda a: kv(a, "app/lock")["Value"] == b"once\n",
    "PUT kv/KEY?flags=N": lambda a: kv(a, "app/port")["Flags"] == 42,
    "PUT kv/KEY?acquire=ID": lambda a: kv(a, "app/port")["Session"] == a.get("/v1/session/list").json()[0]["ID"],
    "PUT kv/KEY?acquire=ID, while a command runs": lambda a: kv(a, "app/port")["LockIndex"] == 1,
    "PUT kv/KEY?release=ID": lambda a: "Session" not in kv(a, "app/name"),
    "DELETE kv/KEY": lambda a: kv(a, "app/port") is None,
    "DELETE kv/KEY?recurse": lambda a: a.client.kv.get("app", keys=True)[1] is None,
    "PUT txn": lambda a: kv(a, "app/port") is None and kv(a, "app/listen")["Value"] == b"8080\n",
    "POST query": lambda a: {q["Name"] for q in a.get("/v1/query").json()} == {"nearest", "web"},
    "PUT config": lambda a: a.get("/v1/config/service-defaults/web").json()["Protocol"] == "http",
    "DELETE config/KIND/NAME": lambda a: a.get("/v1/config/service-defaults/db").status_code == 404,
}

# What has to be there before, besides what `fill` makes.


def other_joined(world):
    world.other.start()
    wait_until(lambda: agent_answers(world.other), "the other agent answers", 30)


def agent_answers(agent):
    try:
        return agent.get("/v1/agent/self").status_code in (200, 403)
    except OSError:
        return False


def other_failed(world):
    """It has joined and died, and everybody knows."""
    if members(world.agent).get("n8") != 1:
        if not agent_answers(world.other):
            other_joined(world)
        world.agent.put(f"/v1/agent/join/{world.other.lan}")
    world.other.kill()
    wait_until(lambda: members(world.agent).get("n8") == 4, "the other agent has failed", 60)


def locked(world):
    session = world.agent.get("/v1/session/list").json()[0]["ID"]
    world.agent.put("/v1/kv/app/name", b"web\n", acquire=session)
    wait_equal(lambda: typed(world, world.mnt, "getfattr -n user.consul.session kv/app/name").returncode, 0)


def fired(world):
    world.agent.put("/v1/event/fire/started", b"v41")
    wait_until(lambda: world.agent.get("/v1/event/list", name="started").json(), "the event is there")


BEFORE = {
    "PUT agent/join/ADDRESS": other_joined,
    "PUT agent/force-leave/NODE": other_failed,
    "GET event/list": fired,
    "PUT kv/KEY?release=ID": locked,
}

# Everybody is told these, or they are not refused by a token: an agent that is gone refuses them.
FOR_EVERYBODY = {"GET catalog/datacenters", "GET status/leader", "GET status/peers", "GET coordinate/datacenters",
                 "GET agent/connect/ca/roots"}


def test_the_table_is_read():
    assert len(TABLE) > 60
    assert set(EFFECTS) | set(BEFORE) | FOR_EVERYBODY <= set(TABLE)
    # What changes something has an effect to look for.
    reading = {endpoint for endpoint in TABLE if endpoint.startswith("GET ")}
    assert set(TABLE) - reading - set(EFFECTS) == {"PUT session/renew/ID"}


def has_effect(endpoint, agent):
    try:
        return bool(EFFECTS[endpoint](agent))
    except (KeyError, TypeError, ValueError):  # it is not there at all
        return False


@pytest.mark.limit(180)
@pytest.mark.parametrize("endpoint", TABLE)
def test_endpoint(world, endpoint):
    command, prints = TABLE[endpoint]
    world.reset()
    world.clean = False
    BEFORE.get(endpoint, lambda world: None)(world)
    last = []

    def prints_it():  # what was just put there by another client can take a moment to be seen
        last[:] = [typed(world, world.mnt, command)]
        return last[0].returncode == 0 and matches(prints, last[0].stdout)

    if endpoint.startswith("GET "):
        try:
            wait_until(prints_it, "")
        except AssertionError:
            pytest.fail(f"{command}: {last[0].returncode} {last[0].stdout!r} {last[0].stderr!r}")
        assert last[0].stderr == ""
    else:
        done = typed(world, world.mnt, command)
        assert (done.returncode, done.stderr) == (0, "") and matches(prints, done.stdout)
        if endpoint in EFFECTS:
            wait_equal(lambda: has_effect(endpoint, world.agent), True)


@pytest.mark.limit(180)
@pytest.mark.parametrize("endpoint", TABLE)
def test_endpoint_is_refused(world, endpoint):
    command, _ = TABLE[endpoint]
    if not world.clean:  # what is refused leaves everything as it was
        world.reset()
    events = world.agent.get("/v1/event/list").json()
    command = command.replace("sessions/by-name/deploy", "sessions/" + session_file(world))
    refused = typed(world, world.nobody if endpoint in FOR_EVERYBODY else world.denied, command)
    assert refused.returncode != 0 and refused.stderr
    assert "BEGIN" not in refused.stdout and "{" not in refused.stdout
    assert world.agent.get("/v1/event/list").json() == events
    if endpoint in EFFECTS:
        assert not has_effect(endpoint, world.agent) or endpoint in ALREADY_SO


# What these bring about is so before.
ALREADY_SO = {"PUT kv/KEY?release=ID", "PUT agent/check/pass/ID", "PUT agent/join/ADDRESS", "PUT agent/force-leave/NODE", "PUT event/fire/NAME"}


def session_file(world):
    return world.agent.get("/v1/session/list").json()[0]["ID"] + ".json"


def test_renewing_reaches_consul(world, proxy_for):
    """What `touch` does cannot be seen in a session; it can be seen on the wire."""
    world.reset()
    proxy = proxy_for(world.agent)
    mount = world.mount("proxied", proxy, MANAGEMENT)
    name = session_file(world)
    with proxy.record() as seen:
        assert typed(world, mount, f"touch sessions/{name}").returncode == 0
    assert len(seen.matching(path=f"/v1/session/renew/{name[:-5]}", method="PUT")) == 1

