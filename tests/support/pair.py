"""A party on each of two hosts."""

from meeting import IMM

PLACES, LENGTH = 6, 192 << 10


class Pair:
    """Parties a and b that know each other."""

    def __init__(self, world, hosts, configs):
        """hosts: two of lab.py; configs: of their engines."""
        self.world = world
        self.processes = [world.process(host=host) for host in hosts]
        self.a, self.b = self.parties = [
            process.party(**config) for process, config in zip(self.processes, configs, strict=True)
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
                assert party.rounds()[1] == [], party.rounds()[1]
            return self.a.rounds()[0] >= enough

        self.world.until(done, f"{n} rounds")

    def write(self, writer, reader, n, length=1 << 20):
        """Submit n writes; returns what waits for them, and checks count and bytes."""
        source, _ = writer.alloc(length)
        writer.fill(source, self.parties.index(writer))
        sink, desc = reader.alloc(length)
        counted = reader.expect(IMM, n)
        ops = [writer.submit_write(length, IMM, source, bytes(desc)) for _ in range(n)]

        def end():
            for op in ops:
                self.world.fired(writer, op)
            self.world.fired(reader, counted)
            assert reader.value(IMM) == 0
            assert reader.read(sink) == writer.read(source)

        return end

    def carried(self):
        """Bytes by NIC of a."""
        return [nic.bytes_out for nic in self.a.stats()]

    def pairs(self):
        """NICs of a, and those of b that they are joined with."""
        return [(each.nic, each.peer_nic) for each in self.a.connections()]

    def told(self, party, kind):
        """Waits for news of a NIC; its number."""
        news = []
        self.world.until(lambda: news.extend(party.nic_news(kind)) or news, kind)
        return news[-1]

    def kill(self, which):
        """Kill the process of "a" or "b"; returns once the other has said whom it has lost."""
        dead = "ab".index(which)
        party = self.parties[1 - dead]
        name = party.info().incarnation[:8]
        self.processes[dead].kill()
        self.world.until(lambda: party.rounds()[1], "an error")
        self.world.until(lambda: party.info().status, "its death")
        kind, peer, why = party.news()[-1]
        assert (kind, peer) == ("peer_down", 0)
        assert f"peer {name}" in why
