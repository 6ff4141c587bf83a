"""nodes/, checks/ and status/, for reading."""

import errno
import json
import os

import pytest

from harness.programs import fails_with
from harness.wait import wait_equal, wait_until


def external(agent, node="ext", address="192.0.2.1", **more):
    agent.put("/v1/catalog/register", {"Node": node, "Address": address, **more})


def document(path):
    text = path.read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    return json.loads(text)


# nodes/


def test_nodes(mnt, agent):
    assert os.listdir(mnt / "nodes") == [agent.node]
    external(agent, "ext-1")
    external(agent, "a/b", address="2001:db8::1")
    wait_equal(lambda: sorted(os.listdir(mnt / "nodes")), ["a%2Fb", "ext-1", agent.node])
    assert (mnt / "nodes/ext-1/address").read_text() == "192.0.2.1\n"
    assert (mnt / "nodes/a%2Fb/address").read_text() == "2001:db8::1\n"
    agent.put("/v1/catalog/deregister", {"Node": "ext-1"})
    wait_equal(lambda: sorted(os.listdir(mnt / "nodes")), ["a%2Fb", agent.node])
    wait_until(lambda: not (mnt / "nodes/ext-1").exists(), "the kernel is told")


def test_absent_node(mnt):
    for path in ("nodes/nowhere", "nodes/nowhere/address", "nodes/nowhere/services"):
        with fails_with(errno.ENOENT):
            os.stat(mnt / path)


def test_node_document(mnt, agent):
    external(agent, NodeMeta={"rack": "7"})
    node = document(mnt / "nodes/ext/node.json")
    assert (node["Node"], node["Address"], node["Meta"]) == ("ext", "192.0.2.1", {"rack": "7"})
    assert (mnt / f"nodes/{agent.node}/address").read_text() == f"{agent.host}\n"


def test_services_of_a_node(mnt, agent):
    external(agent, Service={"Service": "db", "ID": "db/1", "Port": 5432})
    agent.register("web", "web-1", Port=80)
    assert os.listdir(mnt / "nodes/ext/services") == ["db%2F1.json"]
    assert document(mnt / "nodes/ext/services/db%2F1.json")["Port"] == 5432
    wait_equal(lambda: sorted(os.listdir(mnt / f"nodes/{agent.node}/services")), ["consul.json", "web-1.json"])
    agent.put("/v1/agent/service/deregister/web-1")
    wait_equal(lambda: os.listdir(mnt / f"nodes/{agent.node}/services"), ["consul.json"])


def test_checks_of_a_node(mnt, agent):
    assert os.listdir(mnt / f"nodes/{agent.node}/checks") == ["serfHealth.json"]
    assert document(mnt / f"nodes/{agent.node}/checks/serfHealth.json")["Status"] == "passing"
    external(agent, Check={"Name": "disk", "CheckID": "disk", "Status": "warning"})
    wait_equal(lambda: os.listdir(mnt / "nodes/ext/checks"), ["disk.json"])
    assert document(mnt / "nodes/ext/checks/disk.json")["Status"] == "warning"


def test_node_with_nothing_on_it(mnt, agent):
    external(agent)
    wait_equal(lambda: os.listdir(mnt / "nodes/ext/services"), [])
    assert os.listdir(mnt / "nodes/ext/checks") == []


def test_coordinate_of_a_node(mnt, agent):
    def known():
        return [one["Node"] for one in agent.get("/v1/coordinate/nodes").json() or []]

    wait_until(lambda: agent.node in known(), "the agent has coordinates, some seconds after its start", timeout=40)
    # What Consul gives is the list of the node's coordinates, one for each network segment.
    assert agent.node in (mnt / f"nodes/{agent.node}/coordinate.json").read_text()


def test_sessions_of_a_node(mnt, agent):
    session = agent.put("/v1/session/create", {"Name": "lock"}).json()["ID"]
    wait_equal(lambda: os.listdir(mnt / f"nodes/{agent.node}/sessions"), [f"{session}.json"])
    assert document(mnt / f"nodes/{agent.node}/sessions/{session}.json")["Name"] == "lock"


# checks/


def test_checks_by_state(mnt, agent):
    agent.register("web", "web-1")
    external(agent, Check={"Name": "disk", "CheckID": "disk", "Status": "warning"})
    checks = mnt / "checks"
    own = ["serfHealth.json", "ttl:web-1.json"]
    wait_equal(lambda: sorted(os.listdir(checks / "any")), ["disk@ext.json", *own])
    assert sorted(os.listdir(checks / "passing")) == own
    assert os.listdir(checks / "warning") == ["disk@ext.json"]
    assert os.listdir(checks / "critical") == []
    assert document(checks / "warning/disk@ext.json")["Node"] == "ext"
    assert document(checks / f"any/serfHealth@{agent.node}.json") == document(checks / "any/serfHealth.json")


def test_check_moves(mnt, agent):
    agent.register("web", "web-1")
    checks = mnt / "checks"
    wait_equal(lambda: "ttl:web-1.json" in os.listdir(checks / "passing"), True)
    agent.set_status("web", "web-1", "critical")
    wait_equal(lambda: os.listdir(checks / "critical"), ["ttl:web-1.json"])
    wait_equal(lambda: os.listdir(checks / "passing"), ["serfHealth.json"])
    assert document(checks / "critical/ttl:web-1.json")["Status"] == "critical"
    wait_until(lambda: not (checks / "passing/ttl:web-1.json").exists(), "the kernel is told")


def test_summary(mnt, agent):
    agent.register("web", "web-1", "warning")
    agent.register("web", "web-2", "critical")
    wait_equal(lambda: len(os.listdir(mnt / "checks/any")), 3)
    rows = [line.split() for line in (mnt / "checks/summary").read_text().splitlines()]
    # A table is for people, so its columns may change; but what it is about must be in it.
    words = {word for row in rows for word in row}
    assert {"ttl:web-1", "warning", "ttl:web-2", "critical", "serfHealth", "passing"} <= words


# status/


def test_status(mnt, agent):
    assert (mnt / "status/leader").read_text() == agent.get("/v1/status/leader").json() + "\n"
    assert (mnt / "status/peers").read_text().split() == agent.get("/v1/status/peers").json()


@pytest.mark.parametrize("path", ["nodes/n1/address", "checks/summary", "status/leader", "status/peers"])
def test_plain_files_cannot_be_written(mnt, path):
    with fails_with(errno.EACCES, errno.EPERM):
        (mnt / path).write_text("x")
