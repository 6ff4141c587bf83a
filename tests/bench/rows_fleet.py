"""Fifty mounts."""


def rows_fleet(world):
    """50 mounts on 5 client agents of 3 servers"""
    yield from ()
