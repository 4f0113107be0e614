"""Engines over NICs of the stand-in for EFA, which go down and come up as tests say.

See native/tests/fake_efa/fake_efa.h.
"""

from __future__ import annotations

from pgctl.engine import GroupConfig, NicConfig

N_NICS = 8
PLACES, LENGTH = 6, 192 << 10


class Fabric:
    """The stand-in: a libfabric, and whether its NICs are up."""

    def __init__(self, library, sysfs, setenv):
        self.library, self.sysfs, self._setenv = library, sysfs, setenv

    def manners(self, text):
        """Of the engines that are made from now on."""
        self._setenv("FAKE_EFA", text)

    def group(self, nics, sysfs=None, options=""):
        """These NICs, as an argument of TransferEngine; sysfs: where it looks, if elsewhere."""
        text = f"library={self.library},sysfs={sysfs or self.sysfs.path}{options}"
        some = [NicConfig(transport="ofi", device=f"fake_efa_{nic}", options=text) for nic in nics]
        return {"groups": [GroupConfig(nics=some, progress="inline")]}


class Sides:
    """Two parties that know each other; a has the first NICs of the fabric, b those from 4 on."""

    def __init__(self, world, fabric, nics=(2, 2), place="one process", *, sysfs=None, **config):
        self.world, self.fabric = world, fabric
        self.process = None if place == "one process" else world.process()
        self.nics = range(nics[0]), range(4, 4 + nics[1])
        self.a = world.party(**fabric.group(self.nics[0], sysfs), **config)
        self.b = (self.process or world).party(**fabric.group(self.nics[1], sysfs), **config)
        self.parties = self.a, self.b
        self.a.know(self.b.address())
        self.b.know(self.a.address())

    def start_rounds(self):
        """a writes to b, what comes is checked, and b answers by immediates without payload."""
        region, desc = self.b.alloc(PLACES * LENGTH)
        self.b.read_rounds(region, PLACES)
        self.a.start_rounds(bytes(desc), PLACES, LENGTH)

    def more_rounds(self, n):
        """Returns once there are so many more at each place."""
        enough = self.a.rounds()[0] + n

        def done():
            for party in self.parties:
                assert party.rounds()[1] == []
            return self.a.rounds()[0] >= enough

        self.world.until(done, f"{n} rounds")

    def told(self, side, kind):
        """Waits for news of a NIC of a side; which it is."""
        news = []
        party = self.parties[side]
        self.world.until(lambda: news.extend(party.nic_news(kind)) or news, kind)
        assert len(news) == 1
        return news[0]

    def pairs(self):
        """NICs of a and b that are joined; what is kept in reserve is not."""
        return {(each.nic, each.peer_nic) for each in self.a.connections() if each.weight}

    def carries(self, side):
        """Returns once every NIC of a side has sent more."""
        party = self.parties[side]
        before = [nic.posted for nic in party.stats()]

        def all_have():
            now = [nic.posted for nic in party.stats()]
            return all(n > b for n, b in zip(now, before, strict=True))

        self.world.until(all_have, "traffic over every NIC")
