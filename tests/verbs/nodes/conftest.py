"""Two hosts with two rails: n0 has rxe0, rxe1 over a0, a1, and n1 has rxe2, rxe3 over b0, b1."""

import pytest
from nics import group

PLACES, LENGTH = 6, 192 << 10


class Hosts:
    """A party on each host, a and b, that know each other."""

    def __init__(self, world, devices=(("rxe0", "rxe1"), ("rxe2", "rxe3")), options="", **config):
        self.world = world
        self.processes = [world.process(host=host) for host in ("n0", "n1")]
        self.a, self.b = self.parties = [
            process.party(**group(names, options), **config)
            for process, names in zip(self.processes, devices, strict=True)
        ]
        self.a.know(self.b.address())
        self.b.know(self.a.address())

    def start_rounds(self):
        """a writes to b, and what comes is checked."""
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

    def carried(self):
        """Bytes by NIC of a."""
        return [nic.bytes_out for nic in self.a.stats()]

    def told(self, party, kind):
        """Waits for news of a NIC; its number."""
        news = []
        self.world.until(lambda: news.extend(party.nic_news(kind)) or news, kind)
        return news[-1]


@pytest.fixture
def hosts(world):
    return lambda *args, **config: Hosts(world, *args, **config)
