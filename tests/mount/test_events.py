"""events/: firing and listing user events."""

import base64
import json
import os

import pytest

from errno import ENOENT
from harness.programs import fails_with, sh
from harness.wait import wait_until


# Events cannot be taken back: each test has a name of its own.
@pytest.fixture
def name(request):
    return request.node.name.replace("[", "-").replace("]", "")


def payloads(agent, name):
    return [event["Payload"] for event in agent.client.event.list(name)[1] or []]


def shown(path):
    return [base64.b64decode(json.loads(line)["Payload"] or "") for line in path.read_text().splitlines()]


def test_an_event_is_fired_and_listed(mnt, agent, name):
    path = mnt / "events" / name
    with fails_with(ENOENT):
        path.read_text()
    sh(f"echo v42 > events/{name}", cwd=mnt.path)
    assert payloads(agent, name) == [b"v42"]
    assert name in os.listdir(mnt / "events")
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == agent.get("/v1/event/list", name=name).json()[0]
    sh(f"echo v43 > events/{name}; printf 'a b' >> events/{name}", cwd=mnt.path)
    assert payloads(agent, name) == [b"v42", b"v43", b"a b"]
    assert shown(path) == [b"v42", b"v43", b"a b"]


def test_each_line_of_a_script_is_an_event(mnt, agent, name):
    sh(f"for i in 1 2 3; do echo $i; done > events/{name}", cwd=mnt.path)
    assert payloads(agent, name) == [b"1", b"2", b"3"]


def test_opening_fires_nothing(mnt, agent, name):
    sh(f": > events/{name}", cwd=mnt.path)
    assert payloads(agent, name) == []
    sh(f"echo 1 > events/{name}; : > events/{name}; truncate -s 0 events/{name}", cwd=mnt.path)
    assert payloads(agent, name) == [b"1"]


def test_events_of_others_are_seen(mnt, agent, name):
    agent.client.event.fire(name, "theirs")
    wait_until(lambda: payloads(agent, name), "it is fired")
    assert shown(mnt / "events" / name) == [b"theirs"]


def test_filters(mnt, agent, name):
    agent.register("web", Tags=["v1"])
    document = {"Payload": "roll out", "NodeFilter": "^n", "ServiceFilter": "^web$", "TagFilter": "v1"}
    (mnt / "events" / f"{name}.json").write_text(json.dumps(document))
    (event,) = agent.get("/v1/event/list", name=name).json()
    assert {key: event[key] for key in document if key != "Payload"} == {
        key: value for key, value in document.items() if key != "Payload"}
    assert shown(mnt / "events" / name) == [b"roll out"]
    assert f"{name}.json" not in os.listdir(mnt / "events")


def test_what_is_refused(mnt, agent, name):
    done = sh(f"head -c 600 /dev/zero > events/{name}", cwd=mnt.path, check=False)
    assert done.returncode != 0 and "limit" in (mnt / ".consulfs/errors").read_text()
    for document in ('{"Bogus": "x"}', '{"Payload": 1}', "[]", '{"NodeFilter": "("}'):
        assert sh(f"echo '{document}' > events/{name}.json", cwd=mnt.path, check=False).returncode != 0, document
    assert payloads(agent, name) == []


def test_odd_names(mnt, agent):
    for event in ("a b", "deploy:v1", "50%off", "ü"):
        (mnt / "events" / event).write_text("x")
        assert payloads(agent, event) == [b"x"] and shown(mnt / "events" / event) == [b"x"]
