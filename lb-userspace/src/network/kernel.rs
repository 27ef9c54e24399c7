//! The questions to the kernel over netlink, and the stream of its events.
//!
//! Events have a socket of their own, so a flood of them loses no answer.

use std::{io, net::IpAddr, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use rtnetlink::{Handle, IpVersion, MulticastGroup, sys::AsyncSocket};

use super::{
    client_routes::{Listed, MOST_LISTED, Rule},
    interface::{Interface, InterfaceAddress},
    listing,
    message::{self, Event},
    neighbour::{NeighbourKey, NeighbourUpdate, Reachability},
    resolve::{RouteAnswer, known_without_asking},
};

/// How long an answer of the kernel is waited for; it comes within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions on their way at once.
const IN_FLIGHT: usize = 32;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Why the kernel's tables can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// No netlink socket.
    #[error("can't open a netlink socket for {purpose}: {source}")]
    Open {
        /// What it was for.
        purpose: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A table could not be read.
    #[error("can't read the kernel's {table} over netlink: {source}; it is tried again")]
    Dump {
        /// Which table.
        table: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The event socket ended.
    #[error("the netlink socket for events was closed; it is opened again")]
    Closed,
}

/// The interfaces and their addresses.
pub(super) struct InterfaceDump {
    pub(super) links: Vec<Interface>,
    pub(super) addresses: Vec<(u32, InterfaceAddress)>,
}

/// What the kernel lists of a family.
pub(super) struct Listing {
    pub(super) rules: Vec<Rule>,
    pub(super) routes: Vec<Listed>,
}

/// What came of a question for a neighbour.
pub(super) struct Probed {
    pub(super) key: NeighbourKey,
    /// The entry as it was before the question.
    pub(super) found: Option<NeighbourUpdate>,
    /// The `errno` with which the kernel refused to ask.
    pub(super) refused: Option<i32>,
}

/// Two netlink sockets, in the network namespace of the thread that opened them.
pub(super) struct Kernel {
    handle: Handle,
    events: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync + Unpin>,
}

impl Kernel {
    /// Opens the sockets. Needs a tokio runtime to drive them.
    pub(super) fn open(event_buffer_bytes: i32) -> Result<Self, NetworkError> {
        let open = |purpose| move |source| NetworkError::Open { purpose, source };
        let (questions, handle, _) =
            rtnetlink::new_connection().map_err(open("questions about routes and neighbours"))?;
        let (mut listener, _, events) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(open("events"))?;
        listener
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(event_buffer_bytes)
            .map_err(open("events"))?;
        tokio::spawn(questions);
        tokio::spawn(listener);
        Ok(Self { handle, events: Box::new(events.map(|(message, _)| message)) })
    }

    /// The next event that matters. Cancelling it loses none.
    pub(super) async fn event(&mut self) -> Result<Event, NetworkError> {
        loop {
            let message = self.events.next().await.ok_or(NetworkError::Closed)?;
            if let Some(event) = message::event(message) {
                return Ok(event);
            }
        }
    }

    /// The next event that is there already.
    pub(super) fn waiting_event(&mut self) -> Option<Result<Event, NetworkError>> {
        self.event().now_or_never()
    }

    /// All interfaces and addresses.
    pub(super) async fn interfaces(&self) -> Result<InterfaceDump, NetworkError> {
        let links = self.handle.link().get().execute();
        let links = dump("interfaces", links).await?;
        let addresses = self.handle.address().get().execute();
        let addresses = dump("addresses", addresses).await?;
        Ok(InterfaceDump {
            links: links.iter().map(message::interface).collect(),
            addresses: addresses
                .iter()
                .filter_map(message::address)
                .filter(|(_, _, usable)| *usable)
                .map(|(ifindex, address, _)| (ifindex, address))
                .collect(),
        })
    }

    /// All neighbours.
    pub(super) async fn neighbours(&self) -> Result<Vec<NeighbourUpdate>, NetworkError> {
        let neighbours = self.handle.neighbours().get().execute();
        let neighbours = dump("neighbours", neighbours).await?;
        Ok(neighbours.iter().filter_map(message::neighbour).collect())
    }

    /// The kernel's own route look-up for each destination.
    pub(super) async fn routes(&self, destinations: &[IpAddr]) -> Vec<(IpAddr, RouteAnswer)> {
        stream::iter(destinations.iter().copied())
            .map(|destination| async move { (destination, self.route(destination).await) })
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await
    }

    async fn route(&self, destination: IpAddr) -> RouteAnswer {
        if let Some(answer) = known_without_asking(destination) {
            return answer;
        }
        let mut request = RouteMessage::default();
        let (family, bits) = match destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = bits;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
        let mut answers = self.handle.route().get(request).execute();
        match tokio::time::timeout(PATIENCE, answers.try_next()).await {
            Ok(Ok(Some(answer))) => message::route(&answer),
            Ok(Ok(None)) => RouteAnswer::Failed("it gave no answer".into()),
            Ok(Err(error)) => message::route_error(&into_io(error)),
            Err(_) => RouteAnswer::Failed(format!("no answer within {PATIENCE:?}")),
        }
    }

    /// The routing rules of a family, and its routes in all tables, but not many more than
    /// [`MOST_LISTED`].
    ///
    /// By a socket of its own: it is closed in the midst of a table that has no end.
    pub(super) async fn list(family: AddressFamily) -> Result<Listing, NetworkError> {
        let version = if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
        let open = |source| NetworkError::Open { purpose: "the list of routes", source };
        let (connection, handle, _) = rtnetlink::new_connection().map_err(open)?;
        let connection = tokio::spawn(connection);
        let rules = dump("rules", handle.rule().get(version).execute()).await;
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = handle.route().get(request).execute().take(MOST_LISTED + 1);
        let routes = dump("routes", routes).await;
        connection.abort();
        Ok(Listing {
            rules: rules?.iter().map(listing::rule).collect(),
            routes: routes?.iter().filter_map(listing::listed).collect(),
        })
    }

    /// Makes the kernel ask for each neighbour, as if it had a packet for it (`NTF_USE`).
    pub(super) async fn probe(&self, keys: &[NeighbourKey]) -> Vec<Probed> {
        stream::iter(keys.iter().copied())
            .map(|key| self.probe_one(key))
            .buffer_unordered(IN_FLIGHT)
            .collect()
            .await
    }

    async fn probe_one(&self, key: NeighbourKey) -> Probed {
        // An entry that the operator set would become an ordinary one by `NTF_USE`: look first,
        // as its event may have been lost.
        let found = self.neighbour(key).await;
        if found.is_some_and(|update| update.reachability == Reachability::Fixed) {
            return Probed { key, found, refused: None };
        }
        let request = self
            .handle
            .neighbours()
            .add(key.ifindex, key.address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute();
        let refused = match tokio::time::timeout(PATIENCE, request).await {
            Ok(Err(error)) => into_io(error).raw_os_error(),
            Ok(Ok(())) | Err(_) => None,
        };
        Probed { key, found, refused }
    }

    /// One neighbour (kernel 5.0 and newer); `None` where there is no entry.
    async fn neighbour(&self, key: NeighbourKey) -> Option<NeighbourUpdate> {
        let mut request = NeighbourMessage::default();
        request.header.ifindex = key.ifindex;
        let (family, destination) = match key.address {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        request.header.family = family;
        request.attributes.push(NeighbourAttribute::Destination(destination));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).ok()?;
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.ok()??;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found)) => {
                message::neighbour(&found)
            }
            _ => None,
        }
    }
}

async fn dump<T>(
    table: &'static str,
    messages: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetworkError> {
    let failed = |source| NetworkError::Dump { table, source };
    match tokio::time::timeout(PATIENCE, messages.try_collect()).await {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(error)) => Err(failed(into_io(error))),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
