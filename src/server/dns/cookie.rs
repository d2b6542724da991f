//! Cookies (RFC 7873) in the form that servers of any maker share (RFC 9018). Pure.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Octets of the client's part.
pub const CLIENT: usize = 8;

/// Octets of both parts together, as this server makes them.
pub const WHOLE: usize = 24;

/// How long a cookie is good, seconds (RFC 9018 §4.3).
const LIFE: u32 = 3600;

/// After this time it is replaced, seconds (RFC 9018 §4.3).
const RENEW: u32 = 1800;

/// How far the clocks of servers with the same secret may be apart, seconds (RFC 9018 §4.3).
const FUTURE: u32 = 300;

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// No octets, or a number of them that no cookie has (RFC 7873 §5.2.2).
    Malformed,
    /// Its own part alone, or with a server's part that is not good: this is the answer.
    Unproven([u8; WHOLE]),
    /// A good one, from a client that gets our answers at its address: this is the answer.
    Proven([u8; WHOLE]),
}

/// Makes and checks cookies.
#[derive(Clone)]
pub struct Cookies {
    secret: [u8; 16],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl Cookies {
    /// Cookies of this secret.
    #[must_use]
    pub const fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// Judges the cookie option of a client.
    #[must_use]
    pub fn judge(&self, option: &[u8], client: IpAddr, unix_seconds: u32) -> Cookie {
        let Some((own, server)) = option.split_first_chunk::<CLIENT>() else {
            return Cookie::Malformed;
        };
        let fresh = || self.make(*own, client, unix_seconds);
        match server.len() {
            0 => return Cookie::Unproven(fresh()),
            8..=32 => {}
            _ => return Cookie::Malformed,
        }
        let Ok(whole) = <[u8; WHOLE]>::try_from(option) else {
            return Cookie::Unproven(fresh());
        };
        let made = u32::from_be_bytes([whole[12], whole[13], whole[14], whole[15]]);
        // Serial number arithmetic: the age of a cookie of the near future is a huge number.
        let age = unix_seconds.wrapping_sub(made);
        let in_time = age <= LIFE || age >= FUTURE.wrapping_neg();
        if !in_time || self.make(*own, client, made) != whole {
            return Cookie::Unproven(fresh());
        }
        let replace = (RENEW..=LIFE).contains(&age);
        Cookie::Proven(if replace { fresh() } else { whole })
    }

    /// The cookie of a client: its own part, version 1, three zeros, the time, and the hash over these
    /// and its address (RFC 9018 §4).
    fn make(&self, own: [u8; CLIENT], client: IpAddr, unix_seconds: u32) -> [u8; WHOLE] {
        let mut whole = [0; WHOLE];
        whole[..CLIENT].copy_from_slice(&own);
        whole[CLIENT] = 1;
        whole[12..16].copy_from_slice(&unix_seconds.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&whole[..16]);
        match client {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        whole[16..].copy_from_slice(&hasher.finish().to_le_bytes());
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// Goal: servers of other makers take our cookies. Method: the first vector of RFC 9018 App. A.
    #[test]
    fn rfc9018_appendix_a_1_vector() {
        let cookies = Cookies::new(bytes("e5e973e5a6b2a43f48e7dc849e37bfcf"));
        let client = "198.51.100.100".parse().unwrap();
        let made = cookies.make(bytes("2464c4abcf10c957"), client, 0x5cf7_9f11);
        assert_eq!(
            hex::encode(made),
            "2464c4abcf10c957010000005cf79f111f8130c3eee29480"
        );
    }

    /// Goal: a cookie is good for its client, for an hour, and is replaced in the second half of it.
    #[test]
    fn rfc9018_4_3_life_of_a_cookie() {
        let cookies = Cookies::new([7; 16]);
        let (client, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let made = cookies.make([1; 8], client, 10_000);
        let judge = |now| cookies.judge(&made, client, now);
        assert_eq!(judge(10_000), Cookie::Proven(made));
        assert_eq!(judge(11_799), Cookie::Proven(made));
        assert_eq!(
            judge(12_000),
            Cookie::Proven(cookies.make([1; 8], client, 12_000))
        );
        assert_eq!(judge(9_701), Cookie::Proven(made));
        for now in [13_601, 9_000] {
            assert!(matches!(judge(now), Cookie::Unproven(_)), "{now}");
        }
        assert!(matches!(
            cookies.judge(&made, other, 10_000),
            Cookie::Unproven(_)
        ));
        for length in (0..8).chain(9..16).chain(41..50) {
            assert_eq!(
                cookies.judge(&vec![1; length], client, 1),
                Cookie::Malformed,
                "{length}"
            );
        }
        assert!(matches!(
            cookies.judge(&[1; 8], client, 1),
            Cookie::Unproven(_)
        ));
    }
}
