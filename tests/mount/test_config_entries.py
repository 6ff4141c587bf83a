"""config/: config entries by kind."""

import json
import os

import pytest

from errno import ENOENT, EPERM
from harness.programs import fails_with, names, sh
from harness.wait import wait_equal

OF_1_8 = ["ingress-gateway", "proxy-defaults", "service-defaults", "service-resolver", "service-router",
          "service-splitter", "terminating-gateway"]


@pytest.fixture
def config(mnt, agent):
    for kind in OF_1_8:
        for entry in agent.get(f"/v1/config/{kind}").json():
            agent.delete(f"/v1/config/{kind}/{entry['Name']}")
    return mnt / "config"


def test_the_kinds_that_the_server_knows(config):
    assert names(config) == OF_1_8
    with fails_with(ENOENT):
        os.listdir(config / "mesh")
    with fails_with(EPERM):
        os.mkdir(config / "other")


def test_an_entry_is_created_changed_and_removed(config, agent):
    sh("""echo '{"Protocol": "http"}' > service-defaults/web.json""", cwd=config)
    assert agent.get("/v1/config/service-defaults/web").json()["Protocol"] == "http"
    document = json.loads((config / "service-defaults/web.json").read_text())
    assert (document["Kind"], document["Name"]) == ("service-defaults", "web")
    document["Protocol"] = "grpc"
    (config / "service-defaults/web.json").write_text(json.dumps(document))
    assert agent.get("/v1/config/service-defaults/web").json()["Protocol"] == "grpc"
    assert names(config / "service-defaults") == ["web.json"]
    sh("rm service-defaults/web.json", cwd=config)
    assert agent.get("/v1/config/service-defaults/web").status_code == 404
    assert names(config / "service-defaults") == []


def test_changes_elsewhere_are_seen(config, agent):
    assert names(config / "service-defaults") == []
    agent.put("/v1/config", {"Kind": "service-defaults", "Name": "db", "Protocol": "tcp"})
    wait_equal(lambda: names(config / "service-defaults"), ["db.json"])
    agent.delete("/v1/config/service-defaults/db")
    wait_equal(lambda: names(config / "service-defaults"), [])


def test_what_is_refused(config, mnt):
    for document in ('{"Bogus": 1}', '{"Kind": "proxy-defaults"}', '{"Name": "db"}'):
        done = sh(f"echo '{document}' > service-defaults/web.json", cwd=config, check=False)
        assert done.returncode != 0, document
    errors = (mnt / ".consulfs/errors").read_text()
    assert "Bogus" in errors and 'the path says "service-defaults"' in errors
