"""
kv/ beside its specification, model/spec.py: random operations on both, which must agree after each.

Without a word it is the same operations each time, so that a failure comes from what was changed. CONSULFS_MODEL=SEED,
SEED:STEPS or random:STEPS chooses others; CONSULFS_MODEL_REPLAY=FILE runs what a failure printed.
"""

import os
from pathlib import Path

import pytest

from harness.proxy import Delay
from model import driver
from model.seeds import seed_and_steps


def compare(agents, mount, seed, steps, large=False):
    seed, steps = seed_and_steps(seed, steps)
    worlds = []

    def new_world():
        worlds.append(driver.World(agents, mount, large))
        return worlds[-1]

    replay = os.environ.get("CONSULFS_MODEL_REPLAY")
    world = new_world()
    try:
        if replay:
            operations = driver.parse(Path(replay).read_text())
            _, difference = driver.run(world, operations)
        else:
            operations, difference = driver.run_random(world, seed, steps)
    finally:
        world.end()
    if not difference:
        return
    print(f"after {len(operations)} operations: {difference}")
    if not replay or "CONSULFS_MODEL_SHRINK" in os.environ:
        operations = driver.shrink(new_world, operations, difference, int(os.environ.get("CONSULFS_MODEL_SHRINK", "120")))
    pytest.fail(f"{difference}\nseed {seed}; these operations fail:\n{driver.script(operations)}")


# What was once wrong, as the shrunk script said it
CASES = {
    "open as %value of a directory that became a file, which is exchanged": """
        [0, "external_set", "k/x", {"hex": "76"}, 0]
        [0, "external_set", "k", {"hex": "76"}, 0]
        [0, "external_set", "a/k/b", {"hex": "76"}, 0]
        [1, "open", 1, ["k", "%value"], true]
        [0, "external_delete", "k/x"]
        [1, "rename", ["a", "k"], ["k"], 2]
        [1, "handle_write", 1, 126, {"hex": "74776f"}]
    """,
    "open as a file that became the value of a directory, which is renamed": """
        [0, "external_set", "k", {"hex": "76"}, 0]
        [1, "open", 1, ["k"], false]
        [0, "external_set", "k/x", {"hex": "76"}, 0]
        [1, "rename", ["k", "%value"], ["other"], 0]
        [1, "handle_write", 1, 0, {"hex": "77"}]
    """,
    "open twice, before and after another mount moved the file away": """
        [0, "external_set", "k", {"hex": "76"}, 0]
        [1, "open", 1, ["k"], true]
        [0, "rename", ["k"], ["other"], 0]
        [1, "handle_write", 1, 0, {"hex": "7777"}]
        [1, "open", 2, ["k"], false]
        [1, "handle_write", 2, 1, {"hex": "78"}]
        [1, "handle_read", 1]
    """,
}


# The same, of stores that are too large for one watch
LARGE_CASES = {
    "a directory that was listed by its name, and is found in all there is": """
        [0, "external_set", "\u200b/a", {"hex": "76"}, 0]
        [1, "unlink", ["\u200b", "a"]]
    """,
}


@pytest.mark.parametrize(
    "script, large",
    [(script, False) for script in CASES.values()] + [(script, True) for script in LARGE_CASES.values()],
    ids=[*CASES, *LARGE_CASES],
)
def test_case(mount, agent, script, large):
    world = driver.World([agent, agent], mount, large)
    try:
        done, difference = driver.run(world, driver.parse(script))
    finally:
        world.end()
    assert difference is None, f"operation {done + 1}: {difference}"


@pytest.mark.limit(36000)
def test_one_mount(mount, agent):
    compare([agent], mount, 420, 700)


@pytest.mark.limit(36000)
def test_two_mounts(mount, agent):
    compare([agent, agent], mount, 400, 500)


@pytest.mark.limit(36000)
def test_two_mounts_of_a_large_store(mount, agent):
    compare([agent, agent], mount, 410, 80, large=True)


@pytest.mark.limit(36000)
def test_two_mounts_of_a_heavy_store(mount, agent, proxy):
    """For whose names the server takes so long that nobody asks for all of it."""
    with proxy.fault(Delay(0.02), path="/v1/kv/*", asking="keys"):
        compare([agent, agent], lambda _: mount(proxy), 420, 60)


@pytest.mark.limit(36000)
def test_two_agents_of_a_cluster(mount, cluster):
    compare([cluster.servers[0], cluster.client], mount, 11, 150)
