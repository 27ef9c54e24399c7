//! TLS around a probe's connection: whom to believe, and why not.

use std::{
    collections::HashMap,
    error::Error as _,
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use jiff::Timestamp;
use tokio::sync::OnceCell;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
        SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use super::{Clock, Failure, Reach, connection::Connection, excerpt::excerpt};
use crate::config::Tls;

/// Longest file of authorities that is read: some thousand certificates.
const CA_FILE_MAX: u64 = 8 << 20;

/// Kinds of TLS that are kept ready; a config has few.
const KEPT: usize = 64;

/// Names of a wrong certificate that are told.
const NAMES_TOLD: usize = 4;

/// What TLS needs, made once for all checks that need the same.
#[derive(Debug, Default)]
pub(super) struct TlsConfigs {
    kept: Mutex<HashMap<Tls, Kept>>,
    system: OnceCell<Arc<RootCertStore>>,
}

#[derive(Debug, Clone)]
struct Kept {
    /// The file of authorities as it was.
    stamp: Option<Stamp>,
    /// What was made of it, or what is wrong with it.
    made: Result<Arc<ClientConfig>, String>,
}

/// Why the authorities of a file can't be believed.
enum NoRoots {
    /// It can't be read, now.
    Unread(String),
    /// It can, and for as long as it stays the same it is of no use.
    Wrong(String),
}

/// Tells one content of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    changed: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self { length: file.len(), changed: file.modified().ok() })
    }
}

impl TlsConfigs {
    async fn get(&self, tls: &Tls) -> Result<Arc<ClientConfig>, Failure> {
        let stamp = tls.ca_file.as_deref().and_then(|path| Stamp::of(path).ok());
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(tls).cloned();
        if let Some(Kept { made, .. }) = kept.as_ref().filter(|kept| kept.stamp == stamp) {
            return made.clone().map_err(Failure::Local);
        }
        let roots = match &tls.ca_file {
            Some(path) => read_roots(path).map(|roots| Some(Arc::new(roots))),
            None if tls.verify => Ok(Some(self.system_roots().await?)),
            None => Ok(None),
        };
        let former = kept.and_then(|kept| kept.made.ok());
        let made = match (roots, former) {
            (Ok(roots), _) => Ok(Arc::new(make(tls, roots)?)),
            // While a file is being replaced, what it held is still good.
            (Err(NoRoots::Wrong(_)), Some(former)) => Ok(former),
            (Err(NoRoots::Unread(_)), Some(former)) => return Ok(former),
            // Thousands of checks may have the same file: it is read once, good or bad.
            (Err(NoRoots::Wrong(why)), None) => Err(why),
            (Err(NoRoots::Unread(why)), None) => return Err(Failure::Local(why)),
        };
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(tls.clone(), Kept { stamp, made: made.clone() });
        made.map_err(Failure::Local)
    }

    /// Read once: where they change, the agent is started anew.
    async fn system_roots(&self) -> Result<Arc<RootCertStore>, Failure> {
        let load = async || {
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let mut roots = RootCertStore::empty();
            if let Ok(found) = found {
                roots.add_parsable_certificates(found.certs);
            }
            match roots.is_empty() {
                false => Ok(Arc::new(roots)),
                true => Err(Failure::Local(
                    "this system has no certificates of authorities: install ca-certificates, \
                     or give ca_file"
                        .to_owned(),
                )),
            }
        };
        self.system.get_or_try_init(load).await.cloned()
    }
}

/// Without authorities, everybody is believed.
fn make(tls: &Tls, roots: Option<Arc<RootCertStore>>) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Local(format!("TLS: {error}")))?;
    let mut config = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    }
    .with_no_client_auth();
    config.alpn_protocols = tls.alpn.iter().map(|alpn| alpn.word().into()).collect();
    // A resumed session shows no certificate: one that has expired meanwhile would pass.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn read_roots(path: &Path) -> Result<RootCertStore, NoRoots> {
    let at = |what: &dyn fmt::Display| format!("ca_file {}: {what}", path.display());
    let unread = |error: io::Error| NoRoots::Unread(at(&error));
    // All checks wait meanwhile: not for whoever writes into a pipe of that name.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(unread)?;
    if !file.metadata().map_err(unread)?.is_file() {
        return Err(NoRoots::Unread(at(&"it is no file")));
    }
    let mut bytes = Vec::new();
    file.take(CA_FILE_MAX).read_to_end(&mut bytes).map_err(unread)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| NoRoots::Wrong(at(&error)))?;
        roots.add(certificate).map_err(|error| NoRoots::Wrong(at(&error)))?;
    }
    if roots.is_empty() {
        return Err(NoRoots::Wrong(at(&"there is no certificate in it, in PEM")));
    }
    Ok(roots)
}

/// Shakes hands with the backend.
pub(super) async fn wrap(
    stream: Connection,
    tls: &Tls,
    reach: Reach<'_>,
    configs: &TlsConfigs,
    clock: &Clock,
) -> Result<TlsStream<Connection>, Failure> {
    let name = match &tls.server_name {
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|error| Failure::Local(format!("server_name {name}: {error}")))?,
        None => ServerName::from(reach.target().ip()),
    };
    let connector = TlsConnector::from(configs.get(tls).await?);
    let shake = connector.connect(name, stream);
    clock
        .limit("shaking hands over TLS", shake)
        .await?
        .map_err(|error| Failure::Backend(why(&error, tls)))
}

/// What was wrong in a handshake.
fn why(error: &io::Error, tls: &Tls) -> String {
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the connection ended in the TLS handshake".to_owned(),
            _ => format!("TLS handshake: {error}"),
        };
    };
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error, tls),
        rustls::Error::InvalidMessage(_) => format!("the answer is not TLS: {error}"),
        rustls::Error::AlertReceived(alert) => {
            format!("the server broke off the TLS handshake: {alert:?}")
        }
        error => format!("TLS handshake: {error}"),
    }
}

/// What is wrong with a certificate.
fn certificate(error: &CertificateError, tls: &Tls) -> String {
    let day = |time: &UnixTime| {
        let time = i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok());
        time.map_or_else(String::new, |time| format!(" {time}"))
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate expired:{}", day(not_after))
        }
        CertificateError::Expired => "the certificate expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid yet, from{} on", day(not_before))
        }
        CertificateError::UnknownIssuer => {
            let believed = match &tls.ca_file {
                Some(path) => format!("in {}", path.display()),
                None => "among the system's authorities".to_owned(),
            };
            format!("the certificate's issuer is unknown: it is not {believed}")
        }
        CertificateError::BadSignature => {
            "the certificate is not signed by its issuer's key: a forgery, or the authority has \
             got a new key under its old name"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut names: Vec<_> =
                presented.iter().take(NAMES_TOLD).map(|name| excerpt(name.as_bytes())).collect();
            if presented.len() > NAMES_TOLD {
                names.push(format!("{} more", presented.len() - NAMES_TOLD));
            }
            let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            format!("the certificate is not for {}, it is for {names}", expected.to_str())
        }
        CertificateError::Other(other) => {
            let inner = other.0.source().map_or_else(|| other.to_string(), ToString::to_string);
            format!("the certificate is refused: {inner}")
        }
        error => format!("the certificate is refused: {error}"),
    }
}

/// Believes every certificate, for `verify = false`. Signatures of the handshake must be right all
/// the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
