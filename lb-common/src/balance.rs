//! A packet's journey: parse, service, ring slot, backend, rewrite, out.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    flow::Flow,
    id::{BackendId, ServiceId},
    link::{Link, NetworkProtocol},
    network::Network,
    packet::{Buffer, Packet},
    rewrite, select,
    tables::Tables,
    verdict::{DropReason, Egress, Forwarded, Refusal, Verdict},
};

/// Decides what becomes of a frame, and rewrites it where it is forwarded.
///
/// # Errors
/// A [`Refusal`]: the frame was ours and can't be served; its content is not defined any more.
#[inline(always)]
pub fn balance<B: Buffer>(packet: Packet<B>, tables: &impl Tables) -> Result<Verdict, Refusal> {
    let Some(link) = Link::read(&packet) else { return Ok(Verdict::Pass) };
    match link.network {
        NetworkProtocol::Ipv4 => journey::<Ipv4Hdr, B>(packet, link, tables),
        NetworkProtocol::Ipv6 => journey::<Ipv6Hdr, B>(packet, link, tables),
    }
}

#[inline(always)]
fn journey<N: Network, B: Buffer>(
    packet: Packet<B>,
    link: Link,
    tables: &impl Tables,
) -> Result<Verdict, Refusal> {
    let offset = link.tags.link_len();
    let Some(header) = N::read(&packet, offset) else { return Ok(Verdict::Pass) };
    let Some(directory) = tables.directory() else { return Ok(Verdict::Pass) };
    let in_force = select::InForce::of(directory);
    let Some(vip) = select::vip(&header, in_force, tables) else { return Ok(Verdict::Pass) };

    let transport = header.transport(&packet, offset).map_err(Refusal::unknown)?;
    if !select::serves(vip, transport.protocol) {
        return Ok(Verdict::Pass);
    }
    let flow = Flow::read(&packet, offset, &header, transport).map_err(Refusal::unknown)?;
    let Some(service) = select::service(vip, &flow, in_force, tables) else {
        return Ok(Verdict::Pass);
    };
    let service_id = ServiceId(service.id);
    let refuse = |reason, backend| Refusal { reason, service: service_id, backend };
    if flow.fragment {
        return Err(refuse(DropReason::Fragment, BackendId::NONE));
    }

    let hash = select::hash(&header, &flow, service, tables);
    let backend =
        select::backend(hash, service, tables).map_err(|reason| refuse(reason, BackendId::NONE))?;
    let record = select::record(backend, tables).map_err(|reason| refuse(reason, backend))?;

    let egress = match record.egress_ifindex {
        0 => Egress::Ingress,
        ifindex if ifindex == packet.ingress_ifindex() => Egress::Ingress,
        _ => Egress::Port(record.egress_port),
    };
    let bytes = (offset + header.total_len()) as u32;
    let inner =
        rewrite::Inner { len: header.total_len(), traffic_class: header.traffic_class(), hash };
    rewrite::toward(packet, link, inner, record).map_err(|reason| refuse(reason, backend))?;
    Ok(Verdict::Forward(Forwarded {
        service: service_id,
        backend,
        egress,
        bytes,
        opens: flow.opens(),
    }))
}
