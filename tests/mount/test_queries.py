"""queries/: prepared queries and their results."""

import json

import pytest

from errno import ENOENT
from harness.programs import fails_with, names, sh
from harness.wait import wait_equal


@pytest.fixture
def queries(mnt, agent):
    for query in agent.get("/v1/query").json():
        agent.delete(f"/v1/query/{query['ID']}")
    return mnt / "queries"


def known(agent):
    return {query["Name"]: query["Service"]["Service"] for query in agent.get("/v1/query").json()}


def test_a_query_is_created_changed_and_removed(queries, agent):
    sh("""echo '{"Service": {"Service": "web"}}' > near.json""", cwd=queries)
    assert known(agent) == {"near": "web"} and names(queries) == ["near", "near.json"]
    document = json.loads((queries / "near.json").read_text())
    document["Service"]["Service"] = "db"
    (queries / "near.json").write_text(json.dumps(document))
    assert known(agent) == {"near": "db"}
    sh("rm near.json", cwd=queries)
    assert known(agent) == {} and names(queries) == []
    with fails_with(ENOENT):
        (queries / "near/passing").read_text()


def test_results(queries, agent):
    agent.register("web", "web-1", Address="10.0.0.1", Port=80)
    agent.register("web", "web-2", "critical", Address="10.0.0.2", Port=80)
    agent.request("POST", "/v1/query", json={"Name": "near", "Service": {"Service": "web"}})
    wait_equal((queries / "near/passing").read_text, "10.0.0.1:80\n")
    assert json.loads((queries / "near/result.json").read_text())["Service"] == "web"
    agent.set_status("web", "web-1", "critical")
    wait_equal((queries / "near/passing").read_text, "")


def test_a_query_without_a_name_is_called_by_its_id(queries, agent):
    session = agent.put("/v1/session/create", {}).json()["ID"]  # without a name it wants one of these
    number = agent.request("POST", "/v1/query", json={"Session": session, "Service": {"Service": "web"}}).json()["ID"]
    assert names(queries) == [number, f"{number}.json"]
    document = json.loads((queries / f"{number}.json").read_text())
    document["Service"]["OnlyPassing"] = True
    (queries / f"{number}.json").write_text(json.dumps(document))
    (query,) = agent.get("/v1/query").json()
    assert query["Service"]["OnlyPassing"] and query["Name"] == ""
    assert (queries / number / "passing").read_text() == ""


def test_a_template_answers_to_names_that_are_not_listed(queries, agent):
    agent.register("db", Address="10.0.0.3", Port=5432)
    agent.request("POST", "/v1/query", json={"Name": "geo-", "Template": {"Type": "name_prefix_match"},
                                             "Service": {"Service": "${name.suffix}"}})
    wait_equal((queries / "geo-db/passing").read_text, "10.0.0.3:5432\n")
    assert names(queries) == ["geo-", "geo-.json"]
    with fails_with(ENOENT):
        (queries / "other/passing").read_text()


def test_what_is_refused(queries, mnt):
    for document in ("{}", '{"Service": {"Service": "web"}, "Bogus": 1}', '{"Name": "other"}'):
        assert sh(f"echo '{document}' > near.json", cwd=queries, check=False).returncode != 0, document
    assert "Bogus" in (mnt / ".consulfs/errors").read_text()
