"""Profiles: what they set, and errors that name the place."""

import pytest

from pgctl.profile import Expect, Profile, ProfileError, load_profile

CHECKS = ("acs", "memlock", "mtu")


@pytest.fixture
def load(tmp_path):
    def write(text, name="p.yaml", **others):
        for other, content in others.items():
            (tmp_path / f"{other}.yaml").write_text(content)
        path = tmp_path / name
        path.write_text(text)
        return load_profile(str(path), CHECKS)

    return write


def test_a_profile(load):
    profile = load("""\
fabric: {nics_per_gpu: 1, link_gbit_s: 400, transport: verbs, mtu: 4096}
expect: {gpus: 8, nics: 8, memlock: unlimited, kernel: 5.15, link_gbit_s: 200.5}
checks: {acs: warn, memlock: fail, mtu: off}
gates:
  - {test: bench.write, size: 32M, metric: bw_pct_line_rate, min: 90}
""")
    assert profile.severities == {"acs": "warn", "memlock": "fail", "mtu": "off"}
    assert profile.expect == Expect(
        gpus=8,
        nics=8,
        nics_per_gpu=1,
        link_gbit_s=200.5,
        mtu=4096,
        memlock=1 << 64,
        kernel=(5, 15),
    )


def test_profiles_build_on_profiles(load):
    base = "expect: {gpus: 8, nics: 8}\nchecks: {acs: warn, mtu: fail}"
    middle = "extends: base\nchecks: {mtu: off}"
    profile = load("extends: middle.yaml\nexpect: {nics: 4}", base=base, middle=middle)
    assert profile.expect == Expect(gpus=8, nics=4)
    assert profile.severities == {"acs": "warn", "mtu": "off"}


def test_what_benchmarks_go_over(load):
    base = "fabric: {transport: verbs}\nverbs: {gid_index: 3, pkey: 0x8001, mtu: 4096}"
    profile = load("extends: base\nverbs: {gid_index: 1, retry: 2}", base=base)
    assert profile.transport == "verbs"
    assert profile.verbs == {"gid_index": 1, "pkey": 0x8001, "mtu": 4096, "retry": 2}
    base = "fabric: {transport: ofi}\nofi: {provider: efa, library: /opt/libfabric.so.1}"
    profile = load("extends: base\nofi: {provider: verbs;ofi_rxm}", base=base)
    assert profile.ofi == {"provider": "verbs;ofi_rxm", "library": "/opt/libfabric.so.1"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_profile_expects_nothing(load, text):
    assert load(text) == Profile()


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: [", 1, "expected the node content"),
        (
            "- 1",
            1,
            "the profile: expected a mapping of extends, fabric, verbs, ofi, expect, checks, gates",
        ),
        (
            "expects: {}",
            1,
            "the profile: expected one of extends, fabric, verbs, ofi, expect, checks, gates",
        ),
        ("expect: 8", 1, "expect: expected a mapping of gpus, nics"),
        ("expect:\n  gpus: 8\n  nics: many", 3, "expect.nics: expected a whole number, not 'many'"),
        ("expect:\n  gpus: -1", 2, "expect.gpus: expected a whole number, not '-1'"),
        ("expect:\n  gpus: [8]", 2, "expect.gpus: expected one value, not a sequence"),
        ("expect: {gpu: 8}", 1, "expect: expected one of gpus, nics"),
        ("expect: {gpus: 8, gpus: 4}", 1, "expect: expected each key once, not 'gpus'"),
        ("expect: {kernel: new}", 1, "expect.kernel: expected a version like 5.12, not 'new'"),
        ("expect: {memlock: lots}", 1, "expect.memlock: expected a size like 64G, or unlimited"),
        ("expect: {link_gbit_s: 0}", 1, "expect.link_gbit_s: expected a number of Gb/s, not '0'"),
        ("\nchecks:\n  acs: maybe", 3, "checks.acs: expected fail, warn or off, not 'maybe'"),
        ("checks: {asc: warn}", 1, "checks: expected one of acs, memlock, mtu, not 'asc'"),
        ("verbs: {gid_index: 256}", 1, "verbs.gid_index: expected a whole number up to 255"),
        ("verbs: {mtu: 1500}", 1, "verbs.mtu: expected one of 256, 512, 1024, 2048, 4096, not"),
        ("verbs: {pkey: 1}", 1, "verbs.pkey: expected a partition key: write 0x8001, not '1'"),
        ("ofi: {provider: a b}", 1, "ofi.provider: expected a provider of libfabric: efa, cxi"),
        ("ofi: {library: lib.so}", 1, "ofi.library: expected the path of a libfabric.so.1, not"),
        ("gates: all", 1, "gates: expected a list, not 'all'"),
        ("extends: nowhere", 1, "extends: expected a profile; there is no "),
        ("extends: p", 1, "extends: expected a profile that does not lead back here"),
        ("x: &a [*a]", 1, "the profile: expected one of"),
        ("expect: &a {gpus: *a}", 1, "expect.gpus: expected one value, not a mapping"),
        ("!!python/object:os.system {x: 1}", 1, "the profile: expected one of"),
    ],
)
def test_a_bad_profile_names_the_place(load, tmp_path, text, line, why):
    with pytest.raises(ProfileError) as caught:
        load(text)
    assert str(caught.value).startswith(f"{tmp_path / 'p.yaml'}:{line}: {why}")


def test_hostile_files_end(load, tmp_path):
    with pytest.raises(ProfileError, match="nested too deep"):
        load("[" * 100_000)
    with pytest.raises(ProfileError, match=r"p.yaml: unacceptable character"):
        load("a: \x07")
    with pytest.raises(ProfileError, match="more than 1 MiB"):
        load("#" * (2 << 20))
    bomb = "a: &a [x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(24)
    )
    with pytest.raises(ProfileError, match="expected one of extends"):
        load(bomb)
    with pytest.raises(ProfileError, match="not a regular file"):
        load_profile(str(tmp_path), CHECKS)
