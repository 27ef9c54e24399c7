"""Writes a capture with a frame of every kind that reaches a balancer; its path is argument 1."""

import sys

from scapy.all import (
    ARP, DNS, DNSQR, Dot1AD, Dot1Q, Dot3, Ether, ICMP, ICMPv6EchoRequest, ICMPv6ND_NS, IP,
    IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, LLC, Raw, STP,
    TCP, UDP, VXLAN, fragment, wrpcap,
)

LINK = {"src": "02:00:00:00:00:cc", "dst": "02:00:00:00:00:bb"}
V4, V6 = "203.0.113.10", "2001:db8::10"
CLIENT4, CLIENT6 = "192.0.2.1", "2001:db8:c::1"


def ipv4(**fields):
    return IP(src=CLIENT4, dst=V4, ttl=57, tos=0x8A, **fields)


def ipv6(**fields):
    return IPv6(src=CLIENT6, dst=V6, hlim=57, tc=0x8A, **fields)


def links():
    yield Ether(**LINK)
    yield Ether(**LINK) / Dot1Q(vlan=100, prio=5)
    yield Ether(**LINK) / Dot1AD(vlan=200, prio=3) / Dot1Q(vlan=100, prio=5)


def transports():
    yield TCP(sport=40001, dport=80, flags="S", options=[("MSS", 1340), ("SAckOK", b"")])
    yield TCP(sport=40001, dport=80, flags="A")
    yield TCP(sport=40001, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\r\n")
    yield TCP(sport=40001, dport=80, flags="FA")
    yield TCP(sport=40001, dport=80, flags="R")
    yield UDP(sport=40002, dport=53) / DNS(rd=1, qd=DNSQR(qname="example.org"))
    yield UDP(sport=40003, dport=53) / Raw(bytes(1300))


frames = []
for link in links():
    for transport in transports():
        frames += [link / ipv4() / transport, link / ipv6() / transport]
    frames.append(link / ipv4(options=[IPOption_NOP()] * 4) / TCP(sport=40004, dport=80))

plain = Ether(**LINK)
frames += [plain / piece for piece in fragment(ipv4() / UDP(sport=1, dport=53) / Raw(bytes(2000)), 800)]
frames += [
    plain / ipv6() / IPv6ExtHdrFragment(m=1, id=7) / UDP(sport=1, dport=53) / Raw(bytes(64)),
    plain / ipv6() / IPv6ExtHdrHopByHop() / TCP(sport=1, dport=80),
    plain / ipv6() / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=80),
    plain / ipv4() / ICMP() / Raw(b"ping"),
    plain / ipv6() / ICMPv6EchoRequest(data=b"ping"),
    plain / ipv4() / TCP(sport=1, dport=4444),
    plain / ipv4() / UDP(sport=1, dport=4789) / VXLAN(vni=7) / Ether() / IP() / UDP(),
    plain / IP(src=CLIENT4, dst="198.51.100.77") / TCP(sport=1, dport=80),
    plain / IPv6(src=CLIENT6, dst="2001:db8::77") / TCP(sport=1, dport=80),
    Ether(dst="ff:ff:ff:ff:ff:ff", src=LINK["src"]) / ARP(psrc=CLIENT4, pdst=V4),
    Ether(dst="33:33:ff:00:00:10", src=LINK["src"]) / IPv6(src=CLIENT6, dst="ff02::1:ff00:10", hlim=255)
    / ICMPv6ND_NS(tgt=V6),
    Ether(dst="01:80:c2:00:00:0e", src=LINK["src"], type=0x88CC)
    / Raw(bytes.fromhex("020704020000000000040703020000000000060200780000")),
    Dot3(dst="01:80:c2:00:00:00", src=LINK["src"]) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP(),
]
wrpcap(sys.argv[1], frames)
