"""The proxies that the environment names: http_proxy, https_proxy, all_proxy, no_proxy."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

from snapshotter.registry.errors import Unreachable
from snapshotter.registry.hosts import address_of, is_loopback


def proxy_for(url: str) -> str | None:
    """The proxy's URL for a request to ``url``; None means a direct connection.

    As in Go's ``httpproxy``, loopback addresses are never proxied and
    ``no_proxy`` may hold names, domains, addresses and CIDR ranges. Raises
    :class:`Unreachable` for a proxy that is not ``http://``.
    """
    parts = urlsplit(url)
    if is_loopback(parts.netloc):
        return None
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc, proxies):
        return None
    if _in_ranges(parts.hostname or "", proxies.get("no", "")):
        return None
    return _checked(proxy if "://" in proxy else f"http://{proxy}", url)


def _checked(proxy: str, url: str) -> str:
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if usable:
        return proxy
    host = address_of(url)
    # It may hold a password, so it is not shown.
    raise Unreachable(
        f"{host} cannot be asked: the proxy for {urlsplit(url).scheme} in the environment is not "
        f"usable, expected http://HOST:PORT; set it so, or name {host} in no_proxy",
        host=host,
    )


def _in_ranges(host: str, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for item in no_proxy.split(","):
        try:
            network = ipaddress.ip_network(item.strip(), strict=False)
        except ValueError:
            continue
        if address.version == network.version and address in network:
            return True
    return False
