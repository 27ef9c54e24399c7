//! One request to an agent's door, over a connection of its own.

use std::{
    error::Error as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use super::agent::Wish;
use crate::{
    api::{Envelope, Leaving, Registration},
    cli::WrongInput,
    discovery::door::{certificates, roots},
};

/// The door's port where a URL names none.
const PORT: u16 = 9701;
/// Where the token stands, if no option names a file.
const TOKEN_VARIABLE: &str = "XLB_REGISTER_TOKEN";
/// Longest answer in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody answers.
    #[error("can't reach it: {0}")]
    Unreachable(#[from] io::Error),
    /// Not in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// No agent answers.
    #[error("the answer is not an agent's: {0}")]
    Garbled(String),
    /// The agent doesn't know of such a registration.
    #[error("it knows of no registration")]
    Unknown,
    /// The agent can't do it now.
    #[error("it can't do that now: {0}")]
    Unable(String),
    /// The agent doesn't want it.
    #[error("{0}")]
    Refused(String),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
        let io = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
        // By TLS 1.3 the agent judges a client's certificate after the client's first request.
        match io.and_then(io::Error::get_ref).and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Refused(format!(
                "it ended the handshake ({alert:?}): its client_ca must have signed this backend's \
                 certificate, and --cert name that"
            )),
            _ => match io {
                Some(io) => Self::Garbled(io.to_string()),
                None => Self::Garbled(error.to_string()),
            },
        }
    }
}

/// Files in the PEM format, as they were typed.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Who signs agents' certificates.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its private key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// The files with what a client shows, and whom it believes. They are read for each request:
/// tokens and certificates are replaced while registrations last.
pub(super) struct Access {
    token_file: Option<PathBuf>,
    files: TlsFiles,
    last: Mutex<Keys>,
}

/// What the files say.
#[derive(Clone)]
struct Keys {
    token: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

impl Access {
    /// # Errors
    /// A file can't be used.
    pub(super) fn new(token_file: Option<PathBuf>, files: TlsFiles) -> Result<Self> {
        let keys = Keys::read(token_file.as_deref(), &files)?;
        Ok(Self { token_file, files, last: Mutex::new(keys) })
    }

    /// As the files are now, or as they last were of use.
    fn keys(&self) -> Keys {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(keys) = Keys::read(self.token_file.as_deref(), &self.files) {
            *last = keys;
        }
        last.clone()
    }

    fn has_tls(&self) -> bool {
        self.files.ca.is_some()
    }
}

impl Keys {
    fn read(token_file: Option<&Path>, files: &TlsFiles) -> Result<Self> {
        let wrong = |text: String| WrongInput(text);
        let token = token(token_file)?;
        let token = token.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let token = token.transpose();
        let mut token =
            token.map_err(|_| wrong("the token has characters that none has".into()))?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        let Some(ca) = &files.ca else { return Ok(Self { token, tls: None }) };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca).map_err(|error| wrong(format!("--ca: {error}")))?);
        let config = match &files.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificates =
                    certificates(certificate).map_err(|error| wrong(format!("--cert: {error}")))?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| wrong(format!("--key {}: {error}", key.display())))?;
                builder
                    .with_client_auth_cert(certificates, private)
                    .map_err(|error| wrong(format!("--cert and --key: {error}")))?
            }
        };
        Ok(Self { token, tls: Some(TlsConnector::from(Arc::new(config))) })
    }
}

/// A way to an agent.
pub(super) struct Agent {
    url: String,
    host: String,
    port: u16,
    /// Whom its certificate must be for; `None` is without TLS.
    tls: Option<ServerName<'static>>,
    access: Arc<Access>,
}

impl Agent {
    /// # Errors
    /// The URL is not `http://HOST:PORT` or `https://HOST:PORT`, or what `https` needs is missing.
    pub(super) fn new(url: &str, access: &Arc<Access>) -> Result<Self> {
        let wrong = |why: &str| WrongInput(format!("--agent {url}: {why}"));
        let form = "give http://HOST:9701 or https://HOST:9701";
        let uri: Uri = url.parse().map_err(|_| wrong(form))?;
        let host = uri.host().ok_or_else(|| wrong(form))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let rest = uri.path_and_query().map_or("", |path| path.as_str());
        let tls = match uri.scheme_str() {
            _ if !matches!(rest, "" | "/") => return Err(wrong(form).into()),
            Some("http") => None,
            Some("https") if !access.has_tls() => {
                let why = "https needs --ca, the authority that signed the agent's certificate";
                return Err(wrong(why).into());
            }
            Some("https") => Some(ServerName::try_from(host.clone()).map_err(|_| wrong(form))?),
            _ => return Err(wrong(form).into()),
        };
        let (port, access) = (uri.port_u16().unwrap_or(PORT), Arc::clone(access));
        Ok(Self { url: url.to_owned(), host, port, tls, access })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Registers, or renews.
    pub(super) async fn register(&self, wish: &Wish) -> Result<Registration, Failure> {
        let body = serde_json::json!({
            "ttl_seconds": wish.ttl.as_secs_f64(),
            "weight": wish.weight,
        });
        self.send(Method::PUT, wish, body.to_string()).await
    }

    /// Leaves, or asks how far it is.
    pub(super) async fn leave(&self, wish: &Wish) -> Result<Leaving, Failure> {
        self.send(Method::DELETE, wish, String::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        wish: &Wish,
        body: String,
    ) -> Result<T, Failure> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let own = stream.local_addr()?.ip().to_canonical();
        let address = wish.address.unwrap_or(own);
        let leaves = method == Method::DELETE;
        let Keys { token, tls } = self.access.keys();
        let request = request(method, &wish.service, address, token, body)?;
        let (status, answer) = match self.tls.clone().zip(tls) {
            None => exchange(stream, request).await?,
            Some((name, connector)) => {
                exchange(connector.connect(name, stream).await?, request).await?
            }
        };
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| Failure::Garbled(error.to_string()));
        }
        if leaves && status == StatusCode::NOT_FOUND {
            return Err(Failure::Unknown);
        }
        match serde_json::from_slice::<Envelope>(&answer) {
            // It stops, or has too much to do: the same may be taken later.
            Ok(Envelope { error }) if status.is_server_error() => {
                Err(Failure::Unable(error.message))
            }
            Ok(Envelope { error }) => {
                let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                Err(Failure::Refused(format!("{}{hint}", error.message)))
            }
            Err(_) => Err(Failure::Garbled(format!("status {status}"))),
        }
    }
}

fn request(
    method: Method,
    service: &str,
    address: IpAddr,
    token: Option<HeaderValue>,
    body: String,
) -> Result<Request<Full<Bytes>>, Failure> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let path = format!(
        "/v1/services/{}/registrations/{}",
        encoded(service),
        encoded(&address.to_string())
    );
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "xlb")
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    request.body(Full::new(Bytes::from(body))).map_err(|e| Failure::Garbled(e.to_string()))
}

/// The file's first token, or the environment's.
fn token(file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else { return Ok(std::env::var(TOKEN_VARIABLE).ok()) };
    let text = fs::read_to_string(path)
        .map_err(|error| WrongInput(format!("--token-file {}: {error}", path.display())))?;
    let mut lines = text.lines().map(str::trim);
    let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = token.ok_or_else(|| {
        WrongInput(format!("--token-file {}: there is no token in it", path.display()))
    })?;
    Ok(Some(token.to_owned()))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| Failure::Garbled(error.to_string()))?;
        Ok((status, body.to_bytes()))
    });
    // Once the connection is over, the exchange knows how it ended.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_token_is_shown_and_a_missing_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let put = |text: &str| fs::write(&path, text).unwrap();
        put("# the old one\n0123456789abcdef\n");
        let access = Access::new(Some(path.clone()), TlsFiles::default()).unwrap();
        let shown = || access.keys().token.unwrap();
        assert_eq!(shown(), "Bearer 0123456789abcdef");
        put("fedcba9876543210");
        assert_eq!(shown(), "Bearer fedcba9876543210");
        put("");
        assert_eq!(shown(), "Bearer fedcba9876543210");
        fs::remove_file(&path).unwrap();
        assert_eq!(shown(), "Bearer fedcba9876543210");
        assert!(Access::new(Some(path), TlsFiles::default()).is_err());
    }
}
