"""NCCL topology files: what they say, and what is refused."""

import os

import pytest

from pgctl.hardware.facts import read_facts
from pgctl.hardware.topology_xml import TopologyError, read_topology

CLOUD = """\
<system version="1">
  <cpu numaid="0" affinity="00000000,0000000f" arch="x86_64" vendor="AuthenticAMD">
    <pci busid="ffff:ff:01.0" class="0x060400" link_speed="16 GT/s" link_width="16">
      <pci busid="0001:00:00.0" class="0x030200" link_speed="16 GT/s" link_width="16">
        <gpu dev="0" sm="80" rank="0" gdr="1"/>
      </pci>
      <pci busid="0101:00:00.0" class="0x020700" link_speed="16 GT/s" link_width="16">
        <nic><net name="mlx5_0" dev="0" speed="200000" port="1" guid="0x1"/></nic>
      </pci>
      <pci busid="ffff:ff:02.0" class="0x060400">
        <pci busid="0002:00:00.0" class="0x030200"/>
        <pci busid="0102:00:00.0" class="0x020700"/>
      </pci>
    </pci>
    <nic><net name="eth0" dev="2"/></nic>
  </cpu>
  <cpu numaid="1" affinity="00000000,000000f0">
    <pci busid="0003:00:00.0" class="0x030200"/>
    <pci busid="0103:00:00.0" class="0x020000">
      <nic><net name="rdma0" port="1"/><net name="rdma0" port="2"/></nic>
    </pci>
  </cpu>
</system>
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "topology.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_a_machine_out_of_a_file(file, built):
    facts = read_facts(str(built["laptop"].root), topology=file(CLOUD))
    assert facts.foreign
    assert not facts.real
    assert [(g.gpu, g.numa, g.nics, g.closeness, g.cpus) for g in facts.groups] == [
        ("0001:00:00.0", 0, ("mlx5_0",), ("PIX",), (0,)),
        ("0002:00:00.0", 0, ("0102:00:00.0",), ("PIX",), (1,)),
        ("0003:00:00.0", 1, ("rdma0:1", "rdma0:2"), ("PHB", "PHB"), (4, 5)),
    ]
    assert facts.affinity["0002:00:00.0"]["mlx5_0"] == "PXB"
    assert facts.affinity["0003:00:00.0"]["mlx5_0"] == "SYS"
    assert facts.nics[0].gbit_s.value == 200
    assert facts.system.kernel.why == "the topology file is of another machine"


def test_the_file_knows_better_where_devices_are(copy, file):
    machine = copy("cx7")
    machine.change("sys/devices/pci*/*/*/*/*/numa_node", -1)
    swapped = """\
<system version="1"><cpu numaid="1" affinity="0000ff00">
  <pci busid="ffff:ff:01.0" class="0x060400">
    <pci busid="0000:13:00.0" class="0x030200"/>
    <pci busid="0000:2c:00.0" class="0x020000"/>
  </pci>
</cpu></system>"""
    facts = read_facts(str(machine.root), topology=file(swapped))
    assert not facts.foreign
    assert facts.groups[0].gpu == "0000:13:00.0"
    assert (facts.groups[0].nics, facts.groups[0].numa) == (("mlx5_1",), 1)
    assert facts.tree.devices["0000:13:00.0"].driver.value == "nvidia"


BOMB = b"""<?xml version="1.0"?><!DOCTYPE system [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><system><cpu numaid="&b;"/></system>"""
PCI = '<pci busid="0001:00:00.0" class="0x030200"/>'


def cpu(inside):
    return f'<system>\n<cpu numaid="0">\n{inside}\n</cpu></system>'


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (b"", 1, "no element found"),
        (b"\x00\xff\xfe", 1, ""),
        (CLOUD[:900], 20, "no element found"),
        (BOMB, 1, "a document type is not allowed here"),
        ('<!DOCTYPE s SYSTEM "file:///etc/passwd"><s/>', 1, "a document type is not allowed"),
        ("<html/>", 1, "expected <system>, not <html>"),
        ('<?xml version="1.0" encoding="klingon"?><html/>', 1, "expected <system>, not <html>"),
        (b'<?xml version="1.0" encoding="latin1"?><system>\xe4</system>', 1, "invalid token"),
        ("<a>" * 100, 1, "expected <system>"),
        ("<system>" + "<a>" * 100, 1, "nested 65 deep"),
        (f"<system>{PCI}</system>", 1, "stands outside of <cpu>"),
        (f'<system><cpu numaid="{"9" * 5000}"/></system>', 1, "<cpu> needs numaid"),
        ("<system><cpu/></system>", 1, "<cpu> needs numaid: '' is not a number"),
        (cpu('<pci class="0x030200"/>'), 3, "<pci> has busid '', not a PCI address"),
        (cpu('<pci busid="0001:00:00.0"/>'), 3, "<pci> needs class"),
        (cpu('<pci busid="0001:00:00.0" class="gpu"/>'), 3, "<pci> needs class: 'gpu' is not"),
        (cpu(PCI + "\n" + PCI), 4, "0001:00:00.0 stands here for the second time"),
        (cpu(f'{PCI[:-2]}><net name="a b"/></pci>'), 3, "<net> has name 'a b'"),
        ('<system><cpu numaid="0" affinity="xyz"/></system>', 1, "'xyz' is not a mask of cpus"),
        (f'<system><cpu numaid="0" affinity="{"f" * 20000}"/></system>', 1, "more cpus than"),
        (cpu("".join(PCI.replace("0001", f"{i:04x}") for i in range(5000))), 3, "more than 1024"),
    ],
)
def test_a_bad_file_names_the_place(file, text, line, why):
    path = file(text)
    with pytest.raises(TopologyError) as caught:
        read_topology(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert why in message


def test_files_that_are_too_much(file, tmp_path):
    with pytest.raises(TopologyError, match="holds no <pci> element"):
        read_topology(file("<system/>"))
    with pytest.raises(TopologyError, match="more than 4 MiB"):
        read_topology(file("<system>" + " " * (5 << 20)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TopologyError, match="not a regular file"):
        read_topology(str(tmp_path / "pipe"))
