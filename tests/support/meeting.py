"""Two parties that know each other."""

from dataclasses import replace

from parties import pattern

from pgctl.engine import GroupConfig, NicConfig

IMM = 0x2ABCDEF1


class Meeting:
    """Two parties that know each other: `a` is here, `b` perhaps elsewhere."""

    def __init__(
        self,
        world,
        transport,
        place="one process",
        *,
        nics=(1, 1),
        progress="inline",
        rail_only=False,
        env=None,
        **config,
    ):
        """nics: of each party, their number or NicConfigs without a transport."""
        self.world = world
        self.transport = transport
        self.caps = transport.caps
        self.process = None if place == "one process" else world.process(env)

        def group(some):
            some = [NicConfig()] * some if isinstance(some, int) else some
            some = [replace(nic, transport=transport.name) for nic in some]
            return [GroupConfig(nics=some, progress=progress, rail_only=rail_only)]

        self.a = world.party(groups=group(nics[0]), **config)
        self.b = (self.process or world).party(groups=group(nics[1]), **config)
        self.a.know(self.b.address())
        self.b.know(self.a.address())
        self.peer = self.a.peers[0]

    def source(self, length, seed=1, kind="engine"):
        number, _ = self.a.alloc(length, kind)
        region = self.a.regions[number]
        region.numpy()[:] = pattern(length, seed)
        return region

    def sink(self, length, kind="engine"):
        number, desc = self.b.alloc(length, kind)
        return number, self.a.engine.import_mr(desc)

    def counted(self, n, imm=IMM):
        """Make progress until exactly n writes have been counted."""
        self.world.fired(self.b, self.b.expect(imm, n))
        assert self.b.value(imm) == 0

    def receive(self, n):
        """Make progress until there are n messages or more; return them."""
        arrived = []
        self.world.until(
            lambda: arrived.extend(self.b.messages()) or len(arrived) >= n, "a message"
        )
        return arrived

    def check(self, sink, expected):
        assert self.b.read(sink) == bytes(expected)
