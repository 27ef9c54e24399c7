//! A frame taken apart, every length and checksum tested on the way.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{
    Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice, UdpHeaderSlice,
};

/// A frame's link layer and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where it goes.
    pub destination: [u8; 6],
    /// Where it comes from.
    pub source: [u8; 6],
    /// VLAN tags as bytes, each from its TPID on.
    pub tags: &'a [u8],
    /// The last EtherType.
    pub ether_type: u16,
    /// All that follows, padding too.
    pub payload: &'a [u8],
}

/// An IP header and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Ip<'a> {
    /// Header and payload, without the frame's padding.
    pub whole: &'a [u8],
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// Protocol or next header.
    pub protocol: u8,
    /// IPv6 only, else 0.
    pub flow_label: u32,
    /// IPv4 only: the DF bit.
    pub dont_fragment: Option<bool>,
    /// What follows the header.
    pub payload: &'a [u8],
    /// What follows the packet in the frame.
    pub padding: &'a [u8],
}

/// A GUE header within UDP, and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Gue<'a> {
    /// The UDP source port.
    pub source_port: u16,
    /// The UDP destination port.
    pub destination_port: u16,
    /// The UDP checksum.
    pub checksum: u16,
    /// The first four bytes of GUE.
    pub header: [u8; 4],
    /// What follows.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the link layer.
    ///
    /// # Errors
    /// The frame ends within it.
    pub fn parse(frame: &'a [u8]) -> Result<Self> {
        let ethernet = Ethernet2HeaderSlice::from_slice(frame).context("Ethernet header")?;
        let mut ether_type = ethernet.ether_type().0;
        let mut at = ethernet.slice().len();
        while matches!(ether_type, 0x8100 | 0x88a8) {
            let tag = SingleVlanHeaderSlice::from_slice(&frame[at..]).context("VLAN tag")?;
            ether_type = tag.ether_type().0;
            at += tag.slice().len();
        }
        Ok(Self {
            destination: ethernet.destination(),
            source: ethernet.source(),
            tags: &frame[12..at - 2],
            ether_type,
            payload: &frame[at..],
        })
    }

    /// Reads the IP header.
    ///
    /// # Errors
    /// Not IP, a wrong IPv4 header checksum, or lengths that don't fit.
    pub fn ip(&self) -> Result<Ip<'a>> {
        match self.ether_type {
            0x0800 => Ip::v4(self.payload),
            0x86dd => Ip::v6(self.payload),
            other => bail!("EtherType {other:#06x} is not IP"),
        }
    }
}

impl<'a> Ip<'a> {
    fn v4(bytes: &'a [u8]) -> Result<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).context("IPv4 header")?;
        let (length, total) = (header.slice().len(), usize::from(header.total_len()));
        ensure!(
            header.header_checksum() == header.to_header().calc_header_checksum(),
            "wrong IPv4 header checksum {:#06x}",
            header.header_checksum()
        );
        ensure!(
            (length..=bytes.len()).contains(&total),
            "IPv4 total length is {total}, of {} bytes there",
            bytes.len()
        );
        ensure!(!header.is_fragmenting_payload(), "a fragment");
        Ok(Self {
            whole: &bytes[..total],
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            traffic_class: header.dcp().value() << 2 | header.ecn().value(),
            hops: header.ttl(),
            protocol: header.protocol().0,
            flow_label: 0,
            dont_fragment: Some(header.dont_fragment()),
            payload: &bytes[length..total],
            padding: &bytes[total..],
        })
    }

    fn v6(bytes: &'a [u8]) -> Result<Self> {
        let header = Ipv6HeaderSlice::from_slice(bytes).context("IPv6 header")?;
        let length = header.slice().len();
        let total = length + usize::from(header.payload_length());
        ensure!(
            total <= bytes.len(),
            "IPv6 with its payload is {total} long, of {} bytes there",
            bytes.len()
        );
        Ok(Self {
            whole: &bytes[..total],
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            traffic_class: header.traffic_class(),
            hops: header.hop_limit(),
            protocol: header.next_header().0,
            flow_label: header.flow_label().value(),
            dont_fragment: None,
            payload: &bytes[length..total],
            padding: &bytes[total..],
        })
    }

    /// Reads the payload as UDP and GUE.
    ///
    /// # Errors
    /// Another protocol, or a UDP length that isn't the payload's.
    pub fn gue(&self) -> Result<Gue<'a>> {
        ensure!(self.protocol == 17, "protocol {} is not UDP", self.protocol);
        let udp = UdpHeaderSlice::from_slice(self.payload).context("UDP header")?;
        ensure!(
            usize::from(udp.length()) == self.payload.len(),
            "UDP length is {}, of {} bytes there",
            udp.length(),
            self.payload.len()
        );
        let rest = &self.payload[udp.slice().len()..];
        let (header, payload) = rest.split_first_chunk().context("no room for a GUE header")?;
        Ok(Gue {
            source_port: udp.source_port(),
            destination_port: udp.destination_port(),
            checksum: udp.checksum(),
            header: *header,
            payload,
        })
    }
}
