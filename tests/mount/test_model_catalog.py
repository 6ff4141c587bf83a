"""
services/, nodes/ and checks/ beside what Consul's API says (model/catalog.py), while both change at random: two mounts
of an agent, of which either may make the change that the other one shows. As in test_model.py, CONSULFS_MODEL=SEED,
SEED:STEPS or random:STEPS chooses other operations than the ones of each run.
"""

import random

import pytest

from harness.wait import wait_until
from model import catalog
from model.seeds import seed_and_steps

# Consul itself takes some time to bring an agent's services into the catalog.
SHOWN_WITHIN_S = 5


def compare(agents, mounts, seed, steps, token=None):
    seed, steps = seed_and_steps(seed, steps)
    rnd = random.Random(seed)

    def shows_truth(agent, mnt, path):
        """What is read while it changes may be of before or after."""
        before, truth, after = catalog.read(mnt, path), catalog.tree(agent, token).get(path), catalog.read(mnt, path)
        shown[:] = [after, truth]
        return truth in (before, after)

    shown = []
    for n in range(steps):
        number = rnd.randrange(len(mounts))
        print(f"{n}: mount {number}: {catalog.step(rnd, agents[number], mounts[number])}")
        for path in {catalog.some_path(rnd, rnd.choice(agents)) for _ in range(rnd.randrange(4))}:
            for number, (agent, mnt) in enumerate(zip(agents, mounts)):
                if rnd.random() < 0.3:
                    continue
                print(f"   mount {number}: look at {path}")
                try:
                    wait_until(lambda: shows_truth(agent, mnt, path), path, SHOWN_WITHIN_S)
                except AssertionError:
                    pytest.fail(f"mount {number}: {path} is {shown[0]}; Consul has {shown[1]}")


@pytest.fixture
def without_maintenance():
    """Agents that an operation may have left in it."""
    agents = []
    yield agents
    for agent in agents:
        agent.put("/v1/agent/maintenance", enable="false")


@pytest.mark.limit(36000)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_mounts(mount, agent, without_maintenance, seed):
    without_maintenance.append(agent)
    compare([agent, agent], [mount(agent), mount(agent)], seed, 80)


@pytest.mark.limit(36000)
@pytest.mark.parametrize("seed", [1, 2])
def test_who_may_not_see_all(mount, acl_agent, without_maintenance, seed):
    """What a token may not see is not there, whoever changes it."""
    without_maintenance.append(acl_agent)
    token = acl_agent.new_token(
        """
        service_prefix "" { policy = "write" } service "db" { policy = "deny" }
        node_prefix "" { policy = "write" } node "ext2" { policy = "deny" }
        agent_prefix "" { policy = "write" }
        """
    )
    mounts = [mount(acl_agent, env={"CONSUL_HTTP_TOKEN": token}) for _ in range(2)]
    compare([acl_agent, acl_agent], mounts, seed, 60, token)


@pytest.mark.limit(36000)
def test_two_agents_of_a_cluster(mount, cluster, without_maintenance):
    """What one registers the other one shows under another name, and may not remove."""
    agents = [cluster.servers[0], cluster.client]
    without_maintenance += agents
    compare(agents, [mount(agent) for agent in agents], 1, 60)
