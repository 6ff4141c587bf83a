"""Agents that know each other: three servers and a client, two datacenters, a server and its client."""

import requests

from harness.agent import Agent
from harness.wait import wait_until


class Group:
    """`agents` are started, made ready, healed, emptied and killed together."""

    def __init__(self, agents):
        self.agents = agents

    def start(self):
        for agent in self.agents:
            agent.start()
        return self.wait_ready()

    def wait_ready(self):
        for agent in self.agents:
            agent.wait_ready(60)
        return self

    def kill(self):
        for agent in self.agents:
            agent.kill()

    def wipe(self):
        for agent in self.agents:
            agent.clear(keep_nodes={other.node for other in self.agents})
        for agent in self.agents:
            agent.wait_empty()

    def heal(self):
        """What a test has killed or paused runs again."""
        for agent in self.agents:
            if agent.running:
                agent.resume()
            else:
                agent.start()
        return self.wait_ready()


class Cluster(Group):
    """Three servers, which keep their data when they are killed, and a client agent of theirs."""

    def __init__(self, consul, directory):
        self.servers = []
        for n in (1, 2, 3):
            server = Agent(
                consul,
                directory,
                node=f"s{n}",
                dev=False,
                bootstrap_expect=3,
                retry_join=[other.lan for other in self.servers],
                # A server that was killed stays a voter: the next test has it back at once.
                autopilot={"cleanup_dead_servers": False},
            )
            self.servers.append(server)
        joined = [server.lan for server in self.servers]
        self.client = Agent(consul, directory, node="c1", dev=False, server=False, retry_join=joined)
        super().__init__([*self.servers, self.client])

    def wait_ready(self):
        """Until each knows the leader, the leader has three peers that it hears, and all are in the catalog."""
        super().wait_ready()
        wait_until(lambda: all(self._knows_all(agent) for agent in self.agents), "all know the leader and its peers", 60)
        wait_until(self._healthy, "the leader hears its followers", 60)
        return self

    @property
    def leader(self):
        """The server that leads; waits for one."""
        return wait_until(self._find_leader, "a server leads", 30)

    def kill_leader(self):
        """Returns the one that it was."""
        leader = self.leader
        leader.kill()
        return leader

    def _find_leader(self):
        for server in self.servers:
            address = _answer(server, "/v1/status/leader")
            found = [s for s in self.servers if address == f"{s.host}:{s.server_port}"]
            # One that was killed is still named until the others have noticed.
            if found and found[0].running:
                return found[0]
        return None

    @staticmethod
    def _knows_all(agent):
        return _answer(agent, "/v1/status/leader") and len(_answer(agent, "/v1/status/peers") or []) == 3

    def _healthy(self):
        return (_answer(self.leader, "/v1/operator/autopilot/health") or {}).get("FailureTolerance") == 1


class TwoDatacenters(Group):
    """Two servers, `near` (dc1) and `far` (dc2), joined over the WAN."""

    def __init__(self, consul, directory):
        self.near = Agent(consul, directory, node="n1", dev=False)
        self.far = Agent(consul, directory, node="n2", dev=False, datacenter="dc2", retry_join_wan=[self.near.wan])
        super().__init__([self.near, self.far])

    def wait_ready(self):
        super().wait_ready()
        return self.wait_joined()

    def wait_joined(self):
        wait_until(lambda: _answer(self.near, "/v1/catalog/datacenters") == ["dc1", "dc2"], "both are known", 60)
        wait_until(lambda: _answer(self.near, "/v1/catalog/nodes?dc=dc2"), "the near asks the far", 60)
        wait_until(lambda: _answer(self.far, "/v1/catalog/nodes?dc=dc1"), "the far asks the near", 60)
        return self


class ServerAndClient(Group):
    """One server, and a client agent of it."""

    def __init__(self, consul, directory):
        self.server = Agent(consul, directory, node="s1")
        self.client = Agent(consul, directory, node="c1", dev=False, server=False, retry_join=[self.server.lan])
        super().__init__([self.server, self.client])


def _answer(agent, path):
    """What it answers, decoded; None while it does not."""
    try:
        answer = agent.get(path)
    except requests.RequestException:
        return None
    return answer.json() if answer.ok else None
