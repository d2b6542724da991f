//! Which name is asked for next.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

use super::records::{Records, hex, mix};
use super::{Failure, Protocol};

/// The names that a server knows.
#[derive(Clone, Debug)]
pub enum Names {
    /// Those of generated records.
    Generated(Records),
    /// Those of a list.
    Listed(Vec<Box<[u8]>>),
}

impl Names {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Generated(records) => records.count(),
            Self::Listed(names) => names.len() as u64,
        }
    }

    /// Appends a name; a number beyond the count gives one that does not exist, below a prefix that does.
    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        match self {
            Self::Generated(records) => records.handle(number, out),
            Self::Listed(names) => {
                let count = names.len() as u64;
                out.extend_from_slice(&names[(number % count) as usize]);
                if number >= count {
                    out.extend_from_slice(b"~no-such-");
                    hex(mix(number), 8, out);
                }
            }
        }
    }
}

/// The handles of a list: one a line, or the lines of an export.
///
/// # Errors
/// A line that is neither, by its number.
pub fn listed(text: &str) -> Result<Vec<Box<[u8]>>, Failure> {
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if !line.starts_with('{') {
            names.extend((!line.is_empty()).then(|| line.as_bytes().into()));
            continue;
        }
        let wrong = |error| Failure::new(format_args!("line {}: {error}", number + 1));
        let record: serde_json::Value = serde_json::from_str(line).map_err(wrong)?;
        // The lines without a handle tell prefixes and site records.
        if let Some(handle) = record["handle"].as_str() {
            names.push(handle.as_bytes().into());
        }
    }
    Ok(names)
}

/// How often which name is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// All alike.
    Uniform,
    /// A few very often: the k-th most popular 1/k^s as often as the first. The popular ones are no neighbours.
    Zipf(f64),
}

/// An endless choice of names.
#[derive(Debug)]
pub struct Choice<'a> {
    names: &'a Names,
    zipf: Option<Zipf<f64>>,
    miss_percent: u64,
    state: u64,
    random: SmallRng,
    name: Vec<u8>,
}

impl<'a> Choice<'a> {
    /// A choice that `seed` determines; `miss_percent` of the names do not exist.
    ///
    /// # Errors
    /// No names at all, or an exponent that is no number.
    pub fn new(
        names: &'a Names,
        spread: Spread,
        miss_percent: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        if names.count() == 0 {
            return Err(Failure::new("there is no name to ask for"));
        }
        let zipf = match spread {
            Spread::Uniform => None,
            Spread::Zipf(exponent) => {
                let zipf = Zipf::new(names.count() as f64, exponent);
                Some(zipf.map_err(|error| Failure::new(format_args!("zipf {exponent}: {error}")))?)
            }
        };
        Ok(Self {
            names,
            zipf,
            miss_percent,
            state: mix(seed),
            random: SmallRng::seed_from_u64(seed),
            name: Vec::new(),
        })
    }

    /// Appends a request to `out`; true when its name does not exist.
    pub fn request<P: Protocol>(&mut self, protocol: &P, id: u32, out: &mut Vec<u8>) -> bool {
        self.state = self.state.wrapping_add(1);
        let random = mix(self.state);
        let count = self.names.count();
        // Multiply and shift: uniform over the count without a division.
        let scale = |number: u64| ((u128::from(number) * u128::from(count)) >> 64) as u64;
        let number = match &self.zipf {
            None => scale(random),
            Some(zipf) => scale(mix(zipf.sample(&mut self.random) as u64)),
        };
        let miss = self.miss_percent > 0 && mix(random) % 100 < self.miss_percent;
        self.name.clear();
        self.names
            .append(if miss { number + count } else { number }, &mut self.name);
        protocol.request(id, &self.name, out);
        miss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::wire::Handle;

    fn asked(spread: Spread, miss_percent: u64) -> Vec<(Vec<u8>, bool)> {
        let names = Names::Generated(Records::new("88.118", 1000));
        let mut choice = Choice::new(&names, spread, miss_percent, 7).unwrap();
        let ask = |_| {
            let mut out = Vec::new();
            let miss = choice.request(&Handle, 1, &mut out);
            (out, miss)
        };
        (0..20_000).map(ask).collect()
    }

    fn most_common(asked: &[(Vec<u8>, bool)]) -> usize {
        let mut counts = std::collections::HashMap::new();
        asked
            .iter()
            .for_each(|(name, _)| *counts.entry(name).or_insert(0) += 1);
        counts.into_values().max().unwrap()
    }

    /// Goal: uniform asks for all alike, Zipf for one name in every seventh or so, and misses are as many as wanted.
    #[test]
    fn spreads() {
        let uniform = asked(Spread::Uniform, 0);
        assert!(most_common(&uniform) < 60, "{}", most_common(&uniform));
        assert!(uniform.iter().all(|(_, miss)| !miss));
        let zipf = most_common(&asked(Spread::Zipf(0.99), 0));
        assert!((2000..4000).contains(&zipf), "{zipf}");
        let missing = asked(Spread::Uniform, 25)
            .iter()
            .filter(|(_, miss)| *miss)
            .count();
        assert!((4500..5500).contains(&missing), "{missing}");
    }

    /// Goal: a name that is asked for as missing is none of the list.
    #[test]
    fn missing_names_of_a_list() {
        let names = Names::Listed(vec![b"88.118/a"[..].into(), b"88.118/b"[..].into()]);
        let mut name = Vec::new();
        names.append(3, &mut name);
        assert!(name.starts_with(b"88.118/b~no-such-"));
    }

    /// Goal: a list of handles and an export give the same names.
    #[test]
    fn lists() {
        let export = "{\"prefix\":\"88.118\"}\n{\"handle\":\"88.118/设备\",\"values\":[]}\n";
        assert_eq!(listed(export), listed("88.118/设备\n\n"));
        assert_eq!(listed(export).unwrap().len(), 1);
        assert!(
            listed("88.118/a\n{")
                .unwrap_err()
                .to_string()
                .starts_with("line 2: ")
        );
    }
}
