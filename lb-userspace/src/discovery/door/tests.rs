//! Clients that may register, and those that may not.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
    },
};

use super::*;
use crate::{
    api::{Client, testing::TestAgent},
    config::{DoorTls, ServiceSpec},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A door in front of an agent with the service `web`.
struct Lab {
    directory: TempDir,
    address: SocketAddr,
    _agent: TestAgent,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Lab {
    async fn with(config: impl FnOnce(&TempDir) -> RegisterDoor) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("token"), TOKEN).unwrap();
        let agent = TestAgent::start();
        let spec = ServiceSpec {
            name: "web".into(),
            vip: "203.0.113.10:80".into(),
            forward: "ipip".into(),
            ..ServiceSpec::default()
        };
        Client::new(&agent.socket()).add_service(&spec).await.unwrap();
        let door = Door::bind(&config(&directory)).await.unwrap();
        let address = door.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(door.serve(agent.handle().clone(), async {
            let _ = stopped.await;
        }));
        Self { directory, address, _agent: agent, stop: Some(stop), server: Some(server) }
    }

    /// With a token, on the loopback; any address may be registered.
    async fn new() -> Self {
        Self::with(|directory| RegisterDoor { any_address: true, ..plain(directory) }).await
    }

    async fn say(&self, method: &str, path: &str, token: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: xlb\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        raw(self.address, request.as_bytes()).await
    }
}

fn plain(directory: &TempDir) -> RegisterDoor {
    RegisterDoor {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        token_file: Some(directory.path().join("token")),
        tls: None,
        any_address: false,
    }
}

/// Sends bytes as they are, and reads until the door closes.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The door may refuse before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const MINE: &str = "/v1/services/web/registrations/10.0.0.11";
const WISH: &str = "{\"ttl_seconds\": 10, \"weight\": 7}";

#[tokio::test]
async fn with_the_token_backends_come_and_go() {
    let mut lab = Lab::new().await;
    let answer = lab.say("PUT", MINE, TOKEN, WISH).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"address\":\"10.0.0.11\",\"weight\":7"), "{answer}");
    let answer = lab.say("DELETE", MINE, TOKEN, "").await;
    assert!(answer.contains("\"drained\":true"), "{answer}");
    let answer = lab.say("DELETE", MINE, TOKEN, "").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    drop(lab.stop.take());
    lab.server.take().unwrap().await.unwrap();
}

#[tokio::test]
async fn without_it_nothing_is_told() {
    let lab = Lab::new().await;
    for path in [MINE, "/v1/status", "/", "/v1/services/web/backends"] {
        for token in ["", "wrong", "0123456789abcdef0123456789abcdeg"] {
            let answer = lab.say("PUT", path, token, WISH).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{path} {token}: {answer}");
        }
    }
    let answer = raw(lab.address, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn nothing_else_of_the_api_is_there() {
    let lab = Lab::new().await;
    for (method, path) in [
        ("GET", "/v1/status"),
        ("GET", "/v1/services"),
        ("POST", "/v1/services"),
        ("DELETE", "/v1/services/web"),
        ("POST", "/v1/services/web/backends"),
        ("GET", MINE),
        ("POST", MINE),
    ] {
        let answer = lab.say(method, path, TOKEN, "").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn wrong_wishes_are_refused() {
    let lab = Lab::new().await;
    for (body, told) in [
        ("", "not as it should be"),
        ("{}", "ttl_seconds"),
        ("{\"ttl_seconds\": 0.5}", "1 s to 3600 s"),
        ("{\"ttl_seconds\": 1e300}", "1 s to 3600 s"),
        ("{\"ttl_seconds\": 10, \"weight\": 65536}", "65536"),
        ("{\"ttl_seconds\": 10, \"wait\": 1}", "wait"),
    ] {
        let answer = lab.say("PUT", MINE, TOKEN, body).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(told), "{body}: {answer}");
    }
    let path = "/v1/services/web/registrations/127.0.0.1";
    let answer = lab.say("PUT", path, TOKEN, WISH).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("loopback"), "{answer}");
    let answer = lab.say("PUT", "/v1/services/x/registrations/10.0.0.1", TOKEN, WISH).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let long = format!("{{\"ttl_seconds\": {}1}}", " ".repeat(2 << 10));
    let answer = lab.say("PUT", MINE, TOKEN, &long).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn as_a_rule_each_registers_itself() {
    let lab = Lab::with(plain).await;
    let answer = lab.say("PUT", MINE, TOKEN, WISH).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("127.0.0.1 may not register 10.0.0.11"), "{answer}");
}

#[tokio::test]
async fn endless_heads_and_silence_end() {
    let lab = Lab::new().await;
    let began = Instant::now();
    let silent = TcpStream::connect(lab.address).await.unwrap();
    let mut endless = b"PUT / HTTP/1.1\r\n".to_vec();
    endless.extend(b"X-Long: ".iter().chain([b'x'; 64 << 10].iter()));
    let answer = raw(lab.address, &endless).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut silent = silent;
    let mut nothing = Vec::new();
    let _ = silent.read_to_end(&mut nothing).await;
    assert!(began.elapsed() < 3 * CONNECTION_PATIENCE, "it took {:?}", began.elapsed());
}

/// One sender that holds all it may have keeps no place that others need.
#[tokio::test]
async fn many_idle_connections_of_one_sender_are_bounded() {
    let lab = Lab::new().await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(lab.address).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut held {
        let mut byte = [0];
        let read = timeout(Duration::from_millis(500), stream.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        if closed == 8 {
            break;
        }
    }
    assert!(closed >= 8, "{closed} of 40 were refused");
    drop(held);
}

/// Files of an authority, a server and a client.
struct Papers {
    authority: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

impl Papers {
    fn new(directory: &TempDir) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = write("ca.pem", params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().pem();
            let certificate = write(&format!("{name}.pem"), certificate);
            (certificate, write(&format!("{name}.key"), key.serialize_pem()))
        };
        let (server, client) = (signed("server"), signed("client"));
        Self { authority, server, client }
    }

    fn connector(&self, own: Option<&(PathBuf, PathBuf)>) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&self.authority).unwrap());
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(certificates(certificate).unwrap(), key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

async fn by_tls(address: SocketAddr, connector: TlsConnector, request: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    match answer.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[tokio::test]
async fn a_client_certificate_stands_for_a_token() {
    let lab = Lab::with(|directory| {
        let papers = Papers::new(directory);
        let (certificate, key) = papers.server;
        RegisterDoor {
            token_file: None,
            tls: Some(DoorTls { certificate, key, client_ca: Some(papers.authority) }),
            any_address: true,
            ..plain(directory)
        }
    })
    .await;
    let at = |name: &str| lab.directory.path().join(name);
    let papers = Papers {
        authority: at("ca.pem"),
        server: (at("server.pem"), at("server.key")),
        client: (at("client.pem"), at("client.key")),
    };
    let length = WISH.len();
    let request =
        format!("PUT {MINE} HTTP/1.1\r\nHost: xlb\r\nContent-Length: {length}\r\n\r\n{WISH}");
    let known = papers.connector(Some(&papers.client));
    let answer = by_tls(lab.address, known, &request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    by_tls(lab.address, papers.connector(None), &request).await.unwrap_err();
    // One that another authority signed.
    let elsewhere = tempfile::tempdir().unwrap();
    let strangers = Papers::new(&elsewhere);
    let stranger = papers.connector(Some(&strangers.client));
    by_tls(lab.address, stranger, &request).await.unwrap_err();
    assert_eq!(raw(lab.address, request.as_bytes()).await.find("HTTP/1.1 200"), None);
}

#[tokio::test]
async fn what_cant_be_used_is_told_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let papers = Papers::new(&directory);
    let missing = directory.path().join("missing");
    let with =
        |tls: DoorTls| RegisterDoor { token_file: None, tls: Some(tls), ..plain(&directory) };
    let tls = |certificate: &PathBuf, key: &PathBuf| DoorTls {
        certificate: certificate.clone(),
        key: key.clone(),
        client_ca: None,
    };
    for config in [
        plain(&directory),
        with(tls(&missing, &papers.server.1)),
        with(tls(&papers.server.0, &missing)),
        with(tls(&papers.server.1, &papers.server.1)),
        with(tls(&papers.server.0, &papers.client.1)),
        with(DoorTls { client_ca: Some(missing), ..tls(&papers.server.0, &papers.server.1) }),
    ] {
        let error = Door::bind(&config).await.unwrap_err().to_string();
        let path = directory.path().display().to_string();
        assert!(error.starts_with("[api.register]") && error.contains(&path), "{error}");
    }
}
