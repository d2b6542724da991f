//! Diffie-Hellman, as sessions of mode 4 use it: the client brings the group.
//!
//! Exponentiation runs in constant time for a size of group. A weak group hurts only the client who
//! chose it: the exponent is drawn for one session and forgotten with it.

use bytes::Bytes;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use jiexi_proto::value::key::{PublicKey, magnitude, number};
use rsa::rand_core::TryCryptoRng;
use zeroize::Zeroizing;

/// Fewest bits of the modulus: what old clients bring.
pub const MODULUS_BITS_MIN: u32 = 1_024;
/// Most bits: the work grows with the third power.
pub const MODULUS_BITS_MAX: u32 = 4_096;
/// Octets of our exponent: twice the strength of the session's cipher.
const EXPONENT_SIZE: usize = 40;
/// Octets of the secret that make the session key.
pub const KEY_SIZE: usize = 32;

/// What an exchange leads to.
#[derive(Debug)]
pub struct Agreed {
    /// Our public key, in the client's group.
    pub ours: PublicKey,
    /// The session key.
    pub key: Zeroizing<Vec<u8>>,
}

/// Why there is no exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not a Diffie-Hellman key, or one outside of the limits.
    Key,
    /// There is no randomness.
    NoRandomness,
}

/// Answers the key of a client.
///
/// # Errors
/// The modulus is even or not of 1,024 to 4,096 bits, the key not between 1 and p − 1, or there is
/// no randomness.
pub fn agree<R: TryCryptoRng + ?Sized>(
    theirs: &PublicKey,
    random: &mut R,
) -> Result<Agreed, Refused> {
    let PublicKey::Dh { y, p, g, .. } = theirs else {
        return Err(Refused::Key);
    };
    let octets = magnitude(p);
    let bits = bit_length(octets);
    if !(MODULUS_BITS_MIN..=MODULUS_BITS_MAX).contains(&bits) {
        return Err(Refused::Key);
    }
    let precision = bits.next_multiple_of(64);
    let uint = |octets: &[u8]| {
        BoxedUint::from_be_slice(magnitude(octets), precision).map_err(|_| Refused::Key)
    };
    let modulus: Option<Odd<BoxedUint>> = Odd::new(uint(p)?).into();
    let modulus = modulus.ok_or(Refused::Key)?;
    let (y, g) = (uint(y)?, uint(g)?);
    let one = BoxedUint::one_with_precision(precision);
    let top = modulus.as_ref().wrapping_sub(&one);
    // A negative number of the wire is a positive one above p here, and refused as such.
    if y <= one || y >= top || g <= one || g >= top {
        return Err(Refused::Key);
    }
    let mut exponent = Zeroizing::new([0; EXPONENT_SIZE]);
    random
        .try_fill_bytes(&mut exponent[..])
        .map_err(|_| Refused::NoRandomness)?;
    exponent[0] |= 0x80;
    let secret = Zeroizing::new(BoxedUint::from_be_slice_vartime(&exponent[..]));
    let params = BoxedMontyParams::new_vartime(modulus);
    let bits = EXPONENT_SIZE as u32 * 8;
    let power = |base: BoxedUint| {
        BoxedMontyForm::new(base, &params)
            .pow_bounded_exp(&secret, bits)
            .retrieve()
    };
    let ours = power(g);
    let shared = Zeroizing::new(power(y).to_be_bytes());
    let shared = magnitude(&shared);
    if shared.len() < KEY_SIZE || ours <= one {
        return Err(Refused::Key);
    }
    let (p, g) = match theirs {
        PublicKey::Dh { p, g, .. } => (p.clone(), g.clone()),
        _ => return Err(Refused::Key),
    };
    Ok(Agreed {
        ours: PublicKey::Dh {
            flags: 0,
            y: number(&ours.to_be_bytes()),
            p,
            g,
        },
        key: Zeroizing::new(shared.iter().take(KEY_SIZE).copied().collect()),
    })
}

/// The session key of the other side, for clients and tests: `secret` is their exponent.
#[must_use]
pub fn complete(ours: &PublicKey, secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let PublicKey::Dh { y, p, .. } = ours else {
        return None;
    };
    let precision = bit_length(magnitude(p)).next_multiple_of(64);
    let modulus: Option<Odd<BoxedUint>> =
        Odd::new(BoxedUint::from_be_slice(magnitude(p), precision).ok()?).into();
    let params = BoxedMontyParams::new_vartime(modulus?);
    let base = BoxedUint::from_be_slice(magnitude(y), precision).ok()?;
    let exponent = BoxedUint::from_be_slice_vartime(secret);
    let shared = BoxedMontyForm::new(base, &params)
        .pow(&exponent)
        .retrieve()
        .to_be_bytes();
    let shared = Zeroizing::new(shared);
    let key = magnitude(&shared).iter().take(KEY_SIZE).copied().collect();
    Some(Zeroizing::new(key))
}

/// The public key of `secret` in the group of `p` and `g`, for clients and tests.
#[must_use]
pub fn public(p: &Bytes, g: &Bytes, secret: &[u8]) -> Option<PublicKey> {
    let precision = bit_length(magnitude(p)).next_multiple_of(64);
    let modulus: Option<Odd<BoxedUint>> =
        Odd::new(BoxedUint::from_be_slice(magnitude(p), precision).ok()?).into();
    let params = BoxedMontyParams::new_vartime(modulus?);
    let base = BoxedUint::from_be_slice(magnitude(g), precision).ok()?;
    let exponent = BoxedUint::from_be_slice_vartime(secret);
    let y = BoxedMontyForm::new(base, &params).pow(&exponent).retrieve();
    Some(PublicKey::Dh {
        flags: 0,
        y: number(&y.to_be_bytes()),
        p: p.clone(),
        g: g.clone(),
    })
}

fn bit_length(octets: &[u8]) -> u32 {
    let Some(first) = octets.first() else {
        return 0;
    };
    u32::try_from(octets.len()).map_or(u32::MAX, |length| {
        length
            .saturating_mul(8)
            .saturating_sub(first.leading_zeros())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use getrandom::SysRng;

    /// The 1,024-bit group that the recorded clients use (Oakley group 2).
    const P: &str = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22\
                     514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6\
                     f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381\
                     ffffffffffffffff";

    fn group() -> (Bytes, Bytes) {
        let p = number(&hex::decode(P).unwrap());
        (p, Bytes::from_static(&[2]))
    }

    #[test]
    fn both_sides_agree() {
        let (p, g) = group();
        for seed in [7_u8, 200] {
            let secret = [seed; 128];
            let theirs = public(&p, &g, &secret).unwrap();
            let agreed = agree(&theirs, &mut SysRng).unwrap();
            assert_eq!(complete(&agreed.ours, &secret).unwrap(), agreed.key);
            assert_eq!(agreed.key.len(), KEY_SIZE);
        }
    }

    /// Goal: keys that give a known secret, and groups that cost too much, are refused.
    #[test]
    fn weak_and_huge_keys_are_refused() {
        let (p, g) = group();
        let key = |y: &[u8], p: &[u8], g: &[u8]| PublicKey::Dh {
            flags: 0,
            y: Bytes::copy_from_slice(y),
            p: Bytes::copy_from_slice(p),
            g: Bytes::copy_from_slice(g),
        };
        let mut minus_one = p.to_vec();
        *minus_one.last_mut().unwrap() -= 1;
        let even = minus_one.clone();
        let huge = [&[0x01; 513][..], &[1]].concat();
        for refused in [
            key(&[0], &p, &g),
            key(&[1], &p, &g),
            key(&minus_one, &p, &g),
            key(&p, &p, &g),
            key(&[], &p, &g),
            key(&[0xFF; 129], &p, &g),
            key(&[2], &even, &g),
            key(&[2], &[23], &g),
            key(&[2], &huge, &g),
            key(&[2], &p, &[1]),
            key(&[2], &p, &[]),
        ] {
            assert!(
                matches!(agree(&refused, &mut SysRng), Err(Refused::Key)),
                "{refused:?}"
            );
        }
    }
}
