"""The Python face of the engine: its names, errors, addresses and configuration."""

import errno
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

import pgctl
from pgctl import errors
from pgctl._ffi import ffi
from pgctl.engine import (
    Caps,
    FabricFacts,
    GroupConfig,
    MrDesc,
    NetAddr,
    NicConfig,
    NicFacts,
    PgError,
    PgInvalid,
    PgProtocol,
    PgTimeout,
    PgUnsupported,
    TransferEngine,
    check,
    config,
    fabric_facts,
    nic_facts,
    transports,
)
from pgctl.engine.config import impairment_of

IMM = 5


# ---- The package


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, pgctl; heavy = {'numpy', 'cffi', '_cffi_backend', 'pgctl.engine', 'mpi4py'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "pgctl.TransferEngine; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_package_re_exports_the_engine():
    assert pgctl.TransferEngine is TransferEngine
    assert pgctl.PgError is errors.PgError
    assert pgctl.__version__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pgctl.nonsense  # noqa: B018


# ---- Errors


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        (errno.ETIMEDOUT, errors.PgTimeout, TimeoutError),
        (errno.EAGAIN, errors.PgAgain, BlockingIOError),
        (errno.EINVAL, errors.PgInvalid, ValueError),
        (errno.ERANGE, errors.PgInvalid, ValueError),
        (errno.EMSGSIZE, errors.PgInvalid, ValueError),
        (errno.ENOENT, errors.PgInvalid, ValueError),
        (errno.ESTALE, errors.PgStale, Exception),
        (errno.EBUSY, errors.PgBusy, Exception),
        (errno.EHOSTDOWN, errors.PgPeerDown, ConnectionError),
        (errno.EPROTO, errors.PgProtocol, ValueError),
        (errno.ECANCELED, errors.PgCanceled, Exception),
        (errno.ESHUTDOWN, errors.PgShutdown, Exception),
        (errno.ENOTSUP, errors.PgUnsupported, NotImplementedError),
        (errno.ENODEV, errors.PgUnsupported, NotImplementedError),
        (errno.ENOMEM, errors.PgNoMemory, MemoryError),
        (errno.ENOSPC, errors.PgError, Exception),
    ],
)
def test_an_error_is_also_the_builtin_one(code, kind, builtin):
    error = errors.error_of(-code, "what happened")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert isinstance(error, PgError)
    assert (str(error), error.code) == ("what happened", code)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (kind, "what happened", code)


def test_check_passes_on_what_is_no_error():
    assert check(0) == 0
    assert check(7) == 7
    with pytest.raises(PgTimeout, match=os.strerror(errno.ETIMEDOUT)):
        check(-errno.ETIMEDOUT)


# ---- Addresses


@pytest.mark.parametrize("kind", [NetAddr, MrDesc])
def test_addresses_are_values(kind):
    one, same, other = kind(b"abc"), kind(b"abc"), kind(b"abd")
    assert bytes(one) == b"abc"
    assert one == same != other
    assert len({one, same, other}) == 2
    again = pickle.loads(pickle.dumps(one))
    assert (type(again), again) == (kind, one)
    assert repr(one) == f"<{kind.__name__}, 3 bytes>"
    with pytest.raises(AttributeError):
        one.anything = 1


def test_an_address_of_one_kind_is_not_one_of_the_other(loop):
    engine, region, _ = loop
    with pytest.raises(PgProtocol, match="not a pgctl address"):
        engine.add_peer(region.desc)
    with pytest.raises(PgProtocol, match="not a pgctl descriptor"):
        engine.import_mr(engine.main_address())


def test_the_same_address_is_the_same_peer(engine):
    address = engine.main_address()
    assert engine.add_peer(address) == engine.add_peer(bytes(address))
    assert len({engine.add_peer(address), engine.add_peer(address)}) == 1
    assert engine.add_peer(address) != address


# ---- Configuration


@pytest.mark.parametrize("nics", [-1, 0, 5, 10**9])
def test_a_group_has_1_to_4_nics(nics):
    with pytest.raises(PgInvalid, match=f"{nics} NICs in a group; 1 to 4"):
        TransferEngine(nics=nics)


@pytest.mark.parametrize("nics", [0, 5])
def test_the_engine_says_so_too(nics):
    with pytest.raises(PgInvalid, match=f"{nics} NICs in a group; 1 to 4"):
        TransferEngine([GroupConfig(nics=[NicConfig()] * nics)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transport": "nonsense"}, "no transport is named nonsense"),
        ({"transport": "x" * 16}, "is not a name of up to 15 bytes"),
        ({"transport": "shm\0"}, "is not a name of up to 15 bytes"),
        ({"progress": "sometimes"}, "progress 'sometimes' is not auto, inline or worker"),
        ({"max_ops": 3}, "max_ops 3 is not a power of two"),
        ({"max_ops": -1}, "max_ops -1 is out of range"),
        ({"max_ops": 1 << 32}, "max_ops 4294967296 is out of range"),
        ({"op_timeout": 0}, "op_timeout_ns is 0"),
        ({"op_timeout": -1}, "op_timeout -1 is not a number of seconds"),
        ({"op_timeout": float("inf")}, "op_timeout inf is not a number of seconds"),
        ({"spin": float("nan")}, "spin nan is not a number of seconds"),
        ({"op_limit": -1}, "op_limit -1 is not a number of seconds"),
        ({"heartbeat": 0}, "heartbeat_ns is 0"),
        ({"heartbeat": 1, "silent": 1.5}, "silent_ns 1500000000 is less than two heartbeats"),
        ({"dead": 0}, "dead_ns 0; at least a millisecond"),
        ({"control": "x" * 64}, "is not a name of up to 63 bytes"),
        ({"groups": []}, "0 groups; 1 to"),
        ({"groups": [GroupConfig()], "nics": 2}, "with groups, say nics"),
    ],
)
def test_a_wrong_configuration_is_refused(config, message):
    with pytest.raises(PgError, match=message):
        TransferEngine(**config)


def test_the_environment_configures_and_arguments_override(monkeypatch):
    monkeypatch.setenv("PGCTL_MAX_OPS", "16")
    with TransferEngine() as engine:
        assert engine.limits().max_ops == 16
    with TransferEngine(max_ops=32) as engine:
        assert engine.limits().max_ops == 32
    for name, variable, wrong in (
        ("heartbeat", "PGCTL_HEARTBEAT_MS", "0"),
        ("dead", "PGCTL_DEAD_MS", "0"),
        ("op_timeout", "PGCTL_OP_TIMEOUT_MS", "0"),
    ):
        with monkeypatch.context() as env:
            env.setenv(variable, wrong)
            with pytest.raises(PgInvalid, match=f"{name}_ns"):
                TransferEngine()
            TransferEngine(**{name: 1}).close()
    monkeypatch.setenv("PGCTL_MAX_OPS", "many")
    with pytest.raises(PgInvalid, match="PGCTL_MAX_OPS=many is not a number"):
        TransferEngine()


def impaired(impair, **config):
    return GroupConfig(nics=[NicConfig()] * 2, impair=impair, **config)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (impaired("reorder=1"), '"reorder=1": expected reorder=N, 2 to 128'),
        (impaired("kill=nic2@1s"), "names nic2, and there are 2 NICs"),
        (impaired("depth=1,rank=0"), "is for rank 0, and an engine has none"),
        (impaired("x" * 256), "impair .* is not a name of up to 255 bytes"),
        (impaired("none", impair_seed=-1), "impair_seed -1 is out of range"),
    ],
)
def test_a_wrong_impairment_is_refused(group, message):
    with pytest.raises(PgInvalid, match=message):
        TransferEngine([group])


def test_an_impaired_group_promises_less(monkeypatch):
    monkeypatch.delenv("PGCTL_IMPAIR", raising=False)

    def caps(impair):
        with TransferEngine([impaired(impair)]) as engine:
            return engine.limits().caps

    plain = caps("")
    assert caps("none") == plain
    assert caps("reorder=4,depth=3") == replace(
        plain,
        max_outstanding=3,
        ordered=False,
        can_fence=True,
        sync_post=False,
    )
    monkeypatch.setenv("PGCTL_IMPAIR", "depth=5")
    assert caps("").max_outstanding == 5
    assert caps("none") == plain
    monkeypatch.setenv("PGCTL_IMPAIR_SEED", "many")
    assert caps("none") == plain
    with pytest.raises(PgInvalid, match="PGCTL_IMPAIR_SEED=many is not a number"):
        caps("")
    monkeypatch.setenv("PGCTL_IMPAIR", "depths=5")
    monkeypatch.delenv("PGCTL_IMPAIR_SEED")
    with pytest.raises(PgInvalid, match='"depths=5": expected'):
        caps("")


def test_an_impairment_may_be_for_one_rank():
    assert [impairment_of(rank, "") for rank in (0, 1)] == ["", ""]
    assert [impairment_of(rank, "depth=3") for rank in (0, 1)] == ["depth=3", "depth=3"]
    assert [impairment_of(rank, "rank=1,depth=3") for rank in (0, 1)] == ["none", "depth=3"]
    assert [impairment_of(rank, "rank=1") for rank in (0, 1)] == ["none", "none"]
    for breaks in ("kill=nic0@1s", "fail=0.1"):
        both = [impairment_of(rank, f"{breaks},rank=0") for rank in (0, 1)]
        assert both == [breaks, "delay=0ns"]
    assert impairment_of(1, "kill=rank@1s,rank=0") == "none"
    with pytest.raises(PgInvalid, match='"depth=0"'):
        impairment_of(1, "rank=0,depth=0")


def test_the_environment_limits_operations_and_an_argument_says_otherwise(monkeypatch):
    monkeypatch.setenv("PGCTL_OP_LIMIT_MS", "20")
    with TransferEngine(progress="inline") as silent:
        for config, status in (({}, -errno.ETIMEDOUT), ({"op_limit": 60}, None)):
            with TransferEngine(progress="inline", **config) as engine:
                op = engine.submit_barrier(IMM, [engine.add_peer(silent.main_address())])
                with pytest.raises(PgTimeout):
                    op.wait(0.2)
                assert op.status == status


def test_limits_have_what_the_transport_promises(engine):
    limits = engine.limits()
    caps = {transport.name: transport.caps for transport in transports()}[limits.transport]
    assert limits.caps == caps
    assert {field.name for field in fields(Caps)} == set(dir(ffi.new("struct pg_caps *")))


def test_several_groups_are_apart():
    groups = [GroupConfig(progress="inline"), GroupConfig(nics=[NicConfig()] * 2)]
    with TransferEngine(groups) as engine:
        assert [engine.limits(i).n_domains for i in (0, 1)] == [1, 2]
        assert [len(engine.stats(i)) for i in (0, 1)] == [1, 2]
        assert engine.main_address(0) != engine.main_address(1)
        peers = [engine.add_peer(engine.main_address(1 - i), group=i) for i in (0, 1)]
        src, dst = engine.alloc_mr(8, group=0), engine.alloc_mr(8, group=1)
        src.numpy()[:] = 7
        with pytest.raises(PgInvalid, match="another engine or group"):
            engine.submit_single_write(8, IMM, src, engine.import_mr(src.desc, group=1))
        op = engine.submit_single_write(8, IMM, src, dst.desc)
        while not op.done():
            engine.progress()
        engine.counter(IMM, group=1).wait(1, 30)
        assert dst.numpy().tobytes() == b"\7" * 8
        assert len(set(peers)) == 2
        for bad in (-1, 2):
            with pytest.raises(PgInvalid, match=f"group {bad} of 2"):
                engine.alloc_mr(8, group=bad)


def test_every_transport_says_what_it_is():
    for transport in transports():
        assert transport.name
        assert (transport.caps is None) == bool(transport.reason)


@pytest.mark.parametrize("nic", ["none_such", "none_such:1", ""])
def test_a_nic_that_is_not_there_has_no_facts(nic):
    with pytest.raises(PgUnsupported, match=r"\w+ \w+"):
        nic_facts(nic)
    assert {f.name for f in fields(NicFacts)} == set(dir(ffi.new("struct pg_nic_facts *")))


def test_all_that_libfabric_offers(monkeypatch):
    """Also where it is more than there was room for at first."""
    asked = []

    def offers(rows, room, version, _):
        asked.append(room)
        version[0] = 2 << 16 | 11
        for i in range(min(room, 100)):
            rows[i].provider, rows[i].domain, rows[i].max_msg = b"tcp", f"eth{i}".encode(), i
        return 100

    monkeypatch.setattr(config, "lib", SimpleNamespace(pg_fabric_facts=offers))
    version, found = fabric_facts()
    assert (version, asked[1:]) == ("2.11", [100])
    assert found[99] == FabricFacts("tcp", "", "eth99", 99, 0, cq_data=False, hmem=False)
    assert len(found) == 100
    assert {f.name for f in fields(FabricFacts)} == set(dir(ffi.new("struct pg_fabric_facts *")))


def test_shm_has_no_options():
    with pytest.raises(PgInvalid, match='shm has no options, and was given "gid=3"'):
        TransferEngine(groups=[GroupConfig(nics=[NicConfig(transport="shm", options="gid=3")])])
