//! The certificate of TLS: from PEM files that are looked at again while the proxy runs, or made by this process.
//!
//! Files are compared by what is in them, not by their times: a change within one tick of the clock, a link that leads
//! elsewhere, and a folder mounted anew are all seen. A new file that cannot be used changes nothing but the log.
//! Connections keep the certificate they were opened with; new ones get the new one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// Largest file that is read as a certificate chain or a key.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A certificate chain and its private key, both PEM (`tlsCertPath`, `tlsKeyPath`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("a certificate cannot be made: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("{path} cannot be read: {source}; check the path and who may read it")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no {wanted} in PEM form: {why}")]
    NotPem { path: PathBuf, wanted: &'static str, why: pem::Error },
    #[error("the certificate in {certificate} cannot be used with the key in {key}: {why}", certificate = .files.certificate.display(), key = .files.key.display())]
    Pair { files: CertificateFiles, why: rustls::Error },
    #[error("the certificate that was made cannot be used: {0}")]
    Made(rustls::Error),
}

/// What stands in the two files.
#[derive(PartialEq, Eq)]
struct Bytes {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateFiles {
    /// TLS with what the files hold.
    fn acceptor(&self, bytes: &Bytes) -> Result<TlsAcceptor, TlsError> {
        let not_pem = |path: &Path, wanted, why| TlsError::NotPem { path: path.to_owned(), wanted, why };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes.certificate)
            .collect::<Result<_, _>>()
            .map_err(|why| not_pem(&self.certificate, "certificate", why))?;
        if chain.is_empty() {
            return Err(not_pem(&self.certificate, "certificate", pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(&bytes.key)
            .map_err(|why| not_pem(&self.key, "private key without a password", why))?;
        acceptor(chain, key).map_err(|why| TlsError::Pair { files: self.clone(), why })
    }

    fn read(&self) -> Result<Bytes, TlsError> {
        Ok(Bytes { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes"))));
    }
    Ok(bytes)
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS with a certificate made for this process. Official clients trust any.
pub(crate) fn made() -> Result<TlsAcceptor, TlsError> {
    let made = generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    acceptor(vec![made.cert.der().clone()], key).map_err(TlsError::Made)
}

/// Files that are in use.
pub(crate) struct Followed {
    files: CertificateFiles,
    /// What was seen last, or why nothing was: each is told once.
    seen: Result<Bytes, String>,
    current: watch::Sender<TlsAcceptor>,
}

impl Followed {
    /// Reads the files for the first time.
    pub fn start(files: CertificateFiles) -> Result<(Self, watch::Receiver<TlsAcceptor>), TlsError> {
        let bytes = files.read()?;
        let (current, acceptors) = watch::channel(files.acceptor(&bytes)?);
        Ok((Followed { files, seen: Ok(bytes), current }, acceptors))
    }

    /// Looks at the files for ever. On a thread that may wait for a disk.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            // It ends with the runtime.
            let Ok(followed) = looked.await else { return };
            self = followed;
        }
    }

    fn look(&mut self) {
        let found = self.files.read().map_err(|error| error.to_string());
        if found == self.seen {
            return;
        }
        let outcome = match &found {
            Ok(bytes) => self.files.acceptor(bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        self.seen = found;
        match outcome {
            Ok(acceptor) => {
                self.current.send_replace(acceptor);
                tracing::info!(
                    "new connections get the certificate that stands in {} now",
                    self.files.certificate.display()
                );
            }
            Err(error) => {
                tracing::error!("the certificate has changed and cannot be used, the one before stays in use: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    /// A certificate in files, and as a client sees it.
    struct Pair {
        certificate: String,
        key: String,
        der: CertificateDer<'static>,
    }

    fn pair() -> Pair {
        let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    fn put(files: &CertificateFiles, certificate: &str, key: &str) {
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
    }

    /// A connection that echoes, and the certificate it was opened with.
    async fn opened(
        tls: &watch::Receiver<TlsAcceptor>,
        trusted: &[&Pair],
    ) -> (TlsStream<TcpStream>, CertificateDer<'static>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = tls.borrow().clone();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(socket).await.unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap();
            }
        });
        let mut roots = RootCertStore::empty();
        for pair in trusted {
            roots.add(pair.der.clone()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(addr).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        (stream, shown)
    }

    #[tokio::test]
    async fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
        let (folder, one, two) = (tempfile::tempdir().unwrap(), pair(), pair());
        let files = CertificateFiles { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
        put(&files, &one.certificate, &one.key);
        let (mut followed, tls) = Followed::start(files.clone()).unwrap();
        let trusted = [&one, &two];
        let (mut old, shown) = opened(&tls, &trusted).await;
        assert_eq!(shown, one.der);

        put(&files, &two.certificate, &two.key);
        followed.look();
        assert_eq!(opened(&tls, &trusted).await.1, two.der);
        old.write_all(b"x").await.unwrap();
        assert_eq!(old.read_u8().await.unwrap(), b'x', "a connection goes on with the certificate it has");

        for (certificate, key) in [("junk", &*two.key), (&*two.certificate, "junk"), (&*two.certificate, &*one.key)] {
            put(&files, certificate, key);
            followed.look();
            assert_eq!(opened(&tls, &trusted).await.1, two.der, "{certificate} {key}");
        }
        std::fs::remove_file(&files.key).unwrap();
        followed.look();
        assert_eq!(opened(&tls, &trusted).await.1, two.der);

        put(&files, &one.certificate, &one.key);
        followed.look();
        assert_eq!(opened(&tls, &trusted).await.1, one.der);
    }

    #[test]
    fn files_that_cannot_be_used_are_named_at_the_start() {
        let (folder, one, two) = (tempfile::tempdir().unwrap(), pair(), pair());
        let files = CertificateFiles { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
        let error = || Followed::start(files.clone()).err().unwrap().to_string();
        assert!(error().contains("a.crt cannot be read"), "{}", error());
        put(&files, &one.certificate, &two.key);
        assert!(error().contains("a.crt cannot be used with the key in"), "{}", error());
        put(&files, &one.certificate, &one.certificate);
        assert!(error().contains("a.key holds no private key"), "{}", error());
        put(&files, "", &one.key);
        assert!(error().contains("a.crt holds no certificate"), "{}", error());
        put(&files, &"x".repeat(2 * 1024 * 1024), &one.key);
        assert!(error().contains("larger than"), "{}", error());
    }
}
