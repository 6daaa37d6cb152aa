"""Puts out of sight what nobody else may see: secrets always, names of machines and people where asked. Pure.

Secrets are found by value, where they are known, and by form. Every pattern is linear: a fixed beginning,
then classes of characters.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MASK = "***"
#: A shorter value would put half of all words out of sight.
LEAST_CHARS = 6
#: Variables whose values are taken for secrets, by their names.
SECRET_NAME = re.compile(
    r"PASSW|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH", re.IGNORECASE
)
#: Each with the group that stays.
_FORMS = (
    re.compile(
        r"()-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,20000}-----END [A-Z ]{0,40}PRIVATE KEY-----"
    ),
    re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@:\"']{1,200}:[^\s/@\"']{1,200}(?=@)"),
    re.compile(
        r"((?:\bAuthorization|\bProxy-Authorization)\"?\s{0,3}[:=]\s{0,3}\"?(?:Bearer|Basic|Token)\s{1,3})[^\s\"']{4,4000}",
        re.I,
    ),
    re.compile(
        r"((?:password|passwd|secret|token|api[_-]?key|access[_-]?key|credential)s?\"?\s{0,3}[=:]\s{0,3}\"?)"
        r"(?!\*\*\*)(?!null\b|true\b|false\b|none\b|\d{1,12}\b)[^\s\"',;&{}\[\]()]{6,400}",
        re.IGNORECASE,
    ),
    re.compile(r"()\b(?:hf_[A-Za-z0-9]{20,80}|gh[pousr]_[A-Za-z0-9]{20,255}|glpat-[A-Za-z0-9_-]{20,80})"),
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{4,4000}"),
    re.compile(r"()\bxox[abprs]-[A-Za-z0-9-]{10,200}"),
)
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
#: What may be one: begins and ends where no figure, point or colon is beside it; `ipaddress` decides.
_IPV6 = re.compile(r"(?<![0-9A-Fa-f:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]{2,45}(?!\w)")
_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE)
_HOME = re.compile(r"(/home/|/Users/)[A-Za-z0-9._-]{1,64}")
_PLAIN_NAME = re.compile(r"node-?\d{0,6}|localhost|local|lab|example|cluster|controller")
#: Addresses that say nothing about anybody.
_PLAIN = ("127.0.0.1", "0.0.0.0", "255.255.255.255")  # noqa: S104
#: What IANA has given nobody is no address but a word with colons, `x[1::2]`; these hold an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/32")


class Redactor:
    """Masks text. `secrets` are known values; `names` are put in place of words, where it is `anonymous`."""

    def __init__(
        self, *, secrets: Iterable[str] = (), names: Mapping[str, str] | None = None, anonymous: bool = False
    ) -> None:
        known = {form for secret in secrets if len(secret) >= LEAST_CHARS for form in _encodings(secret)}
        self._known = sorted(known, key=lambda one: (-len(one), one))
        self.anonymous = anonymous
        self._names = sorted((names or {}).items(), key=lambda one: (-len(one[0]), one[0]))
        self._addresses: dict[str, str] = {}
        self._longer: dict[ipaddress.IPv6Address, str] = {}

    def data(self, data: bytes) -> tuple[bytes, int]:
        """The bytes without what is masked, and how often something was."""
        text, count = self.text(data.decode("utf-8", "surrogateescape"))
        return text.encode("utf-8", "surrogateescape"), count

    def text(self, text: str) -> tuple[str, int]:
        count = 0
        for secret in self._known:
            count += text.count(secret)
            text = text.replace(secret, MASK)
        for form in _FORMS:
            text, times = form.subn(lambda found: found[1] + MASK, text)
            count += times
        return self._without_names(text, count) if self.anonymous else (text, count)

    def _without_names(self, text: str, count: int) -> tuple[str, int]:
        for name, instead in self._names:
            word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
            text, times = word.subn(instead.replace("\\", r"\\"), text)
            count += times
        text, homes = _HOME.subn(r"\1user", text)
        text, cards = _MAC.subn("00:00:00:00:00:00", text)
        text, longer = self._without_ipv6(text)
        text, addresses = _IPV4.subn(self._address, text)
        return text, count + homes + cards + longer + addresses

    def _without_ipv6(self, text: str) -> tuple[str, int]:
        """The same address has the same stand-in, however it is written; 2001:db8::/32 is nobody's."""
        count = 0

        def instead(found: re.Match[str]) -> str:
            nonlocal count
            # A colon or a point beside it belongs to the sentence: `addr:fe80::1: no answer`.
            for begin, end in ((0, 0), (0, 1), (1, 0), (1, 1)):
                whole = found[0][begin : len(found[0]) - end]
                try:
                    address = ipaddress.IPv6Address(whole)
                except ValueError:
                    continue
                if address.is_reserved and address.ipv4_mapped is None and address not in _NAT64:
                    return found[0]
                count += 1
                stand_in = self._longer.setdefault(address, f"2001:db8::{len(self._longer) + 1:x}")
                return found[0][:begin] + stand_in + found[0][len(found[0]) - end :]
            return found[0]

        return _IPV6.sub(instead, text), count

    def _address(self, found: re.Match[str]) -> str:
        """The same address has the same stand-in everywhere in a bundle; 192.0.2.0/24 is nobody's."""
        address = found[0]
        if address in _PLAIN or any(int(part) > 255 for part in address.split(".")):
            return address
        return self._addresses.setdefault(address, f"192.0.2.{len(self._addresses) % 254 + 1}")


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables that are named as secrets are."""
    named = (value for name, value in sorted(environment.items()) if SECRET_NAME.search(name))
    return tuple(value for value in named if value and not value.startswith("/"))  # a path to one is none


def names_of(plan: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, str]:
    """What machines, cluster and folders of a run are called → plain words, by plan.json and host.json."""
    names: dict[str, str] = {}

    def learn(name: object, instead: str) -> None:
        # `node1` and the like tell nothing, and are what a run's own folders are called.
        if isinstance(name, str) and len(name) > 1 and not _PLAIN_NAME.fullmatch(name):
            names.setdefault(name, instead)

    numbers: dict[str, int] = {}
    for cell in plan.get("cells") or ():
        for launch in cell.get("launches") or ():
            numbers.setdefault(str(launch.get("node")), int(launch.get("node_rank") or 0))
    for node, number in numbers.items():
        learn(node, f"node{number}")
    for node, facts in (host.get("nodes") or {}).items():
        instead = f"node{numbers[node]}" if node in numbers else f"node{len(numbers)}"
        for key in ("name", "address", "hostname"):
            learn((facts or {}).get(key), instead)
    learn((host.get("host") or {}).get("hostname"), "controller")
    learn(plan.get("cluster"), "cluster")
    identity = plan.get("identity") or {}
    home, found, _ = str(identity.get("host_run_dir")).partition("/results/runs/")
    learn(home if found else None, "/home/user/nx8")
    return names


def _encodings(secret: str) -> tuple[str, ...]:
    """A secret as it stands, in base64, in a URL and in JSON."""
    data = secret.encode("utf-8", "surrogateescape")
    return (
        secret,
        base64.b64encode(data).decode("ascii"),
        base64.urlsafe_b64encode(data).decode("ascii").rstrip("="),
        quote(data, safe=""),
        json.dumps(secret)[1:-1],
    )
