"""A DNS server on loopback, UDP and TCP, that answers from the records the emulated Cloud DNS holds.

It reads the API's zone file for every question, so a change is seen at once; how long a client may keep an answer is
what the record's TTL says. It is what clients ask, not part of a site: as in the real service, names go on being
answered while the API that changes them cannot be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import struct
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from holdfast.sandbox.zones import RecordSet, Zone, ZoneFile

_LONGEST_CHAIN = 8
_PLAIN_UDP_BYTES = 512


def answer(wire: bytes, file: ZoneFile, *, is_udp: bool) -> bytes | None:
    """The answer to one message; ``None`` for what is no question."""
    try:
        query = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return None
    if query.flags & dns.flags.QR:
        return None
    response = dns.message.make_response(query, recursion_available=True)
    if query.opcode() != dns.opcode.QUERY:
        response.set_rcode(dns.rcode.NOTIMP)
    elif len(query.question) != 1 or query.question[0].rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
    else:
        _resolve(response, query.question[0].name, query.question[0].rdtype, file)
    return _to_wire(response, max(query.payload, _PLAIN_UDP_BYTES) if is_udp else 65535)


def _to_wire(response: dns.message.Message, limit: int) -> bytes:
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        # Truncated: the client asks again over TCP (RFC 7766 §5).
        for section in (response.answer, response.authority, response.additional):
            section.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=limit)


def _resolve(response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType, file: ZoneFile) -> None:
    zones = list(file.read().values())
    for _ in range(_LONGEST_CHAIN):
        zone = _zone_of(name, zones)
        if zone is None:
            if not response.answer:
                response.set_rcode(dns.rcode.REFUSED)
            return
        response.flags |= dns.flags.AA
        records = _at(zone, name)
        found = [r for r in records.values() if kind == dns.rdatatype.ANY or r.type == dns.rdatatype.to_text(kind)]
        if found:
            response.answer += [_rrset(record) for record in found]
            _add_addresses(response, zones)
            return
        alias = records.get("CNAME")
        if alias is None:
            if not records and not _has_names_below(zone, name):
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(_rrset(zone.records[zone.dns_name, "SOA"]))
            return
        response.answer.append(_rrset(alias))
        name = dns.name.from_text(alias.rrdatas[0])
    response.set_rcode(dns.rcode.SERVFAIL)


def _zone_of(name: dns.name.Name, zones: list[Zone]) -> Zone | None:
    held = [zone for zone in zones if name.is_subdomain(dns.name.from_text(zone.dns_name))]
    return max(held, key=lambda zone: len(zone.dns_name), default=None)


def _at(zone: Zone, name: dns.name.Name) -> dict[str, RecordSet]:
    text = name.to_text().lower()
    return {record.type: record for record in zone.records.values() if record.name == text}


def _has_names_below(zone: Zone, name: dns.name.Name) -> bool:
    """An empty name with names below it exists: no data, not no name (RFC 8020)."""
    return any(dns.name.from_text(record.name).is_subdomain(name) for record in zone.records.values())


def _rrset(record: RecordSet) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(record.name, record.ttl, "IN", record.type, list(record.rrdatas))


def _add_addresses(response: dns.message.Message, zones: list[Zone]) -> None:
    """The addresses of the hosts that SRV records name, which the client would ask for next (RFC 2782)."""
    targets = {rdata.target for rrset in response.answer if rrset.rdtype == dns.rdatatype.SRV for rdata in rrset}
    for target in sorted(targets):
        zone = _zone_of(target, zones)
        address = None if zone is None else _at(zone, target).get("A")
        if address is not None:
            response.additional.append(_rrset(address))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, file: ZoneFile) -> None:
        self._file = file
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By asyncio's promise; uvloop's and the selector's transports share no base class with this method.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = answer(data, self._file, is_udp=True)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


async def serve(host: str, port: int, data: Path) -> None:
    """Answer until told to stop."""
    file = ZoneFile(data)

    async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                async with asyncio.timeout(10.0):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = answer(await reader.readexactly(size), file, is_udp=False)
                if reply is None:
                    break
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(file), local_addr=(host, port))
    server = await asyncio.start_server(tcp, host, port)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with server:
        await stop.wait()
    transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the zone file of the emulated Cloud DNS")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port, arguments.data))


if __name__ == "__main__":
    main()
