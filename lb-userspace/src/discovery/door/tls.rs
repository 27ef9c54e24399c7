//! The door's certificate, and whose certificates it takes.

use std::{fs, io, path::Path, sync::Arc, time::SystemTime};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use crate::config::DoorTls;

/// What the door shows, and asks to be shown.
pub(super) struct Identity {
    files: DoorTls,
    config: Arc<ServerConfig>,
    seen: Vec<Option<(u64, SystemTime)>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity of {}", self.files.certificate.display())
    }
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them can't be read, or they don't fit each other.
    pub(super) fn read(files: &DoorTls) -> Result<Self, String> {
        let seen = seen(files);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                        .build()
                        .map_err(|error| format!("{}: {error}", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = &files.key;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("can't read the private key in {}: {error}", key.display()))?;
        let config = builder
            .with_single_cert(certificates(&files.certificate)?, private)
            .map_err(|error| format!("{}: {error}", files.certificate.display()))?;
        Ok(Self { files: files.clone(), config: Arc::new(config), seen })
    }

    /// For one connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Reads the files again where they changed; what is wrong changes nothing.
    pub(super) fn look(&mut self) {
        let seen = seen(&self.files);
        if seen == self.seen {
            return;
        }
        match Self::read(&self.files) {
            Ok(new) => *self = new,
            Err(why) => {
                tracing::warn!("{why}; the certificate that was read before stays in use");
                self.seen = seen;
            }
        }
    }
}

/// The certificates of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{}: there is no certificate in it", path.display())),
        Err(error) => Err(format!("can't read certificates in {}: {error}", path.display())),
    }
}

/// The authorities of a file.
pub fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// Length and time of change of each file.
fn seen(files: &DoorTls) -> Vec<Option<(u64, SystemTime)>> {
    let look = |path: &Path| -> io::Result<(u64, SystemTime)> {
        let found = fs::metadata(path)?;
        Ok((found.len(), found.modified()?))
    };
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().map(|path| look(path).ok()).collect()
}
