//! One question to a DNS server and its answer, without any memory of former ones.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::rr::{Name, Record, RecordType},
    system_conf::read_system_conf,
};

/// How long one question may take, before it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Times that a question is asked again.
const ATTEMPTS: usize = 2;
/// Longest answer by UDP in bytes that isn't cut into fragments on the way (DNS flag day 2020).
const UDP_BYTES: u16 = 1232;

/// Asks servers, by UDP, and by TCP where the answer doesn't fit.
pub(super) struct Resolver(TokioResolver);

/// The records of an answer, of the type that was asked for and of aliases on the way.
#[derive(Debug)]
pub(super) enum Reply {
    /// At least one.
    Records(Vec<Record>),
    /// The name doesn't exist, or has no such record; for so many seconds, where that is said.
    Nothing(Option<u32>),
}

impl Resolver {
    /// Of this server, or of the system's as they are configured now.
    pub(super) fn new(server: Option<SocketAddr>) -> Result<Self, String> {
        let (config, mut options) = match server {
            Some(server) => (of(server), Default::default()),
            None => {
                let (config, options) = read_system_conf()
                    .map_err(|error| format!("can't read /etc/resolv.conf: {error}"))?;
                // The names are whole: nothing is put behind them.
                let servers = config.name_servers().to_vec();
                (ResolverConfig::from_parts(None, Vec::new(), servers), options)
            }
        };
        options.timeout = PATIENCE;
        options.attempts = ATTEMPTS;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = true;
        options.edns_payload_len = UDP_BYTES;
        options.case_randomization = false;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.build().map(Self).map_err(|error| format!("can't ask the DNS: {error}"))
    }

    /// Asks for records of a name.
    ///
    /// # Errors
    /// There is no answer, or one that says that the server failed.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, String> {
        match self.0.lookup(name.clone(), kind).await {
            Ok(lookup) => Ok(Reply::Records(lookup.answers().to_vec())),
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code,
                negative_ttl,
                ..
            }))) if is_empty(response_code) => Ok(Reply::Nothing(negative_ttl)),
            Err(error) => Err(format!("{kind} of {name}: {error}")),
        }
    }
}

/// Whether a response without records says that there are none: the name has none of this type
/// (RFC 2308 section 2.2), or doesn't exist (section 2.1).
fn is_empty(code: hickory_resolver::proto::op::ResponseCode) -> bool {
    use hickory_resolver::proto::op::ResponseCode;
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn of(server: SocketAddr) -> ResolverConfig {
    let by = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![by(ConnectionConfig::udp()), by(ConnectionConfig::tcp())];
    let server = NameServerConfig::new(server.ip(), true, connections);
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}
