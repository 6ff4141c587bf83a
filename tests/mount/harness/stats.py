"""What a mount counts: .consulfs/stats."""


def stats(mnt):
    lines = (mnt / ".consulfs/stats").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def stat_of(mnt, name):
    return stats(mnt)[name]
