//! What XDP program an interface runs, asked over netlink.

use std::io;

use aya::programs::{loaded_links, loaded_programs};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::attach::Mode;

/// The program that an interface runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct XdpState {
    /// How; `None` if no program is there or it runs on the NIC.
    pub(super) mode: Option<Mode>,
    /// Its number, 0 if it isn't known.
    pub(super) program_id: u32,
}

impl XdpState {
    /// Asks the kernel.
    pub(super) fn of(ifindex: u32) -> io::Result<Self> {
        let mut state = Self::default();
        for attribute in link(ifindex)?.attributes {
            let LinkAttribute::Xdp(attributes) = attribute else { continue };
            for attribute in attributes {
                match attribute {
                    LinkXdp::Attached(XdpAttached::Driver) => state.mode = Some(Mode::Native),
                    LinkXdp::Attached(XdpAttached::SocketBuffer) => {
                        state.mode = Some(Mode::Generic)
                    }
                    LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id) => state.program_id = id,
                    _ => {}
                }
            }
        }
        Ok(state)
    }

    /// Whether a BPF link holds the program, of whatever process. Programs that came over netlink
    /// (`ip link`) have none. `false`, too, where the kernel doesn't tell: that takes
    /// `CAP_SYS_ADMIN`.
    pub(super) fn is_held_by_link(&self) -> bool {
        let mut links = loaded_links().filter_map(Result::ok);
        self.program_id != 0 && links.any(|link| link.program_id() == self.program_id)
    }

    /// The program for people.
    pub(super) fn describe(self) -> String {
        let Self { program_id, .. } = self;
        let name = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == program_id)
            .and_then(|program| program.name_as_str().map(str::to_owned));
        match (program_id, name) {
            (0, _) => "of an unknown number".to_owned(),
            (id, None) => format!("number {id}"),
            (id, Some(name)) => format!("number {id}, {name}"),
        }
    }
}

fn link(ifindex: u32) -> io::Result<LinkMessage> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    let question = RouteNetlinkMessage::GetLink(question);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "netlink answered something else")),
    }
}
