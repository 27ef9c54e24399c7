//! Certificates good and bad, and servers that only seem to speak TLS.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::*;
use crate::config::{Alpn, Tls};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// An authority of that name.
fn named(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn authority() -> Issuer {
    named("mine")
}

/// A server's certificate for these names, valid in these years.
fn server(authority: &Issuer, names: &[&str], years: (i32, i32), alpn: &[&str]) -> TlsAcceptor {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves 204 over HTTP/1.1, to everybody.
async fn serve(acceptor: TlsAcceptor) -> SocketAddr {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    target
}

/// A file with the authority's certificate.
fn file(authority: &Issuer) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.pem()).unwrap();
    file
}

fn https(ca_file: Option<&Path>, server_name: Option<&str>) -> HttpProbe {
    let tls = Tls {
        verify: true,
        ca_file: ca_file.map(Into::into),
        server_name: server_name.map(str::to_owned),
        alpn: vec![Alpn::Http1],
    };
    HttpProbe { tls: Some(tls), ..request() }
}

async fn ask(target: SocketAddr, request: HttpProbe) -> Outcome {
    probe(target, check(Probe::Http(request))).await
}

const TODAY: (i32, i32) = (2020, 2120);

#[tokio::test]
async fn a_good_certificate_passes() {
    let authority = authority();
    let ca = file(&authority);
    let target = serve(server(&authority, &["a.example", "127.0.0.1"], TODAY, &[])).await;
    assert_passed(&ask(target, https(Some(ca.path()), Some("a.example"))).await);
    // For its address, where no name is said.
    assert_passed(&ask(target, https(Some(ca.path()), None)).await);
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told() {
    let mine = authority();
    let (ca, elsewhere, same) = (file(&mine), file(&named("other")), file(&authority()));
    let good = serve(server(&mine, &["a.example"], TODAY, &[])).await;
    let expired = serve(server(&mine, &["a.example"], (2020, 2021), &[])).await;
    let early = serve(server(&mine, &["a.example"], (2119, 2120), &[])).await;
    let name = Some("a.example");
    for (target, ca_file, server_name, fragment) in [
        (expired, Some(ca.path()), name, "the certificate expired: 2021-01-01T00:00:00Z"),
        (early, Some(ca.path()), name, "not valid yet, from 2119-01-01T00:00:00Z on"),
        (good, Some(elsewhere.path()), name, "issuer is unknown: it is not in /"),
        (good, Some(same.path()), name, "not signed by its issuer's key"),
        (good, Some(ca.path()), Some("b.example"), "not for b.example, it is for"),
        (good, Some(ca.path()), None, "not for 127.0.0.1, it is for"),
    ] {
        assert_failed(&ask(target, https(ca_file, server_name)).await, fragment);
        // Without verification, none of it matters.
        let mut request = https(None, server_name);
        request.tls.as_mut().unwrap().verify = false;
        assert_passed(&ask(target, request).await);
    }
}

#[tokio::test]
async fn the_systems_authorities_dont_know_mine() {
    let target = serve(server(&authority(), &["a.example"], TODAY, &[])).await;
    match ask(target, https(None, Some("a.example"))).await {
        Outcome::Failed(seen) => {
            assert!(seen.contains("not among the system's authorities"), "{seen}");
        }
        // A machine without any.
        outcome => assert!(outcome.reason().contains("install ca-certificates"), "{outcome:?}"),
    }
}

#[tokio::test]
async fn a_file_of_authorities_is_read_anew_when_it_changes() {
    let (former, next) = (named("former"), named("next"));
    let ca = file(&former);
    let (before, after) = (
        serve(server(&former, &["a.example"], TODAY, &[])).await,
        serve(server(&next, &["a.example"], TODAY, &[])).await,
    );
    let means = Means::new();
    let request = || check(Probe::Http(https(Some(ca.path()), Some("a.example"))));
    let ask = async |target| run(&spec(target, request()), &means).await.outcome;
    assert_passed(&ask(before).await);
    assert_failed(&ask(after).await, "issuer is unknown");
    // Another length: the clock of a file system may stand still for a while.
    fs::write(ca.path(), format!("{}\n\n", next.pem())).unwrap();
    assert_passed(&ask(after).await);
    assert_failed(&ask(before).await, "issuer is unknown");
    // Half written, or gone: what was known goes on.
    fs::write(ca.path(), "-----BEGIN").unwrap();
    assert_passed(&ask(after).await);
}

#[tokio::test]
async fn without_its_file_nothing_is_said_of_the_backend() {
    let authority = authority();
    let target = serve(server(&authority, &["a.example"], TODAY, &[])).await;
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (path, fragment) in
        [(Path::new("/nonexistent/ca.pem"), "No such file"), (empty.path(), "no certificate in it")]
    {
        let outcome = ask(target, https(Some(path), Some("a.example"))).await;
        assert!(
            matches!(&outcome, Outcome::Inconclusive(seen) if seen.contains(fragment)),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn the_protocol_is_agreed_on() {
    let authority = authority();
    let ca = file(&authority);
    let with = |alpn: &[Alpn]| {
        let mut request = https(Some(ca.path()), Some("a.example"));
        request.tls.as_mut().unwrap().alpn = alpn.to_vec();
        request
    };
    let one = serve(server(&authority, &["a.example"], TODAY, &["http/1.1"])).await;
    assert_passed(&ask(one, with(&[Alpn::H2, Alpn::Http1])).await);
    assert_failed(&ask(one, with(&[Alpn::H2])).await, "NoApplicationProtocol");
    let none = serve(server(&authority, &["a.example"], TODAY, &[])).await;
    assert_passed(&ask(none, with(&[])).await);
    assert_failed(&ask(none, with(&[Alpn::H2])).await, "doesn't speak HTTP/2");

    // A server that agrees on HTTP/2, and speaks it.
    let acceptor = server(&authority, &["a.example"], TODAY, &["h2"]);
    let two =
        grpc::serve_over(acceptor, |_| hyper::Response::new(grpc::answer(b"well", &[]))).await;
    assert_passed(&ask(two, with(&[Alpn::H2, Alpn::Http1])).await);
    let mut expecting = with(&[Alpn::H2]);
    expecting.expect_body = Some("ill".to_owned());
    assert_failed(&ask(two, expecting).await, r#"it begins with "well""#);
}

#[tokio::test]
async fn what_is_no_tls_is_told() {
    let (listener, target) = listen(Ipv4Addr::LOCALHOST).await;
    tokio::spawn(async move {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"", &[0x16; 40]] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        }
        // Silence.
        let _kept = listener.accept().await;
        std::future::pending::<()>().await;
    });
    let request = || https(None, Some("a.example"));
    let mut request_any = request();
    request_any.tls.as_mut().unwrap().verify = false;
    let request = || Probe::Http(request_any.clone());
    assert_failed(&probe(target, check(request())).await, "the answer is not TLS");
    assert_failed(&probe(target, check(request())).await, "ended in the TLS handshake");
    assert_failed(&probe(target, check(request())).await, "TLS");
    let slow = ActiveCheck { timeout: SHORT, ..check(request()) };
    assert_failed(&probe(target, slow).await, "while shaking hands over TLS");
}

/// A pipe that nobody writes to: whoever opens it waits for ever.
#[tokio::test]
async fn a_ca_file_that_is_no_file_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let target = serve(server(&authority(), &["a.example"], TODAY, &[])).await;
    let outcome = ask(target, https(Some(&path), Some("a.example"))).await;
    let Outcome::Inconclusive(seen) = &outcome else { panic!("{outcome:?}") };
    assert!(seen.contains("ca.pem: it is no file"), "{seen}");
}

#[tokio::test]
async fn a_wrong_ca_file_is_told_until_it_is_mended() {
    let authority = authority();
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca.path(), "nothing").unwrap();
    let target = serve(server(&authority, &["a.example"], TODAY, &[])).await;
    let probe = Probe::Http(https(Some(ca.path()), Some("a.example")));
    let (spec, means) = (spec(target, check(probe)), Means::new());
    for _ in 0..2 {
        let outcome = run(&spec, &means).await.outcome;
        let Outcome::Inconclusive(seen) = &outcome else { panic!("{outcome:?}") };
        assert!(seen.contains("there is no certificate in it"), "{seen}");
    }
    fs::write(ca.path(), authority.pem()).unwrap();
    assert_passed(&run(&spec, &means).await.outcome);
    // Wrong again: what it held is still good.
    fs::write(ca.path(), "nothing at all").unwrap();
    for _ in 0..2 {
        assert_passed(&run(&spec, &means).await.outcome);
    }
}
