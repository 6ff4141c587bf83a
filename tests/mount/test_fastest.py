"""services/X/fastest: of the instances that pass their checks, the one that answers first, now."""

import errno
import json
import os
import socket
import time

import pytest

from harness.programs import fails_with, sh
from harness.stats import stat_of, stats
from harness.wait import wait_equal, wait_until

TOKEN = "5ec7e700-0000-4000-8000-000000000002"


def register(agent, server, instance, service="web"):
    """
    An instance with a real HTTP check, which the catalog shows as passed, its URL in the output; and with a TTL check,
    by which a test can fail it at once.
    """
    check = {"HTTP": server.url, "Interval": "1s", "TLSSkipVerify": True}
    agent.register(service, instance, Address=server.host, Port=server.port, Checks=[check])


def wait_checked(agent, *instances, service="web"):
    """Consul runs the first check at a random moment of its interval."""

    def checked():
        checks = [check for entry in agent.get(f"/v1/health/service/{service}").json() for check in entry["Checks"]]
        done = {c["ServiceID"] for c in checks if c["Status"] == "passing" and c["Output"].startswith("HTTP GET")}
        return done >= set(instances)

    wait_until(checked, "Consul's own checks have passed")


def fastest(mnt, service="web"):
    return (mnt / f"services/{service}/fastest").read_text()


@pytest.fixture
def trio(agent, health_server):
    """Three instances, whose health handlers take 5 ms, 200 ms and 5 s for HEAD."""
    servers = {}
    for instance, delay in (("slow", 5), ("middle", 0.2), ("quick", 0.005)):
        servers[instance] = health_server()
        servers[instance].delay = delay
        register(agent, servers[instance], instance)
    wait_checked(agent, *servers)
    return servers


def test_first_answer_wins(mnt, trio):
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    assert trio["middle"].heads_answered == 0, "the read waited for more than the first answer"
    wait_until(lambda: all(server.heads for server in trio.values()), "all were asked at once", timeout=0.15)
    assert trio["slow"].heads_answered == 0


def test_document(mnt, trio):
    text = (mnt / "services/web/fastest.json").read_text()
    assert text.endswith("\n")
    json.loads(text)
    assert all(instance in text for instance in trio)


def test_document_and_line_agree(mnt, trio):
    address = fastest(mnt).strip()
    text = (mnt / "services/web/fastest.json").read_text()
    assert address.split(":")[1] in text
    assert trio["quick"].heads and len(trio["quick"].heads) == 1, "one measurement for both"


def test_probe_is_a_head_of_the_checks_url_and_carries_no_token(mount, agent, trio):
    mnt = mount(agent, env={"CONSUL_HTTP_TOKEN": TOKEN, "CONSUL_HTTP_AUTH": "user:secret"})
    fastest(mnt)
    path, headers = trio["quick"].heads[0]
    assert path == "/health"
    names = {name.lower() for name in headers}
    assert not names & {"x-consul-token", "authorization", "cookie"}
    assert TOKEN not in str(headers)


def test_result_is_kept_for_a_while(mnt, trio):
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    asked = len(trio["quick"].heads)
    began = time.monotonic()
    reads = 0
    while time.monotonic() - began < 0.5:
        assert fastest(mnt) == f"{trio['quick'].address}\n"
        reads += 1
    assert reads > 20
    assert len(trio["quick"].heads) <= asked + 1


def test_refresh_happens_behind_readers(mnt, trio):
    """Somebody who goes on reading gets another answer when the winner has become slow, and never waits for it."""
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    trio["quick"].delay = 3

    def another():
        parked = stat_of(mnt, "operations.parked")
        answer = fastest(mnt)
        assert stat_of(mnt, "operations.parked") == parked, "a reader waited for a probe"
        return answer == f"{trio['middle'].address}\n"

    wait_until(another, "the quicker one is found", timeout=20)


def test_nobody_reads_nobody_probes(mnt, trio):
    fastest(mnt)
    wait_until(lambda: trio["slow"].heads, "the probes are out")
    asked = sum(len(server.heads) for server in trio.values())
    # Longer than a result is kept: a refresh behind readers would come within this time.
    time.sleep(6)
    assert sum(len(server.heads) for server in trio.values()) <= asked + len(trio)


def test_winner_that_stops_passing_is_dropped_at_once(mnt, agent, trio):
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    agent.set_status("web", "quick", "critical")
    wait_equal(lambda: fastest(mnt), f"{trio['middle'].address}\n", timeout=1)


def test_winner_that_is_deregistered_is_dropped_at_once(mnt, agent, trio):
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    os.unlink(mnt / "services/web/quick.json")
    wait_equal(lambda: fastest(mnt), f"{trio['middle'].address}\n", timeout=1)


def test_none_passing(mnt, agent):
    agent.register("web", "web-1", "critical", Port=1)
    agent.register("web", "web-2", "warning", Port=2)
    for name in ("fastest", "fastest.json"):
        with fails_with(errno.ENOENT):
            (mnt / "services/web" / name).read_text()


def test_last_one_stops_passing(mnt, agent, health_server):
    server = health_server()
    register(agent, server, "only")
    wait_checked(agent, "only")
    assert fastest(mnt) == f"{server.address}\n"
    agent.set_status("web", "only", "critical")

    def gone():
        try:
            fastest(mnt)
        except FileNotFoundError:
            return True
        return False

    wait_until(gone, "there is no fastest any more", timeout=1)
    agent.set_status("web", "only", "passing")
    wait_equal(lambda: fastest(mnt), f"{server.address}\n", timeout=1)


def test_error_loses_to_a_slower_good_answer(mnt, agent, health_server):
    bad, good = health_server(), health_server()
    bad.status, good.delay = 503, 0.1
    register(agent, bad, "bad")
    register(agent, good, "good")
    wait_checked(agent, "bad", "good")
    assert fastest(mnt) == f"{good.address}\n"


def test_redirects_are_not_followed(mnt, agent, health_server):
    elsewhere = health_server()
    server = health_server(headers={"Location": elsewhere.url})
    server.status = 302
    register(agent, server, "only")
    wait_checked(agent, "only")
    assert fastest(mnt) == f"{server.address}\n"
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", [405, 501])
def test_server_that_does_not_know_head(mnt, agent, health_server, status):
    server = health_server()
    server.status = status
    register(agent, server, "only")
    wait_checked(agent, "only")
    assert fastest(mnt) == f"{server.address}\n"


def test_https(mnt, agent, health_server, tmp_path):
    pem = tmp_path / "pem"
    sh(f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 1 -keyout {pem} -out {pem}.crt")
    pem.write_text(pem.read_text() + (tmp_path / "pem.crt").read_text())
    server, slower = health_server(certificate=pem), health_server(certificate=pem)
    slower.delay = 1
    register(agent, slower, "slower")
    register(agent, server, "quick")
    wait_checked(agent, "quick", "slower")
    assert fastest(mnt) == f"{server.address}\n"
    assert server.heads


def test_tcp_where_there_is_no_url(mnt, agent):
    """Which of two answers: one listens, the other has only a check that says that it is well."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        closed_port, port = closed.getsockname()[1], listening.getsockname()[1]
        agent.register("web", "closed", Address="127.0.0.1", Port=closed_port)
        agent.register("web", "listening", Address="127.0.0.1", Port=port)
        assert fastest(mnt) == f"127.0.0.1:{port}\n"


def test_nothing_can_be_probed(mnt, agent):
    """It passes its checks, so there is a fastest, though nothing listens: coordinates decide."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        agent.register("web", Address="127.0.0.1", Port=port)
        assert fastest(mnt) == f"127.0.0.1:{port}\n"


def test_instance_that_does_not_answer_the_probe_at_all(mount, agent, health_server):
    """No answer within the time that a read may take is like nothing to be probed."""
    server = health_server()
    register(agent, server, "only")
    wait_checked(agent, "only")
    server.delay = 60
    assert fastest(mount(agent, timeout=5)) == f"{server.address}\n"


def test_other_datacenters_when_none_passes_here(mount, new_agent, health_server):
    here = new_agent(node="here")
    there = new_agent(node="there", datacenter="dc2", retry_join_wan=[here.wan])
    wait_until(lambda: len(here.client.catalog.datacenters()) == 2, "both know both")
    server, remote = health_server(), health_server()
    register(here, server, "local")
    register(there, remote, "remote")
    wait_checked(here, "local")
    wait_checked(there, "remote")
    mnt = mount(here)
    assert fastest(mnt) == f"{server.address}\n"
    here.set_status("web", "local", "critical")
    wait_equal(lambda: fastest(mnt), f"{remote.address}\n")
    here.set_status("web", "local", "passing")
    wait_equal(lambda: fastest(mnt), f"{server.address}\n")


def test_those_that_never_answer_hold_nobody_back(mnt, agent, health_server):
    """They come first in the catalog's order, and there are many of them."""
    server = health_server()
    register(agent, server, "zz-quick")
    wait_checked(agent, "zz-quick")
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen(1)  # and nobody accepts
        for n in range(200):
            service = {"Service": "web", "ID": f"frozen-{n}", "Address": "127.0.0.1", "Port": frozen.getsockname()[1]}
            agent.put("/v1/catalog/register", {
                "Node": f"ext-{n}", "Address": "127.0.0.1", "Service": service,
                "Check": {"CheckID": f"frozen-{n}", "Name": "health", "ServiceID": f"frozen-{n}", "Status": "passing",
                          "Output": f"HTTP GET http://127.0.0.1:{service['Port']}/health: 200 OK Output: ok"},
            })
        assert fastest(mnt) == f"{server.address}\n"
        assert json.loads((mnt / "services/web/fastest.json").read_text())["Method"] != "coordinate"


def test_hot_it_costs_one_open(mnt, trio):
    assert fastest(mnt) == f"{trio['quick'].address}\n"
    before = stats(mnt)
    for _ in range(20):
        assert fastest(mnt) == f"{trio['quick'].address}\n"
    after = stats(mnt)
    assert after["upcalls.open"] - before["upcalls.open"] <= 21  # the counters' own
    assert after["upcalls.lookup"] - before["upcalls.lookup"] <= 3  # once a second
    assert after["http.requests"] == before["http.requests"]


def test_many_instances(mnt, agent, health_server):
    """Most of which refuse: the answer still comes from one that answers."""
    server = health_server()
    register(agent, server, "quick")
    wait_checked(agent, "quick")
    for n in range(100):
        agent.put(
            "/v1/catalog/register",
            {
                "Node": f"ext-{n}",
                "Address": "127.0.0.1",
                "Service": {"Service": "web", "ID": f"dead-{n}", "Address": "127.0.0.1", "Port": 1},
            },
        )
    assert fastest(mnt) == f"{server.address}\n"
