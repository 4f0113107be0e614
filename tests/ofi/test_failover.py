"""NICs that go down and come back under the whole engine, over the stand-in for EFA.

What was in flight then has one of four fates, and who sent it hears of it late or not at all.
"""

import pytest
from fake_efa import Sides

FATES = "lost", "placed", "counted", "late"
DEADS = "silent", "failed"
SHAPES = (1, 2), (2, 1), (2, 2), (1, 4), (3, 3), (4, 2), (2, 3), (4, 4)


def manners(fate, dead, seed):
    return f"fate={fate},dead={dead},seed={seed}"


@pytest.mark.parametrize("dead", DEADS)
@pytest.mark.parametrize("fate", FATES)
def test_each_nic_goes_down_and_comes_back(world, fabric, place, fate, dead):
    seed = FATES.index(fate) * 4 + DEADS.index(dead) * 2 + (place == "one process")
    fabric.manners(manners(fate, dead, seed))
    s = Sides(world, fabric, SHAPES[seed % len(SHAPES)], place)
    s.start_rounds()
    s.more_rounds(2)
    whole = s.pairs()
    for side in 0, 1:
        for i, nic in enumerate(s.nics[side]):
            if len(s.nics[side]) == 1:
                continue
            fabric.sysfs.down(nic)
            assert s.told(side, "nic_down") == i
            s.more_rounds(3)
            assert not any(pair[side] == i for pair in s.pairs())
            fabric.sysfs.up(nic)
            assert s.told(side, "nic_up") == i
            world.until(lambda: s.pairs() == whole, "the connections of before")
            s.carries(side)
    s.more_rounds(2)
