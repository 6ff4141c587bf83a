"""Which random operations a model's test runs: the same each time, unless CONSULFS_MODEL says otherwise."""

import os
import random

from harness.programs import sanitized


def seed_and_steps(seed, steps):
    """CONSULFS_MODEL is SEED, SEED:STEPS or random:STEPS; without, these, and fewer steps of a slow binary."""
    chosen, _, count = os.environ.get("CONSULFS_MODEL", "").partition(":")
    seed = random.randrange(1 << 31) if chosen == "random" else int(chosen or seed)
    steps = int(count or (steps // 5 if sanitized() else steps))
    print(f"CONSULFS_MODEL={seed}:{steps}")
    return seed, steps
