"""CONSUL_NAMESPACE and CONSUL_PARTITION are Enterprise's: they are passed on when they are set, and only then."""

import json
import os

from errno import EINVAL
from harness.programs import fails_with, sh
from harness.proxy import Answer

ENTERPRISE = {"CONSUL_NAMESPACE": "team a", "CONSUL_PARTITION": "west"}


def test_what_is_asked_says_which(mount, agent, proxy):
    mnt = mount(proxy, env=ENTERPRISE)
    services, key = json.dumps({"web": []}).encode(), b'[{"Key":"k","Value":"dg==","Flags":0,"LockIndex":0,"CreateIndex":7,"ModifyIndex":7}]'
    stored = b'{"Results":[{"KV":{"Key":"k","Flags":0,"LockIndex":0,"CreateIndex":7,"ModifyIndex":8,"Value":null}}],"Errors":null}'
    with proxy.fault(Answer(200, services), path="/v1/catalog/services"), proxy.fault(
            Answer(200, key), path="/v1/kv/*"), proxy.fault(Answer(200, stored), path="/v1/txn"), proxy.fault(
                Answer(200, b'{"ID":"8b39e637-3fdb-0262-cfc8-0f077e6b0847"}'), path="/v1/session/create"), proxy.record() as seen:
        assert os.listdir(mnt / "services") == ["web"]
        assert (mnt / "kv/k").read_text() == "v"
        sh("echo w > kv/k", cwd=mnt.path)
        sh("echo '{}' > sessions/s.json", cwd=mnt.path, check=False)
    for path, method in (("/v1/catalog/services", "GET"), ("/v1/kv/*", "GET"), ("/v1/txn", "PUT"),
                         ("/v1/session/list", "GET")):
        requests = seen.matching(path=path, method=method)
        assert requests, path
        for request in requests:
            assert (request.query.get("ns"), request.query.get("partition")) == ("team a", "west"), request


def test_nothing_is_passed_on_by_itself(mount, agent, proxy):
    with proxy.record() as seen:
        mnt = mount(proxy)
        sh("ls -lR . > /dev/null; echo 1 > kv/a", cwd=mnt.path)
    assert seen and not [r for r in seen if "ns" in r.query or "partition" in r.query]


def test_a_community_server_refuses_them(mount, agent):
    mnt = mount(agent, env=ENTERPRISE)
    with fails_with(EINVAL):
        os.listdir(mnt / "services")
