//! The certificate of a TLS listener: read again when its files change or the operator asks, until when it is valid.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// Largest file of certificates or of a key.
const FILE_MAX: u64 = 1 << 20;

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Files in PEM.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Made at the start: certificate and key (PKCS#8) in DER.
    Made {
        /// The certificate.
        certificate: Vec<u8>,
        /// The private key.
        key: zeroize::Zeroizing<Vec<u8>>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { certificate, .. } => write!(f, "{}", certificate.display()),
            Self::Made { .. } => f.write_str("the node's own certificate"),
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug)]
pub struct CertificateError(String);

impl CertificateError {
    /// A problem, with the file or the thing it is about.
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

/// What a failed start of TLS says.
impl From<CertificateError> for io::Error {
    fn from(error: CertificateError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error.0)
    }
}

/// A certificate that can be used: its key is the one it names.
#[derive(Debug)]
pub struct Pair {
    origin: Origin,
    key: Arc<CertifiedKey>,
    expires: u64,
}

impl Pair {
    /// Reads certificate and key, and sees that they belong together.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or the key is not that of the certificate.
    pub fn read(origin: Origin) -> Result<Self, CertificateError> {
        let key = certified(&origin)?;
        let expires = key.cert.iter().filter_map(|der| not_after(der)).min();
        Ok(Self {
            key: Arc::new(key),
            expires: expires.unwrap_or(0),
            origin,
        })
    }
}

/// The certificate in use.
#[derive(Debug)]
pub struct Identity {
    current: RwLock<Pair>,
    /// Whether its files hold another pair, which cannot be used: the next start would fail.
    refused: AtomicBool,
}

impl Identity {
    /// Reads the certificate for the first time.
    ///
    /// # Errors
    /// As [`Pair::read`].
    pub fn load(origin: Origin) -> Result<Arc<Self>, CertificateError> {
        Ok(Arc::new(Self {
            current: RwLock::new(Pair::read(origin)?),
            refused: AtomicBool::new(false),
        }))
    }

    /// What servers of this identity do: TLS 1.2 and 1.3, one of `protocols` (ALPN) if the client speaks it.
    ///
    /// # Errors
    /// The cryptography does not offer those versions.
    pub fn server(
        self: &Arc<Self>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| CertificateError(error.to_string()))?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// When the first certificate of the chain expires, seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.read().expires
    }

    /// The certificate itself, without those above it.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        let pair = self.read();
        let first = pair.key.cert.first().map(|der| der.clone().into_owned());
        first.unwrap_or_else(|| CertificateDer::from(Vec::new()))
    }

    /// Whether its files hold what cannot be used, so that the one from before is in use.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Uses another pair from now on; connections that are open keep theirs.
    pub fn take(&self, pair: Pair) {
        self.refused.store(false, Relaxed);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair;
    }

    /// Looks at the files every `interval`, for ever; takes a new pair when it is good.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(interval).await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            let origin = self.read().origin.clone();
            match Pair::read(origin) {
                Ok(pair) => {
                    tracing::info!(event = "certificate.taken", %pair.origin, "a new certificate is in use");
                    self.take(pair);
                }
                Err(error) => {
                    self.refused.store(true, Relaxed);
                    tracing::error!(event = "certificate.refused", %error, "the new certificate is not usable; the old one stays in use");
                }
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Pair> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files look like from outside.
    fn stamps(&self) -> Option<[Option<(SystemTime, u64)>; 2]> {
        match &self.read().origin {
            Origin::Files { certificate, key } => Some([stamp(certificate), stamp(key)]),
            Origin::Made { .. } => None,
        }
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.read().key))
    }
}

/// The end of a certificate's validity, seconds since 1970.
fn not_after(der: &CertificateDer<'_>) -> Option<u64> {
    let certificate = Certificate::from_der(der).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    Some(end.to_unix_duration().as_secs())
}

/// Whether a file is another than before.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

/// Reads certificate and key, and sees that they belong together.
fn certified(origin: &Origin) -> Result<CertifiedKey, CertificateError> {
    let (chain, key, shown) = match origin {
        Origin::Files { certificate, key } => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(&read(certificate)?).collect();
            let chain = chain.map_err(|error| wrong(certificate, error))?;
            if chain.is_empty() {
                return Err(wrong(certificate, "holds no certificate in PEM"));
            }
            let key_der =
                PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, error))?;
            (chain, key_der, key.display().to_string())
        }
        Origin::Made { certificate, key } => {
            let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
            let chain = vec![CertificateDer::from(certificate.clone())];
            (chain, key, "the node's own certificate".to_owned())
        }
    };
    let provider = ring::default_provider();
    let signer = provider.key_provider.load_private_key(key);
    let signer = signer.map_err(|error| CertificateError(format!("{shown}: {error}")))?;
    let pair = CertifiedKey::new(chain, signer);
    pair.keys_match().map_err(|error| {
        CertificateError(format!(
            "{shown}: the key is not that of the certificate ({error})"
        ))
    })?;
    Ok(pair)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let length = std::fs::metadata(path).map_err(|error| wrong(path, error))?;
    if length.len() > FILE_MAX {
        return Err(wrong(path, "is too long for a certificate or a key"));
    }
    std::fs::read(path).map_err(|error| wrong(path, error))
}

fn wrong(path: &Path, error: impl fmt::Display) -> CertificateError {
    CertificateError(format!("{}: {error}", path.display()))
}
