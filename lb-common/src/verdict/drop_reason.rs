//! Why packets are refused.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was refused. Numbers and names are an interface: they are never given
        /// another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason's name in metrics, JSON and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }

        impl TryFrom<u32> for DropReason {
            type Error = u32;

            fn try_from(number: u32) -> Result<Self, u32> {
                match number { $($number => Ok(Self::$variant),)+ other => Err(other) }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before the headers or lengths inside it do.
    Truncated = 1, "truncated";
    /// A header contradicts itself: version, header length or datagram length.
    Malformed = 2, "malformed";
    /// The TTL or hop limit arrived as 0 (RFC 1122 section 3.2.1.7, RFC 8200 section 3).
    Expired = 3, "expired";
    /// A fragment, whose ports are not known.
    Fragment = 4, "fragment";
    /// An IPv6 extension header that the program doesn't read.
    Ipv6Extension = 5, "ipv6_extension";
    /// The service has no backend that takes packets.
    NoBackend = 6, "no_backend";
    /// The backend's next hop has no known link-layer address yet.
    Unresolved = 7, "unresolved";
    /// The packet doesn't fit the way to the backend once it is encapsulated.
    TooBig = 8, "too_big";
    /// The driver has no room in front of the packet for another header.
    NoHeadroom = 9, "no_headroom";
    /// The tables contradict themselves: a ring names a backend that has no record.
    Inconsistent = 10, "inconsistent";
    /// Decapsulation: what follows the outer header is no IP packet that fits it.
    BadInner = 11, "bad_inner";
    /// Decapsulation: a GUE header of a version, kind or length that we don't speak.
    BadGue = 12, "bad_gue";
    /// Decapsulation: congestion was marked outside a flow that can't hear it (RFC 6040).
    EcnDiscard = 13, "ecn_discard";
    /// Decapsulation: another backend may have the connection, and the way to it isn't known yet.
    CandidateUnresolved = 14, "candidate_unresolved";
    /// Decapsulation: another backend may have the connection, and the outer TTL or hop limit is
    /// spent.
    NoHopLeft = 15, "no_hop_left";
    /// An answer of a backend: this host has no way to the client that packets may be sent by.
    NoRoute = 16, "no_route";
    /// An answer of a backend came in by an interface that this host forwards no packets of.
    ForwardingOff = 17, "forwarding_off";
    /// An answer of a backend: the next hop toward the client has no known link-layer address yet.
    ClientUnresolved = 18, "client_unresolved";
    /// Under `fullnat`, no free port toward the backend was found for a new flow.
    PortsExhausted = 19, "ports_exhausted";
    /// Under `fullnat`, the table of flows has no room for a new one.
    FlowTableFull = 20, "flow_table_full";
    /// Under `fullnat`, a reset of a connection that nobody knows.
    NoFlow = 21, "no_flow";
    /// An echo request to a VIP: this second's replies are used up.
    RateLimited = 22, "rate_limited";
    /// Between IPv4 and IPv6, a datagram without a checksum, which IPv6 demands: one that came by
    /// IPv6, or one by IPv4 that is too long to be given one.
    Unsummed = 23, "unsummed";
    /// Between IPv4 and IPv6, a packet whose options say by which hosts it goes (RFC 7915 section
    /// 4.1).
    SourceRoute = 24, "source_route";
    /// Between IPv4 and IPv6, an ICMP error that the other family has no words for.
    Untranslatable = 25, "untranslatable";
}

impl DropReason {
    /// The reason's number, 0 for none.
    #[inline(always)]
    pub const fn number(reason: Option<Self>) -> u32 {
        match reason {
            Some(reason) => reason as u32,
            None => 0,
        }
    }

    /// The reasons that a balancer can have; the others are decapsulation's.
    pub const BALANCER: &'static [Self] = &[
        Self::Truncated,
        Self::Malformed,
        Self::Expired,
        Self::Fragment,
        Self::Ipv6Extension,
        Self::NoBackend,
        Self::Unresolved,
        Self::TooBig,
        Self::NoHeadroom,
        Self::Inconsistent,
        Self::NoRoute,
        Self::ForwardingOff,
        Self::ClientUnresolved,
        Self::PortsExhausted,
        Self::FlowTableFull,
        Self::NoFlow,
        Self::RateLimited,
        Self::Unsummed,
        Self::SourceRoute,
        Self::Untranslatable,
    ];
}
