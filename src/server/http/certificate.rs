//! The node's own certificate: self-signed with the node's key, the same at every start.

use std::net::IpAddr;
use std::time::Duration;

use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _};
use sha2::{Digest as _, Sha256};
use x509_cert::builder::{Builder as _, CertificateBuilder, profile::BuilderProfile};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{GeneralizedTime, Ia5String, OctetString, UtcTime};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::identity::KeyPair;
use crate::registry::keys;
use crate::server::certificate::{CertificateError, Origin};

/// From 2026 to the end of 2049, the last year that the shorter form of time can say.
const VALID: [Duration; 2] = [
    Duration::from_secs(1_767_225_600),
    Duration::from_secs(2_524_607_999),
];
/// The subject of the certificate for mirrors, as the reference has it.
const ANONYMOUS: &str = "anonymous";
/// From 2000 to 9999, as the reference has it.
const ANONYMOUS_VALID: [Duration; 2] = [
    Duration::from_secs(946_684_800),
    Duration::from_secs(253_402_300_799),
];
/// Octets of the serial number, which follows from the key.
const SERIAL_SIZE: usize = 8;

/// A certificate that names who made it.
struct SelfSigned {
    subject: Name,
    names: SubjectAltName,
}

impl BuilderProfile for SelfSigned {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(vec![self.names.to_extension(&self.subject, &[])?])
    }
}

/// Makes the certificate of a node that is reached at these addresses and host names. `common_name` is how Handle
/// software calls it.
///
/// # Errors
/// The key is no RSA key, or a name cannot stand in a certificate.
pub fn own(
    pair: &KeyPair,
    common_name: &str,
    addresses: &[IpAddr],
    hosts: &[&str],
) -> Result<Origin, CertificateError> {
    let key = keys::rsa_of(&pair.private).map_err(|error| wrong(&error))?;
    let names = || -> Result<_, Box<dyn std::error::Error>> {
        let mut names = Vec::new();
        for address in addresses {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            names.push(GeneralName::IpAddress(OctetString::new(octets)?));
        }
        for host in hosts {
            names.push(GeneralName::DnsName(Ia5String::new(host)?));
        }
        Ok(names)
    };
    let names = names().map_err(|error| wrong(&error))?;
    let [from, to] = VALID.map(UtcTime::from_unix_duration);
    let (Ok(from), Ok(to)) = (from, to) else {
        return Err(wrong(&"its time of validity"));
    };
    let validity = Validity::new(Time::UtcTime(from), Time::UtcTime(to));
    self_signed(&key, common_name, names, validity)
}

/// The certificate by which mirrors of the reference know a node: they look at its key only.
///
/// # Errors
/// As [`own`].
pub(crate) fn anonymous(key: &keys::NodeKey) -> Result<Origin, CertificateError> {
    let [from, to] = ANONYMOUS_VALID.map(GeneralizedTime::from_unix_duration);
    let (Ok(from), Ok(to)) = (from, to) else {
        return Err(wrong(&"its time of validity"));
    };
    let validity = Validity::new(Time::GeneralTime(from), Time::GeneralTime(to));
    // A certificate without any extension would be of version 1, which TLS libraries refuse.
    let name = Ia5String::new(ANONYMOUS).map_err(|error| wrong(&error))?;
    let names = vec![GeneralName::DnsName(name)];
    self_signed(key.rsa(), ANONYMOUS, names, validity)
}

fn wrong(error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::new(format!("the node's own certificate: {error}"))
}

fn self_signed(
    key: &rsa::PrivateKey,
    common_name: &str,
    names: Vec<GeneralName>,
    validity: Validity,
) -> Result<Origin, CertificateError> {
    let public = key.to_public_key().to_public_key_der();
    let public = public.map_err(|error| wrong(&error))?;
    let private = key.to_pkcs8_der().map_err(|error| wrong(&error))?;
    let mut serial = Sha256::digest(public.as_bytes())[..SERIAL_SIZE].to_vec();
    serial[0] &= 0x7F;
    let made = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let profile = SelfSigned {
            subject: format!("CN={common_name}").parse()?,
            names: SubjectAltName(names),
        };
        let info = SubjectPublicKeyInfo::from_der(public.as_bytes())?;
        let serial = SerialNumber::new(&serial)?;
        let builder = CertificateBuilder::new(profile, serial, validity, info)?;
        let certificate = builder.build(&SigningKey::<Sha256>::new(key.clone()))?;
        Ok(certificate.to_der()?)
    };
    Ok(Origin::Made {
        certificate: made().map_err(|error| wrong(&error))?,
        key: zeroize::Zeroizing::new(private.as_bytes().to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tls::client_key;
    use super::*;

    /// Goal: the certificate names who it is for, and is the same at every start.
    #[test]
    fn the_same_every_time() {
        let pair = KeyPair::generate().expect("a key");
        let make = || {
            own(
                &pair,
                "300:0.NA/88.118",
                &["192.0.2.1".parse().unwrap()],
                &["localhost"],
            )
        };
        let (
            Ok(Origin::Made { certificate, .. }),
            Ok(Origin::Made {
                certificate: again, ..
            }),
        ) = (make(), make())
        else {
            panic!("not made");
        };
        assert_eq!(certificate, again);
        assert_eq!(client_key(&certificate).unwrap().name, "300:0.NA/88.118");
    }
}
