"""Which addresses the manifests and tables of others may name: below and beside the source, and the web.

Without this, a line of a manifest could bring any file of this machine, or what a cloud tells its machines, into the
transcripts. The limits are those of the source that this process lists or reads (`apply`).
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import socket
from urllib.parse import urlsplit

from pipeline.config import SourceConfig, public
from pipeline.schemas import BadRecording
from pipeline.sources.access import names

WEB = ("http://", "https://")
ALLOWED = "source.trust=true allows it"
METADATA = frozenset((ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")))  # of clouds

_source = SourceConfig(uri="/")


def apply(source: SourceConfig) -> None:
    """From now on the limits of this source hold in this process."""
    global _source
    _source = source


def check(address: str, where: str, source: SourceConfig | None = None) -> None:
    """Raise BadRecording("unsafe_name") if the file `where` must not name this address.

    address: absolute, as `remote.relative_to` returns it. source: None: that of the last `apply`. No address is looked
    up here: `is_own_network` is asked again when a connection is made, also after a redirect.
    """
    source = source or _source
    if source.trust:
        return
    if address.lower().startswith(("file:", "local:")):
        raise BadRecording("unsafe_name", f"{address}: a file of this machine: {ALLOWED}")
    roots = [_plain(root) for root in _roots(where, source)]
    if any(_is_below(_plain(address), root) for root in roots) or _is_beside(_plain(address), roots[0]):
        return
    if not address.startswith(WEB) or "::" in address:
        outside = f"{public(address)}: outside {roots[-1]}: source.root=FOLDER or {ALLOWED}"
        raise BadRecording("unsafe_name", outside)
    if is_own_network(urlsplit(address).hostname or ""):
        raise BadRecording("unsafe_name", f"{public(address)}: on this machine or its own network: {ALLOWED}")


def may_reach_own_network(address: str) -> bool:
    """Whether connections for this address of the web may go to this machine or its own network.

    That is so if the user trusts the source, or has named such a host in source.uri or source.root.
    """
    named = [root for root in (_source.uri, _source.root) if root and root.startswith(WEB)]
    return _source.trust or any(
        is_own_network(urlsplit(root).hostname or "") and urlsplit(root)[:2] == urlsplit(address)[:2] for root in named
    )


def is_own_network(host: str) -> bool:
    """Whether a host is this machine or of its own network: loopback, link-local, or where clouds tell their machines.

    host: a name, which is not looked up, or a number in any of its forms.
    """
    host = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if host in ("", "localhost") or host.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host if ":" in host else socket.inet_aton(host))  # 127.1 and 0x7f000001 too
    except (ValueError, OSError):
        return False
    number = getattr(number, "ipv4_mapped", None) or number
    return (
        number.is_loopback or number.is_link_local or number.is_unspecified or number.is_multicast or number in METADATA
    )


def _roots(where: str, source: SourceConfig) -> list[str]:
    """The folders whose files may be named in `where`: its own, source.root, and the one that source.uri names."""
    named = os.path.abspath(source.uri) if _is_local(source.uri) else source.uri  # noqa: PTH100 follows no links
    literal = names.literal_prefix(named)
    is_folder = where.startswith(f"{literal.rstrip('/')}/")
    roots = [where.rpartition("/")[0], literal.rstrip("/") if is_folder else literal.rpartition("/")[0]]
    if source.root:
        roots.append(os.path.abspath(source.root) if _is_local(source.root) else source.root)  # noqa: PTH100
    return roots


def _is_local(uri: str) -> bool:
    return "://" not in uri and "::" not in uri


def _plain(uri: str) -> str:
    """The same address without "." and "..", and without a slash at its end."""
    scheme, is_url, path = uri.rpartition("://")
    plain = posixpath.normpath(path.lstrip("/") or ".")
    return f"{scheme}{is_url}{plain}" if is_url else f"/{plain}"


def _is_beside(address: str, folder: str) -> bool:
    """Whether an address is in another folder beside this one, as `wavs` is beside `manifests`."""
    parent = folder.rpartition("/")[0]
    return parent.rpartition("/")[2] != "" and _is_below(address, parent) and "/" in address[len(parent) + 1 :]


def _is_below(address: str, root: str) -> bool:
    return address.startswith(f"{root.rstrip('/')}/")
