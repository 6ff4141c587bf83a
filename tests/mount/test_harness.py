"""The harness itself: a proxy that miscounts, or a fault that does not happen, would make other tests prove nothing."""

import concurrent.futures
import http.client
import time

import consul
import pytest
import requests
import urllib3

from harness.proxy import Answer, Delay, Drop, Endless, Reset, Stall, Truncate, Withhold
from harness.wait import wait_until


def get(server, path, **arguments):
    plain = {"Accept-Encoding": "identity"}
    return requests.get(f"http://{server.http}{path}", timeout=5, allow_redirects=False, headers=plain, **arguments)


def test_agent_is_ready_and_empty(agent):
    assert agent.client.status.leader()
    assert agent.kv_keys() == []
    assert agent.client.catalog.nodes()[1][0]["Address"] == agent.host


def test_agent_keeps_its_data_over_a_restart(new_agent):
    agent = new_agent(dev=False)
    agent.kv_set("a//b", b"\0kept")
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert agent.kv_get("a//b") == b"\0kept"


def test_paused_agent_accepts_and_does_not_answer(new_agent):
    agent = new_agent()
    agent.pause()
    with pytest.raises(requests.Timeout):
        requests.get(f"http://{agent.http}/v1/status/leader", timeout=0.2)
    agent.resume()
    assert agent.get("/v1/status/leader").ok


def test_three_servers_and_a_client(cluster):
    assert len(cluster.client.client.status.peers()) == 3
    cluster.client.kv_set("a", b"value")
    killed = cluster.kill_leader()
    assert cluster.leader is not killed
    wait_until(lambda: cluster.client.get("/v1/kv/a").ok, "a new leader answers", timeout=30)


def test_what_was_killed_is_there_again(cluster):
    assert all(server.running for server in cluster.servers) and cluster.client.kv_keys() == []


def test_second_datacenter(two_datacenters):
    near, far = two_datacenters.near, two_datacenters.far
    assert near.get("/v1/catalog/nodes", dc="dc2").json()[0]["Node"] == far.node


def test_client_agent(client_agent):
    client_agent.register("web", Port=80)
    assert {node["Node"] for node in client_agent.get("/v1/catalog/nodes").json()} == {"s1", "c1"}
    assert client_agent.get("/v1/status/peers").json() != [f"{client_agent.host}:{client_agent.server_port}"]


def test_acl_agent(acl_agent):
    acl_agent.kv_set("a/b", b"value")
    reader = acl_agent.new_token('key_prefix "a/" { policy = "read" }')
    kv = acl_agent.client.kv
    assert kv.get("a/b", token=reader)[1]["Value"] == b"value"
    with pytest.raises(consul.ACLPermissionDenied):
        kv.put("a/b", "changed", token=reader)
    assert get(acl_agent, "/v1/kv/a/b").status_code == 403


def test_acl_agent_is_wiped(acl_agent):
    assert acl_agent.kv_keys() == []
    assert len(acl_agent.get("/v1/acl/tokens").json()) == 2 and len(acl_agent.get("/v1/acl/policies").json()) == 1


def test_proxy_passes_everything_through(agent, proxy):
    value = bytes(range(256)) * 2000
    with proxy.record() as seen, requests.Session() as session:
        for _ in range(3):
            assert session.put(f"http://{proxy.http}/v1/kv/a%2Fb?flags=7", data=value).text.strip() == "true"
            assert session.get(f"http://{proxy.http}/v1/kv/a/b?raw").content == value
            assert session.head(f"http://{proxy.http}/v1/kv/a/b").status_code == 405
    assert proxy.connections <= 1
    assert [(r.method, r.path) for r in seen[:3]] == [
        ("PUT", "/v1/kv/a%2Fb"),
        ("GET", "/v1/kv/a/b"),
        ("HEAD", "/v1/kv/a/b"),
    ]
    assert len(seen) == 9 and seen[0].query == {"flags": "7"} and seen[0].body == value


def test_proxy_tells_blocking_queries(agent, proxy):
    with proxy.record() as seen, concurrent.futures.ThreadPoolExecutor() as pool:
        index = get(proxy, "/v1/catalog/nodes?index=0").headers["X-Consul-Index"]
        blocked = pool.submit(get, proxy, f"/v1/catalog/nodes?index={index}")
        wait_until(lambda: len(seen) == 2, "the blocking query has arrived")
        agent.put("/v1/catalog/register", {"Node": "n9", "Address": "192.0.2.9"})
        assert len(blocked.result().json()) == 2
    assert [r.blocking for r in seen] == [False, True]
    assert [str(r) for r in seen.not_blocking] == ["GET /v1/catalog/nodes?index=0"]


def test_proxy_carries_a_hundred_connections(agent, proxy):
    agent.kv_set("k", b"v")

    def hammer(_):
        with requests.Session() as session:
            return [session.get(f"http://{proxy.http}/v1/kv/k?raw").content for _ in range(10)]

    with proxy.record() as seen, concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert all(answers == [b"v"] * 10 for answers in pool.map(hammer, range(100)))
    assert len(seen) == 1000


def test_proxy_lets_go_of_a_client_that_went_away(agent, proxy):
    connection = http.client.HTTPConnection(proxy.http)
    with proxy.fault(Stall()) as fault:
        connection.request("GET", "/v1/status/leader")
        wait_until(lambda: fault.hits, "the request is stalled")
        connection.close()
        wait_until(lambda: proxy.connections == 0, "the proxy notices")


def test_proxy_faults(agent, proxy):
    agent.kv_set("k", b"v" * 1000)
    with proxy.fault(Answer(429, b"slow down"), path="/v1/kv/*", method="GET", times=1) as fault:
        assert get(proxy, "/v1/status/leader").status_code == 200
        assert get(proxy, "/v1/kv/k").text == "slow down"
        assert get(proxy, "/v1/kv/k").status_code == 200
        assert fault.hits == 1
    with proxy.fault(Delay(0.1)):
        before = time.monotonic()
        assert get(proxy, "/v1/kv/k?raw").ok
        assert time.monotonic() - before >= 0.1
    with proxy.fault(Truncate(10)), get(proxy, "/v1/kv/k?raw", stream=True) as answer:
        with pytest.raises(urllib3.exceptions.ProtocolError, match="10 bytes read, 990 more expected"):
            answer.raw.read()
    for kind in (Drop(), Reset()):
        with proxy.fault(kind), pytest.raises(requests.ConnectionError):
            get(proxy, "/v1/kv/k")
    with proxy.fault(Endless()), get(proxy, "/v1/kv/k", stream=True) as answer:
        assert len(answer.raw.read(1 << 20)) == 1 << 20
    assert get(proxy, "/v1/kv/k?raw").text == "v" * 1000


def test_proxy_withholds_an_answer(agent, proxy):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with proxy.fault(Withhold(), method="PUT"):
            put = pool.submit(requests.put, f"http://{proxy.http}/v1/kv/k", b"value", timeout=10)
            wait_until(lambda: agent.kv_get("k") == b"value", "it is done")
            assert not put.done()
        assert put.result().ok


def test_proxy_stall_and_cut(agent, proxy):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with proxy.fault(Stall()) as fault:
            stalled = pool.submit(get, proxy, "/v1/status/leader")
            wait_until(lambda: fault.hits, "the request is stalled")
            assert not stalled.done()
        assert stalled.result().ok
        with proxy.fault(Stall()) as fault:
            stalled = pool.submit(get, proxy, "/v1/status/leader")
            wait_until(lambda: fault.hits, "the request is stalled")
            proxy.cut()
            with pytest.raises(requests.ConnectionError):
                stalled.result()
