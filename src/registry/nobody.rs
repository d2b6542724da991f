//! The work that is done for an identity that does not exist, so that nobody learns from the time of a refusal whether it
//! does: it depends on the signature alone, which whoever asks has chosen.

use std::sync::LazyLock;

use bytes::Bytes;
use jiexi_proto::value::key::{PublicKey, magnitude, number};

use super::auth::Method;
use super::keys::{Hash, NodeKey, VerifyingKey};
use super::sm2;

/// DSA keys of nobody, one for each size of q: hexadecimal, in wire form. Their private halves were thrown away.
const DSA: &str = include_str!("nobody.hex");
/// Octets of the smallest and the largest RSA modulus that is computed with.
const RSA_SIZES: std::ops::RangeInclusive<usize> = 128..=1_024;

/// What checking a signature costs: about the same for all that have a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// RSA, with the octets of the modulus.
    Rsa(usize),
    /// DSA, with the octets of q.
    Dsa(usize),
    /// SM2.
    Sm2,
}

impl Shape {
    /// Of a signature; none for octets that no key has signed.
    pub(super) fn of_signature(hash: Hash, signature: &[u8], dsa: bool) -> Option<Self> {
        if hash == Hash::Sm3 {
            return Some(Self::Sm2);
        }
        if dsa
            && signature.len() < *RSA_SIZES.start()
            && let Ok(signature) = dsa::Signature::try_from(signature)
        {
            let bits = signature.r().bit_width().max(signature.s().bit_width());
            // A number that is shorter by four octets than it could be does not come about by chance.
            let sizes = [20, 28, 32];
            return sizes
                .into_iter()
                .find(|size| bits <= size * 8)
                .map(|size| Self::Dsa(size as usize));
        }
        RSA_SIZES
            .contains(&signature.len())
            .then_some(Self::Rsa(signature.len()))
    }

    /// What a proof of this shape is by.
    pub(super) const fn method(self) -> Method {
        match self {
            Self::Rsa(_) => Method::Rsa,
            Self::Dsa(_) => Method::Dsa,
            Self::Sm2 => Method::Sm2,
        }
    }

    /// Of a key: what it signs has this shape. None for keys whose form must be computed with to know it.
    fn of_key(key: &PublicKey) -> Option<Self> {
        match key {
            PublicKey::Rsa { modulus, .. } => Some(Self::Rsa(magnitude(modulus).len())),
            PublicKey::Dsa { q, .. } => Some(Self::Dsa(magnitude(q).len())),
            PublicKey::Sm2 { .. } => Some(Self::Sm2),
            PublicKey::Dh { .. } | PublicKey::Other(_) => None,
        }
    }

    /// The key in the data of an `HS_PUBKEY`, if its signatures have this shape.
    pub(super) fn key(self, data: &Bytes) -> Option<VerifyingKey> {
        match Self::of_key(&PublicKey::decode(data).ok()?) {
            Some(shape) => (shape == self).then(|| VerifyingKey::parse(data)).flatten(),
            // Text: little work compared with what follows.
            None => VerifyingKey::parse(data).filter(|key| key.shape() == self),
        }
    }
}

/// Keys of every shape that nobody has the private half of.
#[derive(Clone, Debug)]
pub struct Nobody {
    /// Of which as many octets are taken as an RSA modulus needs. Whoever knew it could tell the work apart.
    modulus: Bytes,
    sm2: VerifyingKey,
}

impl Nobody {
    /// With numbers that follow from the key of the node.
    #[must_use]
    pub fn new(key: &NodeKey) -> Option<Self> {
        let parts = (0_u8..32).flat_map(|part| {
            key.derive(&[b"nobody's modulus ", &[part][..]].concat())
                .to_vec()
        });
        Some(Self {
            modulus: parts.collect(),
            sm2: VerifyingKey::Sm2(sm2::PublicKey::nobody()?),
        })
    }

    /// Does the work that checking a signature of this shape is with a key that exists.
    pub(super) fn check(
        &self,
        shape: Shape,
        hash: Hash,
        user: &[u8],
        message: &[u8],
        signature: &[u8],
    ) {
        let key = match shape {
            Shape::Rsa(size) => self.rsa(size),
            Shape::Dsa(size) => dsa_data(size).and_then(VerifyingKey::parse),
            Shape::Sm2 => Some(self.sm2.clone()),
        };
        let _ = std::hint::black_box(key.map(|key| key.verifies(hash, user, message, signature)));
    }

    /// An RSA key: any odd number is a modulus to compute with.
    fn rsa(&self, size: usize) -> Option<VerifyingKey> {
        let mut modulus = self.modulus.get(..size)?.to_vec();
        *modulus.first_mut()? |= 0x80;
        *modulus.last_mut()? |= 1;
        let mut data = Vec::new();
        PublicKey::Rsa {
            flags: 0,
            exponent: number(&[1, 0, 1]),
            modulus: number(&modulus),
        }
        .encode(&mut data);
        VerifyingKey::parse(&data.into())
    }
}

/// The data of nobody's DSA key whose q has `size` octets.
fn dsa_data(size: usize) -> Option<&'static Bytes> {
    static KEYS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
        let keys = DSA
            .split("\n\n")
            .map(|text| text.split_whitespace().collect::<String>());
        keys.filter_map(|text| hex::decode(text).ok())
            .map(Bytes::from)
            .collect()
    });
    KEYS.iter().find(|data| {
        PublicKey::decode(data).is_ok_and(|key| Shape::of_key(&key) == Some(Shape::Dsa(size)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_a_dsa_key_of_every_size() {
        for size in [20, 28, 32] {
            let key = dsa_data(size).and_then(VerifyingKey::parse);
            assert_eq!(key.map(|key| key.shape()), Some(Shape::Dsa(size)));
        }
    }
}
