//! A node looked at from outside, by the commands that say how it is: its operations listener, and what it exports.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is read: a scrape is some 60 KiB.
const ANSWER_MAX: u64 = 8 << 20;

/// Where this machine reaches what listens at `address`.
#[must_use]
pub fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Asks for a path over HTTP: status and body.
///
/// # Errors
/// Nobody answers in time, or not in HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    ask(address, path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let text = format!("no answer within {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        _ => error,
    })
}

/// Asks a node whether it is ready: the status, and what it says of itself.
///
/// # Errors
/// As [`get`]; or it is no node that answers.
pub fn ready(address: SocketAddr) -> io::Result<(u16, Json)> {
    let (code, body) = get(address, "/ready")?;
    match serde_json::from_str::<Json>(&body) {
        Ok(said) if said["ready"].is_boolean() => Ok((code, said)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "what answers there, with code {code}, is no node, or does not answer this machine"
            ),
        )),
    }
}

/// What a node of itself says is wrong; nothing when all is well. It answers look-ups also when it takes no changes any more:
/// with a full disk, or after one has failed. A standby never takes any.
#[must_use]
pub fn complaint(said: &Json) -> Option<String> {
    let reason = said["reason"].as_str().unwrap_or("no reason is given");
    if said["ready"] != true {
        return Some(format!("is not ready: {reason}"));
    }
    let refuses = said["takes_changes"] == false && said["role"] == "primary";
    refuses.then(|| format!("answers look-ups and no more: {reason}"))
}

fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Version 1.0: no chunks, and the end of the connection is the end of the body.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "what answers is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(no_http)?, body.to_owned()))
}

/// What a node exports.
#[derive(Debug)]
pub struct Scrape {
    /// Name, labels as they stand between the braces, value.
    samples: Vec<(String, String, f64)>,
}

impl Scrape {
    /// Reads the text format; lines that are none of it are left out.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}');
            Some((name.to_owned(), labels.to_owned(), value.parse().ok()?))
        });
        Self {
            samples: samples.collect(),
        }
    }

    /// The sum of a metric over all series with these labels; 0 when there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let series = self.samples.iter().filter(|(found, has, _)| {
            found == name
                && wanted
                    .iter()
                    .all(|pair| has.split(',').any(|one| one == pair))
        });
        series.map(|(_, _, value)| value).sum()
    }

    /// The cumulative buckets of a histogram, summed over all its series: upper bounds, ascending, and counts.
    #[must_use]
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (found, labels, count) in &self.samples {
            if found.strip_suffix("_bucket") != Some(name) {
                continue;
            }
            let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            let bound = pairs.find(|(label, _)| *label == "le");
            let Some(bound) = bound.and_then(|(_, bound)| bound.trim_matches('"').parse().ok())
            else {
                continue;
            };
            match sums.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => sums.push((bound, *count)),
            }
        }
        sums.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        sums
    }

    /// The least value of a metric, when it is there.
    #[must_use]
    pub fn least(&self, name: &str) -> Option<f64> {
        let series = self.samples.iter().filter(|(found, ..)| found == name);
        series.map(|(_, _, value)| *value).reduce(f64::min)
    }

    /// What a label says on the first series of a metric.
    #[must_use]
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        let (_, labels, _) = self.samples.iter().find(|(found, ..)| found == name)?;
        let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(found, _)| *found == label)?;
        Some(value.trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a primary that takes no changes is not well; a standby takes none, and a node from before says nothing of a role.
    #[test]
    fn what_is_wrong_with_a_node() {
        let said = |ready: bool, changes: bool, role: &str| {
            let said = serde_json::json!(
                {"ready": ready, "takes_changes": changes, "role": role, "reason": "no changes: x"}
            );
            complaint(&said)
        };
        assert_eq!(said(true, true, "primary"), None);
        assert_eq!(said(true, false, "standby"), None);
        let refuses = said(true, false, "primary");
        assert_eq!(
            refuses.as_deref(),
            Some("answers look-ups and no more: no changes: x")
        );
        let not_ready = said(false, false, "standby");
        assert_eq!(not_ready.as_deref(), Some("is not ready: no changes: x"));
        assert_eq!(complaint(&serde_json::json!({"ready": true})), None);
    }

    #[test]
    fn samples_are_found_by_labels() {
        let text = "# HELP a x\na{b=\"1\",c=\"x\"} 2\na{b=\"2\",c=\"x\"} 3\nab 7\nnot a number\n";
        let scrape = Scrape::read(text);
        assert_eq!(scrape.sum("a", &[]), 5.0);
        assert_eq!(scrape.sum("a", &[("c", "x"), ("b", "2")]), 3.0);
        assert_eq!(scrape.sum("a", &[("b", "3")]), 0.0);
        assert_eq!((scrape.least("a"), scrape.least("none")), (Some(2.0), None));
        assert_eq!(scrape.label("a", "c"), Some("x"));
    }
}
