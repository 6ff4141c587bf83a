"""Real Consul agents, each on a loopback address of its own and on ports that were free."""

import base64
import ipaddress
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import uuid
from pathlib import Path
from urllib.parse import quote

import consul
import requests

from harness.wait import wait_until

FETCH_CONSUL = Path(__file__).resolve().parents[2] / "fetch-consul"

# What pytest-xdist calls this process, gw0 and so on: each has addresses and ports that no other one chooses.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

# Below the kernel's ephemeral ports, so that no outgoing connection takes one while its agent is restarting.
PORTS = range(10000 + _WORKER, 30000, _WORKERS)

# 127.0.0.1 is left to the tests' own servers.
_addresses = map(str, itertools.islice(ipaddress.ip_network(f"127.{_WORKER}.0.0/16"), 2, None))
_numbers = itertools.count(1)


# What Consul itself makes.
ANONYMOUS = "00000000-0000-0000-0000-000000000002"
GLOBAL_MANAGEMENT = "00000000-0000-0000-0000-000000000001"


def acl_settings(token, default_policy="deny"):
    """For an agent whose management token this is. The agent itself needs one to keep its services in the catalog."""
    tokens = {"master": token, "agent": token}
    return {"enabled": True, "default_policy": default_policy, "enable_token_persistence": False, "tokens": tokens}


def consul_binary():
    return subprocess.run([FETCH_CONSUL], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def free_ports(host, count):
    ports = []
    while len(ports) < count:
        port = random.choice(PORTS)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind((host, port))
                udp.bind((host, port))  # Serf's ports are both
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class Agent:
    """
    A server agent by default. With `dev` it is ready in a fifth of a second but forgets everything when it stops;
    without, it takes two seconds and keeps its data. `config` is merged over what is needed to run here.
    """

    def __init__(self, binary, directory, node="n1", dev=True, token=None, **config):
        number = next(_numbers)
        self.node = node
        self.host = next(_addresses)
        self.token = token
        self.process = None
        self.directory = Path(directory) / f"agent-{number}-{node}"
        self.directory.mkdir(parents=True)
        self.port, self.server_port, self.lan_port, self.wan_port = free_ports(self.host, 4)

        self.settings = {
            "node_name": node,
            "bind_addr": self.host,
            "client_addr": self.host,
            "server": True,
            "disable_host_node_id": True,
            "disable_update_check": True,
            "log_level": "info",
            "performance": {"raft_multiplier": 1},
            "retry_interval": "100ms",
            "retry_interval_wan": "100ms",
            "ports": {
                "http": self.port,
                "https": -1,
                "dns": -1,
                "grpc": -1,
                "server": self.server_port,
                "serf_lan": self.lan_port,
                "serf_wan": self.wan_port,
            },
        }
        if not dev:
            self.settings["data_dir"] = str(self.directory / "data")
            if config.get("server", True):
                self.settings["bootstrap_expect"] = 1
        self.settings.update(config)
        self._command = [binary, "agent", *(["-dev"] if dev else []), f"-config-file={self.directory}/config.json"]

    @property
    def http(self):
        return f"{self.host}:{self.port}"

    @property
    def lan(self):
        return f"{self.host}:{self.lan_port}"

    @property
    def wan(self):
        return f"{self.host}:{self.wan_port}"

    @property
    def log(self):
        return self.directory / "log"

    # Its life

    def start(self):
        """Starts it with what `settings` are now."""
        (self.directory / "config.json").write_text(json.dumps(self.settings, indent=2))
        with self.log.open("ab") as log:
            # The kernel kills it when the tests' process dies, however that happens.
            command = ["setpriv", "--pdeathsig", "KILL", *self._command]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def wait_ready(self, timeout=20):
        """Until there is a leader and the agent itself is in the catalog, which is the leader's first deed."""
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"consul ended by itself:\n{self.log.read_text()}")
            try:
                node = self.get(f"/v1/catalog/node/{self.node}")
            except requests.ConnectionError:
                return False
            return node.status_code == 200 and node.json()

        wait_until(ready, f"consul {self.node} at {self.http} has a leader and its node", timeout)
        return self

    def pause(self):
        """Stops the process as it is: connections stay open, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """Ends it as a crash would. Nothing is lost by that which a test could want, and SIGTERM takes seconds."""
        if self.process:
            self.process.kill()
            self.process.wait()

    # Its HTTP API

    @property
    def client(self):
        """python-consul, a client that shares no code with what is tested."""
        return consul.Consul(host=self.host, port=self.port, token=self.token)

    def request(self, method, path, token=None, **arguments):
        token = token or self.token
        headers = {"X-Consul-Token": token} if token else {}
        return requests.request(
            method, f"http://{self.http}{path}", headers=headers, timeout=30, allow_redirects=False, **arguments
        )

    def get(self, path, **params):
        return self.request("GET", path, params=params)

    def put(self, path, body=None, **params):
        """A body that is not bytes goes as JSON. An answer that is not a success fails the test."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        answer = self.request("PUT", path, data=data, params=params)
        assert answer.ok, f"PUT {path}: {answer.status_code} {answer.text}"
        return answer

    def delete(self, path, **params):
        return self.request("DELETE", path, params=params)

    # Keys, also those whose path Consul's mux would answer with a redirect (`a//b`, `..`)

    def kv_set(self, key, value):
        value = base64.b64encode(value).decode()
        self.put("/v1/txn", [{"KV": {"Verb": "set", "Key": key, "Value": value}}])

    def kv_set_all(self, keys, value=""):
        """The same value for many keys, a transaction each 64."""
        keys = list(keys)
        for start in range(0, len(keys), 64):
            self.put("/v1/txn", [{"KV": {"Verb": "set", "Key": key, "Value": value}} for key in keys[start : start + 64]])

    def kv_get(self, key):
        """The value; None where there is no such key."""
        entry = self.kv_entry(key)
        return None if entry is None else base64.b64decode(entry["Value"] or "")

    def kv_entry(self, key):
        answer = self.request("PUT", "/v1/txn", data=json.dumps([{"KV": {"Verb": "get", "Key": key}}]))
        return answer.json()["Results"][0]["KV"] if answer.ok else None

    def kv_keys(self):
        return self.get("/v1/kv/", keys="").json()

    # Services

    def register(self, service, instance=None, status="passing", **more):
        """Registers an instance, with a TTL check that has this status; waits until the catalog has it so."""
        instance = instance or service
        check = {"CheckID": f"ttl:{instance}", "TTL": "1h", "Status": status}
        checks = [check] + more.pop("Checks", [])
        self.put("/v1/agent/service/register", {"Name": service, "ID": instance, "Checks": checks, **more})
        self._wait_status(service, f"ttl:{instance}", status)

    def set_status(self, service, instance, status):
        """Sets the TTL check that `register` made; waits until the catalog has it."""
        self.put(f"/v1/agent/check/update/{quote(f'ttl:{instance}', safe='')}", {"Status": status})
        self._wait_status(service, f"ttl:{instance}", status)

    def instances(self, service):
        """The IDs in the catalog."""
        entries = self.get(f"/v1/health/service/{quote(service, safe='')}").json()
        return sorted(entry["Service"]["ID"] for entry in entries)

    def _wait_status(self, service, check_id, status):
        def has_it():
            entries = self.get(f"/v1/health/service/{quote(service, safe='')}").json()
            checks = [check for entry in entries for check in entry["Checks"]]
            return any(check["CheckID"] == check_id and check["Status"] == status for check in checks)

        wait_until(has_it, f"the catalog has {check_id} {status}")

    # ACLs, where they are on and our token is a management one

    def new_policy(self, rules, name=None):
        """A policy's name. The rules are HCL, or JSON as a dictionary."""
        name = name or f"policy-{uuid.uuid4()}"
        rules = rules if isinstance(rules, str) else json.dumps(rules)
        self.put("/v1/acl/policy", {"Name": name, "Rules": rules})
        return name

    def new_token(self, rules=None, **more):
        """The SecretID of a new token with these rules: agent.new_token('key_prefix "a/" { policy = "read" }')."""
        policies = more.pop("Policies", [])
        if rules is not None:
            policies = policies + [{"Name": self.new_policy(rules)}]
        return self.put("/v1/acl/token", {"Policies": policies, **more}).json()["SecretID"]

    def _wipe_acl(self):
        # What a method or a role is referred to by goes with it.
        for method in self.get("/v1/acl/auth-methods").json():
            self.delete(f"/v1/acl/auth-method/{quote(method['Name'], safe='')}")
        for token in self.get("/v1/acl/tokens").json():
            own = self.get(f"/v1/acl/token/{token['AccessorID']}").json()["SecretID"] == self.token
            if token["AccessorID"] != ANONYMOUS and not own:
                self.delete(f"/v1/acl/token/{token['AccessorID']}")
        anonymous = self.get(f"/v1/acl/token/{ANONYMOUS}").json()
        if anonymous.get("Policies") or anonymous.get("Roles"):
            self.put(f"/v1/acl/token/{ANONYMOUS}", {"Policies": [], "Roles": []})
        for role in self.get("/v1/acl/roles").json():
            self.delete(f"/v1/acl/role/{role['ID']}")
        for policy in self.get("/v1/acl/policies").json():
            if policy["ID"] != GLOBAL_MANAGEMENT:
                self.delete(f"/v1/acl/policy/{policy['ID']}")

    # Clearing

    def wipe(self):
        """Leaves the agent as it was when it had started."""
        self.clear()
        self.wait_empty()

    def clear(self, keep_nodes=()):
        """`keep_nodes` are those of other agents."""
        if "acl" in self.settings:
            self._wipe_acl()
        self.delete("/v1/kv/", recurse="")
        for session in self.get("/v1/session/list").json():
            self.put(f"/v1/session/destroy/{session['ID']}")
        for service in self.get("/v1/agent/services").json():
            self.put(f"/v1/agent/service/deregister/{quote(service)}")
        for check in self.get("/v1/agent/checks").json():
            self.put(f"/v1/agent/check/deregister/{quote(check)}")
        for node in self.get("/v1/catalog/nodes").json():
            if node["Node"] != self.node and node["Node"] not in keep_nodes:
                self.put("/v1/catalog/deregister", {"Node": node["Node"]})

    def wait_empty(self):
        # The agent takes its services off the catalog behind the request.
        wait_until(lambda: self.get("/v1/catalog/services").json() == {"consul": []}, "the catalog is empty again")

