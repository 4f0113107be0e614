"""What an engine over RDMA devices is configured with."""

from pgctl.engine import GroupConfig, NicConfig


def group(devices, options="", progress="inline"):
    """These devices, as an argument of TransferEngine; "": one that the transport chooses."""
    nics = [NicConfig(transport="verbs", device=device, options=options) for device in devices]
    return {"groups": [GroupConfig(nics=nics, progress=progress)]}


def nic(options="", device=""):
    return group([device], options)
