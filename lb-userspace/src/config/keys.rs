//! Every key of the config, once: what the parser knows and what the reference shows.

/// A key of a section.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub allowed: &'static str,
    pub meaning: &'static str,
}

/// The type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    TextOrInteger,
    Boolean,
    List,
    Table,
    Tables,
}

impl Kind {
    /// Its name, with an article where it needs one.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "an integer",
            Self::Boolean => "a boolean",
            Self::TextOrInteger => "text or an integer",
            Self::List => "a list of texts",
            Self::Table => "a table",
            Self::Tables => "a list of tables",
        }
    }
}

/// What holds where a key is left out.
#[derive(Debug)]
pub(super) enum Default {
    /// It can't be left out.
    Required,
    /// This value.
    Text(&'static str),
    /// This value.
    Integer(i64),
    /// This value.
    Boolean(bool),
    /// What the words say.
    Otherwise(&'static str),
}

/// A table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// How its header is written; empty for the top of the file.
    pub header: &'static str,
    pub about: &'static str,
    pub keys: &'static [&'static Key],
}

/// Every section, in the order of the file.
pub(super) static SECTIONS: &[&Section] = &[
    &top::SECTION,
    &fullnat::SECTION,
    &api::SECTION,
    &register::SECTION,
    &service::SECTION,
    &health::SECTION,
    &discovery::SECTION,
    &agent_check::SECTION,
    &load::SECTION,
    &backend::SECTION,
];

macro_rules! section {
    ($module:ident, $header:literal, $about:literal;
     $($id:ident = $name:literal, $kind:ident, $default:expr, $allowed:literal, $meaning:literal;)+
    ) => {
        pub(super) mod $module {
            use super::{Default::*, Key, Kind, Section};

            $(pub(in crate::config) static $id: Key = Key {
                name: $name, kind: Kind::$kind, default: $default,
                allowed: $allowed, meaning: $meaning,
            };)+

            pub(in crate::config) static SECTION: Section = Section {
                header: $header, about: $about, keys: &[$(&$id),+],
            };

        }
    };
}

section! { top, "", "Keys at the top of the file, before any header.";
    INTERFACES = "interfaces", List, Required,
        "names of one or more interfaces, each once",
        "Where packets come in: the program is attached to each.";
    XDP_MODE = "xdp_mode", Text, Text("auto"),
        "\"auto\", \"native\" or \"generic\"",
        "How the program is attached: by the driver, by the kernel's generic hook, or by the driver where it can.";
    HASH_SEED = "hash_seed", Text, Otherwise("a random one, kept in the state file"),
        "\"0x\" and 1 to 16 hex digits",
        "Key of the flow hash. The balancers of a fleet need the same; clients must not know it.";
    NEXT_HOP = "next_hop", Text, Text("auto"),
        "\"auto\" or the MAC address of one interface",
        "Where frames to all backends go: as the kernel's routes and neighbours say, or always to this address.";
    PIN_PATH = "pin_path", Text, Text("/sys/fs/bpf/xlb"),
        "an absolute path on a bpf file system",
        "Directory of the pinned programs and maps; one for each agent of a host.";
    STATE_FILE = "state_file", Text, Text("/var/lib/xlb/state.json"),
        "an absolute path",
        "What the agent keeps across restarts.";
    SOURCE_IPV4 = "source_ipv4", Text, Otherwise("the outgoing interface's address"),
        "an IPv4 address",
        "Source of outer IPv4 headers in `ipip` and `gue`, and of packets in `fullnat`.";
    SOURCE_IPV6 = "source_ipv6", Text, Otherwise("the outgoing interface's address"),
        "an IPv6 address",
        "Source of outer IPv6 headers in `ipip` and `gue`, and of packets in `fullnat`.";
    FLOW_CAPACITY = "flow_capacity", Integer, Integer(1_000_000),
        "an integer from 1024 to 67108864",
        "Most flows that are remembered at a time while backends change.";
    ICMP_ECHO = "icmp_echo", Boolean, Boolean(false),
        "true or false",
        "Whether echo requests (ping) to VIPs are answered by the program; else they go to the kernel.";
    ON_EVENT = "on_event", List, Otherwise("none"),
        "a command and its arguments: an absolute path or a plain name, such as [\"/usr/local/bin/tell\", \"--urgent\"]",
        "The command that is run for each event, with the event as JSON on standard input. No shell; with the agent's rights.";
    ON_EVENT_TIMEOUT = "on_event_timeout", Text, Text("10s"),
        "a duration from \"100ms\" to \"10m\"",
        "When a run of that command is killed.";
    FULLNAT = "fullnat", Table, Otherwise("its keys' defaults"),
        "the section `[fullnat]`",
        "Flows of backends under `fullnat`.";
    API = "api", Table, Otherwise("its keys' defaults"),
        "the section `[api]`",
        "The control socket and the metrics.";
    SERVICE = "service", Tables, Otherwise("none"),
        "sections `[[service]]`",
        "The services, a section each.";
}

section! { fullnat, "[fullnat]",
    "Flows of backends under `fullnat`: packets come to a backend from an address and a port of a pool.";
    POOL_IPV4 = "pool_ipv4", List, Otherwise("`source_ipv4`, else the outgoing interface's address"),
        "1 to 64 IPv4 addresses, each once",
        "What packets toward IPv4 backends come from. Answers to each address must come in by one of `interfaces`.";
    POOL_IPV6 = "pool_ipv6", List, Otherwise("`source_ipv6`, else the outgoing interface's address"),
        "1 to 64 IPv6 addresses, each once",
        "What packets toward IPv6 backends come from. Answers to each address must come in by one of `interfaces`.";
    PORTS = "ports", Text, Text("1024-32767"),
        "a first and a last port from 1 to 65535, such as \"1024-32767\": at least 64 ports",
        "The ports of each address: so many flows of a protocol at a time between it and one port of one backend. Without `net.ipv4.ip_local_reserved_ports` none of them should be one that this host's own connections use.";
    FLOW_CAPACITY = "flow_capacity", Integer, Integer(1_000_000),
        "an integer from 1024 to 67108864",
        "Most flows at a time. Each takes about 250 bytes while it is there.";
    OPENING_TIMEOUT = "opening_timeout", Text, Text("30s"),
        "a duration from \"1s\" to \"10m\"",
        "How long a flow may be quiet that backend and client haven't both gone on with. Near the most flows it is 3 s.";
    CLOSING_TIMEOUT = "closing_timeout", Text, Text("60s"),
        "a duration from \"1s\" to \"10m\"",
        "How long a port stays taken after a connection that the backend closed first: as long as the backend remembers it (TIME-WAIT).";
}

section! { api, "[api]", "How the agent is reached.";
    SOCKET = "socket", Text, Text("/run/xlb/xlb.sock"),
        "an absolute path of at most 107 bytes",
        "The Unix socket that the command line talks to.";
    METRICS = "metrics", Text, Otherwise("no metrics"),
        "an IP address and a port, such as \"127.0.0.1:9700\" or \"[::1]:9700\"",
        "Where Prometheus finds `/metrics`.";
    REGISTER = "register", Table, Otherwise("nobody can register"),
        "the section `[api.register]`",
        "Where backends register themselves.";
}

section! { register, "[api.register]",
    "Where backends register themselves by `xlb register`. `token_file` or `client_ca` is required, or both: then each client needs both. Nothing else of the API is there.";
    LISTEN = "listen", Text, Required,
        "an IP address and a port, such as \"10.0.0.2:9701\"",
        "Where the agent listens.";
    TOKEN_FILE = "token_file", Text, Otherwise("no token is asked for"),
        "an absolute path of a file with one token a line, each of 16 to 512 visible ASCII characters",
        "Tokens, one of which a client must show. It is read again when it changes.";
    TLS_CERT = "tls_cert", Text, Otherwise("plain HTTP: a token can be read on the way"),
        "an absolute path of a PEM file; with `tls_key`",
        "The agent's certificate and those up to the authority. Read again when it changes.";
    TLS_KEY = "tls_key", Text, Otherwise("plain HTTP"),
        "an absolute path of a PEM file; with `tls_cert`",
        "The private key of the certificate.";
    CLIENT_CA = "client_ca", Text, Otherwise("no client certificate is asked for"),
        "an absolute path of a PEM file; with `tls_cert` and `tls_key`",
        "Authorities, one of which must have signed a client's certificate.";
    ANY_ADDRESS = "any_address", Boolean, Boolean(false),
        "true or false",
        "Whether a client may register another address than the one that it comes from.";
}

section! { service, "[[service]]",
    "A service. No two have the same name, or the same VIP, port and protocol; on one VIP a service with a port goes before the one with any port.";
    NAME = "name", Text, Required,
        "1 to 63 visible characters, no spaces",
        "The service's name in commands, metrics and events.";
    VIP = "vip", Text, Required,
        "\"203.0.113.10:80\", \"[2001:db8::10]:443\", or for any port \"203.0.113.10:*\"",
        "The virtual address and the port.";
    PROTOCOL = "protocol", Text, Text("tcp"),
        "\"tcp\" or \"udp\"",
        "What the service speaks.";
    FORWARD = "forward", Text, Required,
        "\"l2\", \"ipip\", \"gue\", \"nat\" or \"fullnat\"",
        "How packets travel to the backends, which must be set up for it.";
    RING_SIZE = "ring_size", Integer, Otherwise("grows with the backends"),
        "a prime from 2 to 1048573, at least the number of backends",
        "Slots of the consistent-hash table. More slots share the load more evenly; another size \
         moves nearly all of them.";
    AFFINITY = "affinity", Text, Text("flow"),
        "\"flow\", \"source\" or \"packet\"",
        "What stays with a backend: a flow, all of a client's flows, or nothing beyond the packet.";
    ICMP_ECHO = "icmp_echo", Boolean, Otherwise("as at the top"),
        "true or false",
        "Whether echo requests to the VIP are answered, for whichever of its services that is said.";
    UDP_TIMEOUT = "udp_timeout", Text, Text("60s"),
        "a duration from \"1s\" to \"24h\"",
        "How long a UDP flow may be quiet and still be one flow.";
    TCP_IDLE = "tcp_idle", Text, Text("15m"),
        "a duration from \"1s\" to \"168h\"",
        "How long a TCP connection may be quiet and still be kept on its backend through a change.";
    SLOW_START = "slow_start", Text, Text("0s"),
        "a duration from \"0s\" to \"1h\"",
        "How long a new or recovered backend takes from a tenth of its weight to all of it; \"0s\" is at once.";
    PANIC_THRESHOLD = "panic_threshold", Text, Text("30%"),
        "a percentage from \"0%\" to \"100%\"",
        "When less than this part of the weight is healthy, failed backends are used as well; \"0%\" never.";
    MAX_FLAPPING = "max_flapping", Integer, Integer(0),
        "an integer from 0 to 1000",
        "How often a backend may fail and recover within `flapping_window` before it is held back for a while; 0 is as often as it likes.";
    FLAPPING_WINDOW = "flapping_window", Text, Text("1m"),
        "a duration from \"1s\" to \"24h\"",
        "The time that `max_flapping` counts in. A backend is held back for half of it at first, for twice as long each time that it flaps again, and for at most 16 times.";
    HEALTH = "health", Table, Otherwise("no check: always healthy"),
        "the section `[service.health]`",
        "How the backends are checked.";
    DISCOVERY = "discovery", Table, Otherwise("no more backends than those named here"),
        "the section `[service.discovery]`",
        "Where more backends are found, besides those named here.";
    AGENT_CHECK = "agent_check", Table, Otherwise("nobody is asked"),
        "the section `[service.agent_check]`",
        "An agent on each backend that says what the backend shall do.";
    LOAD = "load", Table, Otherwise("load is not followed"),
        "the section `[service.load]`",
        "How live weights follow the backends' load.";
    BACKEND = "backend", Tables, Otherwise("none: packets are dropped with the reason `no_backend`"),
        "sections `[[service.backend]]`",
        "The backends, a section each.";
}

section! { health, "[service.health]",
    "The check of a service's backends. A key that the type doesn't have is a mistake, but for type \"none\", which ignores all others but `via`.";
    TYPE = "type", Text, Required,
        "\"tcp\", \"http\", \"https\", \"grpc\", \"udp\", \"dns\", \"exec\" or \"none\"",
        "A connection that opens, a request that is answered as expected, a program that ends with status 0, or no check.";
    PORT = "port", Integer, Otherwise("the backend's own port, else the service's"),
        "a port from 1 to 65535",
        "The port that is checked. Required where the service takes any port.";
    VIA = "via", Text, Otherwise("\"vip\"; with `nat` and `fullnat` \"address\""),
        "\"vip\" or \"address\"; not with type \"exec\" or \"none\", and \"vip\" not with `nat` or `fullnat`",
        "Where probes go: to the VIP on that backend, in frames like those of clients, so that a missing VIP or decapsulation shows; or to the backend's own address.";
    INTERVAL = "interval", Text, Text("1s"),
        "a duration from \"10ms\" to \"1h\"",
        "From one check to the next.";
    FAST_INTERVAL = "fast_interval", Text, Otherwise("the interval"),
        "a duration from \"10ms\" up to the interval",
        "From one check to the next while a change is being decided: before the first answer, and while the last answers contradict what the backend counts as.";
    JITTER = "jitter", Text, Text("10%"),
        "a percentage from \"0%\" to \"50%\"",
        "Each interval is drawn anew, longer or shorter by up to this part, so that checks don't march in step.";
    TIMEOUT = "timeout", Text, Otherwise("500ms, or the interval where that is shorter"),
        "a duration from \"1ms\" up to the interval",
        "When a check that isn't answered, from the connection to the answer's end, has failed.";
    RISE = "rise", Integer, Integer(2),
        "an integer from 1 to 100",
        "Good checks in a row that make a failed backend healthy.";
    FALL = "fall", Integer, Integer(3),
        "an integer from 1 to 100",
        "Failed checks in a row that make a healthy backend failed.";
    PATH = "path", Text, Text("/"),
        "a path that starts with `/`, of visible ASCII characters; only with type \"http\" or \"https\"",
        "What is asked for.";
    METHOD = "method", Text, Text("GET"),
        "\"GET\", \"HEAD\" or \"OPTIONS\"; only with type \"http\" or \"https\"",
        "The method of the request, which has no body.";
    HOST = "host", Text, Otherwise("the backend's address and port"),
        "a host name, with a port where needed, of visible ASCII characters; only with type \"http\", \"https\" or \"grpc\"",
        "The Host header, or the authority.";
    EXPECT_STATUS = "expect_status", TextOrInteger, Text("200-399"),
        "a status from 100 to 599 such as 200, or statuses and ranges such as \"200-299, 404\"; only with type \"http\" or \"https\"",
        "The statuses of a healthy backend.";
    EXPECT_BODY = "expect_body", Text, Otherwise("any"),
        "1 to 1024 bytes; only with type \"http\" or \"https\", and not with the method HEAD",
        "Text that stands somewhere in the first 64 KiB of the body, letter by letter.";
    EXPECT_HEADER = "expect_header", Text, Otherwise("none"),
        "a header's name, or \"Name: value\"; only with type \"http\" or \"https\"",
        "A header that the response has, with exactly this value where one is given.";
    VERIFY = "verify", Boolean, Boolean(true),
        "true or false; only with type \"https\", or \"grpc\" and `tls`",
        "Whether the certificate must be of a known authority, in its time and for the server's name.";
    CA_FILE = "ca_file", Text, Otherwise("the system's authorities"),
        "an absolute path; only with type \"https\", or \"grpc\" and `tls`",
        "The authorities that are believed, as certificates in PEM. It is read anew when it changes.";
    SERVER_NAME = "server_name", Text, Otherwise("`host`, or the backend's address"),
        "a DNS name or an IP address; only with type \"https\", or \"grpc\" and `tls`",
        "Whom the certificate must be for; a name is also sent (SNI).";
    ALPN = "alpn", List, Otherwise("`[\"http/1.1\"]`"),
        "a list of \"http/1.1\" and \"h2\", each at most once; only with type \"https\"",
        "The HTTP versions that are offered, the best first; the one that the server picks is spoken.";
    TLS = "tls", Boolean, Boolean(false),
        "true or false; only with type \"grpc\"",
        "Whether the call goes over TLS.";
    GRPC_SERVICE = "grpc_service", Text, Text(""),
        "at most 255 visible ASCII characters; only with type \"grpc\"",
        "The service whose health is asked for; empty is the server's as a whole.";
    SEND = "send", Text, Otherwise("**required** with type \"udp\""),
        "text of 1 to 1024 bytes, or such bytes as \"hex:00ff\"; only with type \"udp\"",
        "The datagram that is sent.";
    EXPECT = "expect", Text, Otherwise("any answer"),
        "text of 1 to 1024 bytes, or such bytes as \"hex:00ff\"; only with type \"udp\"",
        "What stands somewhere in the answer.";
    QUERY = "query", Text, Otherwise("**required** with type \"dns\""),
        "a domain name, such as \"www.example.com\"; only with type \"dns\"",
        "The name that is asked for.";
    QUERY_TYPE = "query_type", Text, Text("A"),
        "\"A\", \"AAAA\", \"CNAME\", \"MX\", \"NS\", \"PTR\", \"SOA\", \"SRV\" or \"TXT\"; only with type \"dns\"",
        "The type of records that is asked for.";
    EXPECT_RCODE = "expect_rcode", Text, Text("NOERROR"),
        "\"NOERROR\", \"FORMERR\", \"SERVFAIL\", \"NXDOMAIN\", \"NOTIMP\" or \"REFUSED\"; only with type \"dns\"",
        "The answer's code. NOERROR alone doesn't ask for any record.";
    EXPECT_ANSWER = "expect_answer", Text, Otherwise("any, or none"),
        "1 to 255 visible characters; only with type \"dns\"",
        "A record that is among the answers: its address, its name, or its data as zone files write it.";
    COMMAND = "command", List, Otherwise("**required** with type \"exec\""),
        "an absolute path, and up to 63 arguments; only with type \"exec\"",
        "The program that is run, without a shell and as the agent's user, with XLB_SERVICE, XLB_VIP, XLB_PORT, XLB_BACKEND and XLB_BACKEND_PORT in its environment.";
}

section! { discovery, "[service.discovery]",
    "Where more backends of the service are found, besides its `[[service.backend]]`, which stay. What fails, or says that there is none, takes no backend out.";
    TYPE = "type", Text, Required,
        "\"dns\", \"directory\" or \"register\"",
        "By names, by files in a directory, or by the backends' own word (`xlb register`, which needs `[api.register]`).";
    NAME = "name", Text, Otherwise("none; required with type \"dns\""),
        "a domain name, such as \"web.example.net\" or \"_web._tcp.example.net\"",
        "The name that is asked for, as it stands: no search domain is put behind it.";
    RECORD = "record", Text, Text("address"),
        "\"address\", \"a\", \"aaaa\" or \"srv\"; only with type \"dns\"",
        "What is asked for: A and AAAA (with `l2` and `nat` only the VIP's family), one of them, or SRV and the addresses of its targets. Of SRV, the lowest-numbered priority serves, and others are backups; weights are taken over, ports are not.";
    SERVER = "server", Text, Otherwise("the servers of /etc/resolv.conf"),
        "an IP address, with a port where that isn't 53; only with type \"dns\"",
        "The DNS server that is asked.";
    WEIGHT = "weight", Integer, Integer(100),
        "an integer from 0 to 65535; with type \"dns\" or \"register\"",
        "The weight of a backend for which the source names none.";
    MIN_TTL = "min_ttl", Text, Text("1s"),
        "a duration from \"1s\" to \"168h\"; only with type \"dns\"",
        "An answer is asked for again after its TTL, but not sooner.";
    MAX_TTL = "max_ttl", Text, Text("5m"),
        "a duration from \"1s\" to \"168h\"; only with type \"dns\"",
        "An answer is asked for again after this time, whatever its TTL.";
    PATH = "path", Text, Otherwise("none; required with type \"directory\""),
        "an absolute path of a directory; only with type \"directory\"",
        "Its `*.toml` and `*.json` files each have a list `backend`, with the keys of `[[service.backend]]`. Files whose names begin with a dot are left alone.";
    ALLOW_EMPTY = "allow_empty", Boolean, Boolean(false),
        "true or false",
        "Whether a source that says that there is no backend is believed. If not, those that it last told stay.";
}

section! { fragment, "", "A file of a `[service.discovery]` directory.";
    BACKEND = "backend", Tables, Otherwise("none"),
        "a list of backends, with the keys of `[[service.backend]]`; `[]` for none",
        "The backends, a section each.";
}

section! { agent_check, "[service.agent_check]",
    "An agent on each backend is asked for a line of words as HAProxy's agent-check has them: `75%`, `up`, `down`, `drain`, `maint`, `ready`. An agent that doesn't answer changes nothing.";
    PORT = "port", Integer, Required,
        "a port from 1 to 65535",
        "The agent's TCP port, at the backend's own address.";
    INTERVAL = "interval", Text, Text("2s"),
        "a duration from \"100ms\" to \"1h\"",
        "From one question to the next.";
    TIMEOUT = "timeout", Text, Otherwise("1s, or the interval where that is shorter"),
        "a duration from \"1ms\" up to the interval",
        "How long an answer may take, from the connection to its line's end.";
    SEND = "send", Text, Otherwise("nothing: the agent speaks first"),
        "1 to 1024 bytes",
        "What is sent to the agent, as it stands; a line end is written `\\n`.";
}

section! { load, "[service.load]",
    "Live weights follow how loaded the backends say that they are, so that all are about equally utilised. The least loaded one keeps its full weight.";
    SOURCE = "source", Text, Required,
        "\"orca\" or \"agent\"",
        "Where reports come from: `orca` is the `endpoint-load-metrics` header in the responses to the http check; with `agent`, the percentage that the agent on a backend says is what it has idle.";
    SMOOTHING = "smoothing", Text, Text("15s"),
        "a duration from \"1s\" to \"10m\"",
        "Time constant of the mean that decides. No less than a change of load takes to show in the reports.";
    FLOOR = "floor", Text, Text("10%"),
        "a percentage from \"1%\" to \"100%\"",
        "A backend is never given less than this part of its weight for its load.";
    MAX_STEP = "max_step", Text, Text("5%"),
        "a percentage from \"1%\" to \"100%\"",
        "The most of its weight that a backend gains or loses in a second.";
    STALE_AFTER = "stale_after", Text, Text("10s"),
        "a duration from \"1s\" to \"1h\"",
        "A backend whose last report is older goes back to its full weight, slowly.";
}

section! { backend, "[[service.backend]]", "A backend. No two of a service have the same address.";
    ADDRESS = "address", Text, Required,
        "an address such as \"10.0.0.11\" or \"2001:db8::11\", with `l2` and `nat` of the VIP's family; with `nat` and `fullnat` it may carry a port, \"10.0.0.11:8080\" or \"[2001:db8::11]:8080\"",
        "The backend's own address, and under `nat` and `fullnat` the port that packets are sent to: without one they keep theirs.";
    WEIGHT = "weight", Integer, Integer(100),
        "an integer from 0 to 65535",
        "Its share of the service's flows, by the sum of all weights.";
    NEXT_HOP = "next_hop", Text, Otherwise("as at the top of the file"),
        "the MAC address of one interface, such as \"02:00:00:00:00:11\"",
        "Where frames to this backend go.";
    FORWARD = "forward", Text, Otherwise("the service's"),
        "\"l2\", \"ipip\", \"gue\", \"nat\" or \"fullnat\"",
        "How packets travel to this backend.";
    BACKUP = "backup", Boolean, Boolean(false),
        "true or false",
        "Whether it serves only while no other backend lives.";
}
