//! TLS: the certificate, read again when its files change; certificates of clients.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};

/// Largest file of certificates or of a key.
const FILE_MAX: u64 = 1 << 20;
/// The attribute of a subject that names a user: UID.
const USER_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1");
/// The attribute that names anything: CN.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Where the certificate comes from.
#[derive(Clone, Debug)]
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

/// Why a certificate cannot be used.
#[derive(Debug)]
pub struct CertificateError(String);

impl CertificateError {
    /// A problem, with the file or the thing it is about.
    pub(super) fn new(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

/// The certificate in use.
#[derive(Debug)]
pub(super) struct Identity {
    origin: Origin,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Reads the certificate for the first time.
    pub(super) fn load(origin: Origin) -> Result<Arc<Self>, CertificateError> {
        let current = RwLock::new(Arc::new(certified(&origin)?));
        Ok(Arc::new(Self { origin, current }))
    }

    /// What servers of this identity do: TLS 1.2 and 1.3, HTTP/2 if the client speaks it.
    pub(super) fn server(
        self: &Arc<Self>,
        ask_clients: bool,
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let wrong = |error: rustls::Error| CertificateError(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(wrong)?;
        let builder = match ask_clients {
            true => builder.with_client_cert_verifier(Arc::new(AnyClient { provider })),
            false => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Looks at the files every `interval`, for ever; takes a new pair when it is good.
    pub(super) async fn watch(self: Arc<Self>, interval: Duration, taken: impl Fn() + Send) {
        let Origin::Files { certificate, key } = &self.origin else {
            return;
        };
        let stamps = || [stamp(certificate), stamp(key)];
        let mut seen = stamps();
        loop {
            tokio::time::sleep(interval).await;
            let now = stamps();
            if now == seen {
                continue;
            }
            match certified(&self.origin) {
                Ok(pair) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                    tracing::info!(file = %certificate.display(), "a new certificate is in use");
                    seen = now;
                    taken();
                }
                Err(error) => {
                    if now != seen {
                        tracing::error!(%error, "the new certificate is not usable; the old one stays in use");
                    }
                    seen = now;
                }
            }
        }
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
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

/// Takes any certificate whose key the client holds: whose it is, is said by handle records.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Who a client's certificate says it is, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientKey {
    /// `index:handle`, from the subject's UID, else its CN.
    pub(super) name: String,
    /// The key as `SubjectPublicKeyInfo` in DER.
    pub(super) key: Bytes,
}

/// Reads a client's certificate.
pub(super) fn client_key(certificate: &[u8]) -> Option<ClientKey> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let subject = certificate.tbs_certificate().subject();
    let named = |wanted| {
        let attribute = subject.iter().find(|attribute| attribute.oid == wanted)?;
        String::from_utf8(attribute.value.value().to_vec()).ok()
    };
    let key = certificate.tbs_certificate().subject_public_key_info();
    Some(ClientKey {
        name: named(USER_ID).or_else(|| named(COMMON_NAME))?,
        key: key.to_der().ok()?.into(),
    })
}

/// What a failed start of TLS says.
impl From<CertificateError> for io::Error {
    fn from(error: CertificateError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error.0)
    }
}
