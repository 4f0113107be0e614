"""Operations, counters' peers and events for event loops: what TransferEngine can be awaited for.

asyncio is imported when something is awaited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from pgctl.engine.events import Event, Events
from pgctl.engine.memory import MemoryRegion
from pgctl.engine.peer import Peer, PeerGroup
from pgctl.engine.submit import Submitter
from pgctl.engine.work import (
    Barrier,
    Destination,
    Fence,
    PagedWrites,
    Pages,
    Scatter,
    Send,
    Slice,
    Source,
    Spread,
    Work,
    Write,
)

if TYPE_CHECKING:
    from pgctl.engine.engine import TransferEngine


class Awaited(Submitter):
    """The part of a TransferEngine that is for asyncio.

    Each of these submits, waits for room as long as there is none (at most op_timeout), and returns
    when the operation has ended well; else it raises as Op.wait does. Any number of tasks and loops
    may wait at once, beside threads that wait without a loop. Cancelling the task cancels the
    operation; what that borrows stays borrowed until it has ended.
    """

    async def write(
        self,
        length: int,
        imm: int | None,
        src: Source,
        dst: Destination,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        """See submit_single_write."""
        await self.run(Write(length, imm, src, dst, remote_visible=remote_visible, limit=limit))

    async def paged(
        self,
        page_len: int,
        imm: int | None,
        src_pages: Pages,
        dst_pages: Pages,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        """See submit_paged_writes."""
        await self.run(
            PagedWrites(
                page_len, imm, src_pages, dst_pages, remote_visible=remote_visible, limit=limit
            )
        )

    async def scatter(
        self,
        imm: int | None,
        src: MemoryRegion,
        dsts: Sequence[Slice],
        spread: Spread = "bytes",
        *,
        group: PeerGroup | None = None,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        """See submit_scatter. The `statuses` of the error say which destinations failed."""
        await self.run(
            Scatter(imm, src, dsts, spread, group=group, remote_visible=remote_visible, limit=limit)
        )

    async def barrier(
        self,
        imm: int,
        peers: Sequence[Peer] | PeerGroup,
        *,
        remote_visible: bool = False,
        limit: float | None = None,
    ) -> None:
        """See submit_barrier. The `statuses` of the error say which peers failed."""
        await self.run(Barrier(imm, peers, remote_visible=remote_visible, limit=limit))

    async def send(
        self, peer: Peer, data: Any, *, remote_visible: bool = False, limit: float | None = None
    ) -> None:
        """See submit_send."""
        await self.run(Send(peer, data, remote_visible=remote_visible, limit=limit))

    async def fence_peer(self, peer: Peer, *, limit: float | None = None) -> None:
        """See fence."""
        await self.run(Fence(peer, limit=limit))

    async def run(self, work: Work) -> None:
        """Submit what was prepared, and wait for its end."""
        from pgctl.engine import aio

        await (await aio.submitted(self, work))

    async def received(self, group: int = 0) -> tuple[Peer, bytes]:
        """`recv` in an event loop."""
        from pgctl.engine import aio

        event = await aio.taken(self._whole(), self._group(group), Events.pick_message)
        return event.message()

    async def events(self, group: int = 0) -> AsyncIterator[Event]:
        """Every event, as it comes; a loop over it ends with PgShutdown when the engine is closed.

        Each event goes to one of those who take some: this, `received`, and the calls for threads.
        """
        from pgctl.engine import aio

        mine = self._group(group)
        while True:
            yield await aio.taken(self._whole(), mine, Events.pick_first)

    def _whole(self) -> TransferEngine:
        return cast("TransferEngine", self)
