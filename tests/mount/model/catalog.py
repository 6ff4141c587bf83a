"""
What services/, nodes/ and checks/ are to show, by what Consul's API answers to the same token; and operations that
change it: through the agent, in the catalog of nodes that have none, and through the mounts.

No two services have an instance of the same ID: Consul tells nobody that the one which had it has it no more.
"""

import json
import shlex
from urllib.parse import quote

from harness.programs import sh

SERVICES = {"web": ["w1", "w@2"], "db": ["d1", "d/2"], "50%off": ["o1"], "a/b": ["a1"]}
EXTERNAL = ["ext1", "ext2"]
STATES = ["passing", "warning", "critical"]
INSTANCES = [(service, instance) for service, instances in SERVICES.items() for instance in instances]


def name_of(consul):
    return consul.replace("/", "%2F")


def owned(name, node, agent):
    """The file of what is unique on its node only."""
    return name_of(name).replace("@", "%40") + ("" if node == agent.node else f"@{name_of(node)}") + ".json"


def state_of(entry):
    return max([c["Status"] for c in entry["Checks"]], default="passing", key=STATES.index)


def address_of(entry):
    return f"{entry['Service']['Address'] or entry['Node']['Address']}:{entry['Service']['Port']}"


def tree(agent, token=None):
    """Path: the sorted names in a directory, a file's sorted lines, or its document. What is not in it is not there."""

    def get(path):
        return agent.request("GET", path, token, params={"consistent": ""}).json()

    shown = {}
    services = {s: get(f"/v1/health/service/{quote(s, safe='')}") for s in get("/v1/catalog/services")}
    nodes = {node["Node"]: node for node in get("/v1/catalog/nodes")}
    checks = get("/v1/health/state/any")

    shown["services"] = [name_of(service) for service in services]
    for service, entries in services.items():
        of = f"services/{name_of(service)}"
        documents = {owned(e["Service"]["ID"], e["Node"]["Node"], agent): e for e in entries}
        shown[of] = [*documents, *STATES, "all", "tags"]
        if any(state_of(entry) == "passing" for entry in entries):
            shown[of] += ["fastest", "fastest.json"]
        shown.update({f"{of}/{file}": entry for file, entry in documents.items()})
        for state in STATES:
            shown[f"{of}/{state}"] = [address_of(entry) for entry in entries if state_of(entry) == state]
        shown[f"{of}/all"] = [address_of(entry) for entry in entries]
        shown[f"{of}/tags"] = list({tag for entry in entries for tag in entry["Service"]["Tags"] or []})
    shown["nodes"] = list(nodes)
    for node in nodes:
        here = (get(f"/v1/catalog/node/{node}") or {}).get("Services") or {}
        shown[f"nodes/{node}/address"] = [nodes[node]["Address"]]
        shown[f"nodes/{node}/services"] = [f"{name_of(instance)}.json" for instance in here]
        shown[f"nodes/{node}/checks"] = [f"{name_of(c['CheckID'])}.json" for c in checks if c["Node"] == node]
    for state in ["any", *STATES]:
        files = {owned(c["CheckID"], c["Node"], agent): c for c in checks if state in ("any", c["Status"])}
        shown[f"checks/{state}"] = list(files)
        shown.update({f"checks/{state}/{file}": check for file, check in files.items()})
    return {path: sorted(value) if isinstance(value, list) else value for path, value in shown.items()}


def read(mnt, path):
    """The same of a mount; None: it is not there."""
    file = mnt / path
    try:
        if file.is_dir():
            return sorted(p.name for p in file.iterdir())
        if path.endswith(".json"):
            return json.loads(file.read_text())
        return sorted(file.read_text().splitlines())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:  # it came just now
        return read(mnt, path)


def some_path(rnd, agent):
    """One that is there, or could be."""
    service, instance = rnd.choice(INSTANCES)
    node = rnd.choice([agent.node, *EXTERNAL])
    state = rnd.choice(STATES)
    return rnd.choice(
        [
            "services",
            "nodes",
            f"services/{name_of(service)}",
            *[f"services/{name_of(service)}/{view}" for view in (state, "all", "tags", owned(instance, node, agent))],
            *[f"nodes/{node}/{view}" for view in ("address", "services", "checks")],
            *["checks/any", f"checks/{state}", f"checks/{state}/{owned(f'c:{instance}', node, agent)}"],
        ]
    )


def step(rnd, agent, mnt):
    """Does something, which may fail, and says what."""
    service, instance = rnd.choice(INSTANCES)
    node, state = rnd.choice(EXTERNAL), rnd.choice(STATES)
    place, file = f"services/{name_of(service)}", owned(instance, agent.node, agent)
    external = f"nodes/{node}/services/{name_of(instance)}.json"
    what = {"Port": rnd.randrange(1, 9), "Tags": rnd.sample(["t1", "t2", "t3"], rnd.randrange(3))}
    if rnd.random() < 0.4:
        what["Address"] = f"10.0.0.{rnd.randrange(1, 4)}"
    check = {"CheckID": f"c:{instance}", "TTL": "1h", "Status": state}

    def api(path, body=None):
        answer = agent.request("PUT", path, data=None if body is None else json.dumps(body))
        return f"PUT {path} {json.dumps(body)}: {answer.status_code}"

    def shell(command):
        """Who empties a directory sees it a while longer: each has a process of its own."""
        return f"{command}: {sh(command, cwd=mnt.path, check=False).returncode}"

    def write(path, document):
        text = document if isinstance(document, str) else json.dumps(document)
        return f"echo {shlex.quote(text)} > {shlex.quote(path)}"

    def register_here():
        made = f"mkdir {shlex.quote(place)} 2> /dev/null"
        return shell(f"{made}; {write(f'{place}/{file}', {**what, 'Check': check})} || rmdir {shlex.quote(place)}")

    external_checks = [{"CheckID": f"c:{instance}", "Name": "c", "ServiceID": instance, "Status": state}]
    return rnd.choice(
        [
            lambda: api("/v1/agent/service/register", {**what, "Name": service, "ID": instance, "Checks": [check]}),
            lambda: api(f"/v1/agent/service/deregister/{quote(instance, safe='')}"),
            lambda: api(f"/v1/agent/check/update/{quote('c:' + instance, safe='')}", {"Status": state}),
            lambda: api(
                "/v1/catalog/register",
                {
                    "Node": node,
                    "Address": f"192.0.2.{rnd.randrange(1, 4)}",
                    "Service": {**what, "Service": service, "ID": instance},
                    "Checks": external_checks if rnd.random() < 0.6 else [],
                },
            ),
            lambda: api("/v1/catalog/register", {"Node": node, "Address": "192.0.2.9", "Check": {"Name": "ping"}}),
            lambda: api("/v1/catalog/deregister", {"Node": node}),
            lambda: api("/v1/catalog/deregister", {"Node": node, "ServiceID": instance}),
            register_here,
            lambda: shell(f"rm {shlex.quote(f'{place}/{file}')}"),
            lambda: shell(f"rm {shlex.quote(f'{place}/{owned(instance, node, agent)}')}"),
            lambda: shell(f"rm -r {shlex.quote(place)}"),
            lambda: shell(write(external, {**what, "Service": service})),
            lambda: shell(f"rm {shlex.quote(external)}"),
            lambda: shell(write(f"nodes/{node}.json", {"Address": "192.0.2.7"})),
            lambda: shell(f"rmdir nodes/{node}"),
            lambda: shell(write(f"nodes/{node}/checks/c:{name_of(instance)}.json", {"Name": "c", "Status": state})),
            lambda: shell(f"rm {shlex.quote(f'nodes/{node}/checks/c:{name_of(instance)}.json')}"),
            lambda: shell(write(f"agent/checks/c:{name_of(instance)}.status", state)),
            lambda: shell(write(f"agent/services/{name_of(instance)}.maintenance", rnd.choice(["on", "off"]))),
            lambda: shell(write("agent/maintenance", rnd.choice(["on", "off", "off"]))),
        ]
    )()
