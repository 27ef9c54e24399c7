//! What can be typed. Doc comments here are the help texts and the reference.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser, value_parser};
use clap_complete::Shell;

use super::words::{BackendWord, Cidr, HealthWord};
use crate::{
    api::{EventKind, FlowFilter, NewWeight},
    config::{BackendSpec, ServiceSpec, parse_duration},
    model::{BackendKey, MacAddress},
    register::TlsFiles,
};

/// Names the agent's control socket where no option does.
const SOCKET_VARIABLE: &str = "XLB_SOCKET";

/// An XDP layer-4 load balancer
#[derive(Debug, Parser)]
#[command(name = "xlb", version)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Print JSON instead of text
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    // Neither a default nor the environment in clap's sense: it takes what comes from there for
    // typed, and shows the option as a part of the usage.
    /// The agent's control socket; left out, the environment's XLB_SOCKET, else /run/xlb/xlb.sock
    #[arg(long, global = true, display_order = 901, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl Global {
    /// The agent's control socket.
    pub fn socket(&self) -> PathBuf {
        let typed = self.socket.clone();
        let environment = || env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        typed
            .or_else(|| environment().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("/run/xlb/xlb.sock"))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Without an agent.
    #[command(flatten)]
    Local(Local),
    /// By the agent.
    #[command(flatten)]
    Remote(Remote),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write all pages into a directory
    Man {
        /// An existing directory
        directory: Option<PathBuf>,
    },
    /// Print a page of the reference, in Markdown
    #[command(hide = true)]
    Reference {
        /// Of what
        of: Page,
    },
}

/// A page of the reference.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Page {
    /// The command line
    Cli,
    /// The config file
    Config,
}

/// Verbs that do their work themselves.
#[derive(Debug, Subcommand)]
pub enum Local {
    /// Run the agent: load the program, attach it, and keep it right
    Run(RunArgs),
    /// Check a config file, and tell every mistake
    Check(CheckArgs),
    /// Send captured frames through the real program, on no interface
    ///
    /// All backends count as healthy. Where the config names no next hop, the stand-in
    /// 02:00:00:00:00:fe is used, and for tunnels without source_ipv4 or source_ipv6 the sources
    /// 192.0.2.254 and 2001:db8::fffe. Without hash_seed in the config the seed is 0, so the same
    /// frames go to the same backends each time, but not to those of an agent with a seed of its
    /// own.
    Replay(ReplayArgs),
    /// Decapsulate on a backend, in the foreground
    Decap(DecapArgs),
    /// Register this backend at agents, in the foreground, until SIGTERM
    ///
    /// It renews the registration at a third of the TTL. On SIGTERM or SIGINT the backend takes no
    /// new flows, and this ends once its open flows have ended: with status 0, or with 1 if they
    /// haven't within the drain timeout, at a second signal, or if the service has no other
    /// backend. If this is killed, the registration ends with its TTL. The agent needs a section `[api.register]`, and the
    /// service a `[service.discovery]` of type "register". The token can also stand in the
    /// environment's XLB_REGISTER_TOKEN.
    Register(RegisterArgs),
    /// Measure the loaded program on this machine, in ns per packet
    ///
    /// OF CLASSIC is the part of what a balancer with a connection table costs, measured in the
    /// same run. TARGET is the most that the figure before it may be: in ns for an idle machine of
    /// the reference kind (a core of an AMD EPYC server), as a part for any machine.
    Bench(BenchArgs),
}

/// `xlb run`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The config file; it is read again on SIGHUP and when it changes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// On SIGTERM, leave the program attached: packets are served on, by the last tables
    #[arg(long)]
    pub keep: bool,
}

/// `xlb check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The config file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `xlb replay`
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The config file; its interfaces needn't exist
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The frames, in pcap format
    #[arg(long, value_name = "IN.pcap")]
    pub read: PathBuf,
    /// Where every frame goes as the program left it
    #[arg(long, value_name = "OUT.pcap")]
    pub write: Option<PathBuf>,
}

/// `xlb decap`
#[derive(Args, Debug)]
pub struct DecapArgs {
    /// The interface that encapsulated packets arrive at
    #[arg(long, value_name = "IF")]
    pub interface: String,
    /// A network that balancers send from; left out, the networks that the interface is on
    #[arg(long, value_name = "CIDR")]
    pub from: Vec<Cidr>,
    /// A network namespace besides the interface's own whose sockets serve, by its name under /run/netns or by a path; at most 8
    #[arg(long, value_name = "NAME")]
    pub netns: Vec<String>,
    /// The directory of the pins; each interface has a folder of its own in it
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/xlb-decap")]
    pub pin_path: PathBuf,
}

/// `xlb register`
#[derive(Args, Debug)]
pub struct RegisterArgs {
    // Not a comment of documentation, where addresses would be links.
    #[arg(
        long,
        value_name = "URL",
        required = true,
        help = "An agent's registration address, such as http://10.0.0.2:9701 or https://lb.example.net:9701; may be given many times"
    )]
    pub agent: Vec<String>,
    /// Name of the service
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// How long the registration lasts without being renewed, 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub ttl: Duration,
    /// This backend's address; left out, the one that it reaches the agent from
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Its weight, 0 to 65535; left out, as the service's discovery says
    #[arg(long)]
    pub weight: Option<u16>,
    /// A file with the agents' token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authority that signed the agents' certificates; needed for https
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM file of this backend's certificate
    #[arg(long, value_name = "FILE", requires = "key", requires = "ca")]
    pub cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// On SIGTERM, how long to wait for open flows to end; as long as it takes, unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
}

impl RegisterArgs {
    /// The files for TLS.
    pub fn tls_files(&self) -> TlsFiles {
        let own = self.cert.clone().zip(self.key.clone());
        TlsFiles { ca: self.ca.clone(), own }
    }
}

/// `xlb bench`
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Packets in each run of a program
    #[arg(long, value_name = "NUMBER", default_value_t = 1 << 20, value_parser = value_parser!(u32).range(1..))]
    pub packets: u32,
    /// Rounds of runs, of which the median counts
    #[arg(long, value_name = "NUMBER", default_value_t = 15, value_parser = value_parser!(u32).range(1..))]
    pub rounds: u32,
}

/// Verbs that the agent does.
#[derive(Debug, Subcommand)]
pub enum Remote {
    /// Show the agent, its interfaces, services and backends
    Status,
    /// Show what was counted: traffic, passes, drops
    Stats,
    /// Show what happened; with --json, one object a line
    Events {
        /// Go on and show what happens
        #[arg(long)]
        follow: bool,
        /// Only what came after the event of that number; all, if the agent has started anew since
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        since: u64,
        /// Only what is about that service or a backend of it
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only that kind; may be given many times
        #[arg(long, value_name = "KIND")]
        kind: Vec<EventKind>,
    },
    /// Tell what the running balancer would do with a packet, step by step
    Explain(ExplainArgs),
    /// Show flows of backends under fullnat, or end them
    ///
    /// Flows of other forward modes have no entries, and are not shown.
    #[command(args_conflicts_with_subcommands = true)]
    Flows(FlowsArgs),
    /// Show and change services
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Show and change backends of a service
    #[command(subcommand)]
    Backend(BackendVerb),
}

/// `xlb flows`
#[derive(Args, Debug)]
pub struct FlowsArgs {
    /// End flows.
    #[command(subcommand)]
    pub verb: Option<FlowsVerb>,
    /// Which.
    #[command(flatten)]
    pub which: WhichFlows,
    /// Show so many at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub limit: usize,
}

/// `xlb flows kill`
#[derive(Debug, Subcommand)]
pub enum FlowsVerb {
    /// End flows: the client's next packet meets a reset of the backend
    Kill {
        /// Which.
        #[command(flatten)]
        which: WhichFlows,
        /// All that there are
        #[arg(long, conflicts_with_all = ["service", "backend", "client"], required_unless_present_any = ["service", "backend", "client"])]
        all: bool,
    },
}

/// Flows that fit all that is given.
#[derive(Args, Clone, Debug)]
pub struct WhichFlows {
    /// Only those of that service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those that live with that backend
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Option<BackendKey>,
    // Not a comment of documentation, where brackets would be links.
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        help = "Only those of that client: 192.0.2.1, 192.0.2.1:4711, [2001:db8::1]:4711"
    )]
    pub client: Option<String>,
}

impl WhichFlows {
    /// In the API's form.
    pub fn filter(self, limit: Option<usize>) -> FlowFilter {
        let backend = self.backend.map(|backend| backend.to_string());
        FlowFilter { service: self.service, backend, client: self.client, limit }
    }
}

/// `xlb explain`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Source address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = endpoint)]
    pub from: SocketAddr,
    /// Destination address and port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = endpoint)]
    pub to: SocketAddr,
    /// Transport protocol
    #[arg(long, value_parser = PROTOCOLS, default_value = "tcp")]
    pub protocol: String,
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.parse() {
        Ok(IpAddr::V4(address)) => format!("{address} has no port: such as {address}:4711"),
        Ok(IpAddr::V6(address)) => format!("{address} has no port: such as [{address}]:4711"),
        Err(_) => "give an address and a port: 192.0.2.1:4711 or [2001:db8::1]:4711".to_owned(),
    })
}

const PROTOCOLS: [&str; 2] = ["tcp", "udp"];
const FORWARDS: [&str; 5] = ["l2", "ipip", "gue", "nat", "fullnat"];
const AFFINITIES: [&str; 3] = ["flow", "source", "packet"];

/// `xlb service`
#[derive(Debug, Subcommand)]
pub enum ServiceVerb {
    /// List all services
    List,
    /// Show a service and its backends
    Show {
        /// Its name
        name: String,
    },
    /// Add a service; the agent keeps it across restarts
    Add(Box<ServiceAddArgs>),
    /// Remove a service, with its backends
    Remove {
        /// Its name
        name: String,
    },
}

/// `xlb service add`
#[derive(Args, Debug)]
pub struct ServiceAddArgs {
    /// Its name: visible characters, no spaces
    pub name: String,
    // Not a comment of documentation, where brackets would be links.
    #[arg(
        long,
        help = "Address and port that clients use: 203.0.113.10:80, [2001:db8::10]:443, 203.0.113.10:*"
    )]
    pub vip: String,
    /// Transport protocol
    #[arg(long, value_parser = PROTOCOLS, default_value = "tcp")]
    pub protocol: String,
    /// How packets travel to backends
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(FORWARDS))]
    pub forward: String,
    /// What stays with a backend; left out, flow
    #[arg(long, value_parser = PossibleValuesParser::new(AFFINITIES))]
    pub affinity: Option<String>,
    /// Answer echo requests to the VIP
    #[arg(long)]
    pub icmp_echo: bool,
    /// Slots of the ring, a prime; left out, it grows with the backends
    #[arg(long, value_name = "SLOTS")]
    pub ring_size: Option<u32>,
    #[arg(
        long,
        value_name = "CHECK",
        help = "How backends are checked: tcp, http[:/path], https[:/path], grpc[:service], udp:datagram, dns:name, none; left out, none"
    )]
    pub health: Option<HealthWord>,
    /// A backend, with a weight other than 100 as in 10.0.0.11=50; may be given many times
    #[arg(long = "backend", value_name = "ADDRESS[=WEIGHT]")]
    pub backends: Vec<BackendWord>,
}

/// `xlb backend`
#[derive(Debug, Subcommand)]
pub enum BackendVerb {
    /// List the backends of a service
    List {
        /// Name of the service
        service: String,
    },
    /// Add a backend; the agent keeps it across restarts
    Add(BackendAddArgs),
    /// Change a backend's weight
    Set {
        /// The backend.
        #[command(flatten)]
        backend: BackendArg,
        /// Its new weight, 0 to 65535; `configured` is what the config, or the backend's source,
        /// says now and later
        #[arg(long)]
        weight: NewWeight,
    },
    /// Give a backend no new flows; those that it has stay
    Drain(DrainArgs),
    /// Give a drained backend new flows again
    Undrain(BackendArg),
    /// Remove a backend; its open flows stay until they end
    Remove {
        /// The backend.
        #[command(flatten)]
        backend: BackendArg,
        /// Give its open flows up, too
        #[arg(long)]
        force: bool,
    },
}

/// A backend of a service.
#[derive(Args, Debug)]
pub struct BackendArg {
    /// Name of the service
    pub service: String,
    /// Address of the backend
    pub address: BackendKey,
}

/// `xlb backend drain`
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The backend.
    #[command(flatten)]
    pub backend: BackendArg,
    /// Wait until it has no flows any more
    #[arg(long)]
    pub wait: bool,
    /// With --wait: how long at most, such as 90s or 20m; then the status is 1
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = duration)]
    pub timeout: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "give a number with ms, s, m or h".to_owned())
}

/// `xlb backend add`
#[derive(Args, Debug)]
pub struct BackendAddArgs {
    /// The backend.
    #[command(flatten)]
    pub backend: BackendArg,
    /// Its weight, 0 to 65535; left out, 100
    #[arg(long)]
    pub weight: Option<u16>,
    /// The MAC address that its frames go to; left out, by the kernel's routes
    #[arg(long, value_name = "MAC")]
    pub next_hop: Option<MacAddress>,
    /// How packets travel to it; left out, as to the service's others
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(FORWARDS))]
    pub forward: Option<String>,
    /// It serves only while no other backend lives
    #[arg(long)]
    pub backup: bool,
}

impl ServiceAddArgs {
    /// In the API's form.
    pub fn spec(self) -> ServiceSpec {
        ServiceSpec {
            name: self.name,
            vip: self.vip,
            protocol: Some(self.protocol),
            forward: self.forward,
            ring_size: self.ring_size.map(Into::into),
            affinity: self.affinity,
            icmp_echo: self.icmp_echo.then_some(true),
            health: self.health.map(|HealthWord(spec)| spec),
            backends: self.backends.into_iter().map(|BackendWord(spec)| spec).collect(),
            ..ServiceSpec::default()
        }
    }
}

impl BackendAddArgs {
    /// In the API's form.
    pub fn spec(&self) -> BackendSpec {
        BackendSpec {
            address: self.backend.address.to_string(),
            weight: self.weight.map(Into::into),
            next_hop: self.next_hop.map(|mac| mac.to_string()),
            forward: self.forward.clone(),
            backup: self.backup.then_some(true),
        }
    }
}
