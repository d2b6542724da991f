//! TLS of HTTP: certificates of clients.

use std::sync::Arc;

use bytes::Bytes;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};

/// The attribute of a subject that names a user: UID.
const USER_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1");
/// The attribute that names anything: CN.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Asks clients for certificates, and leaves it to handle records whose they are.
pub(super) fn any_client() -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyClient {
        provider: Arc::new(ring::default_provider()),
    })
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
