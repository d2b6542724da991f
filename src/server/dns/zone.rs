//! The zones that are served, in the form in which questions meet them.

use jiexi_proto::handle::{self, CaseRule};

use super::name::{self, Mapping, NAME_MAX, Scheme, labels, put_label};
use super::records::Rule;
use crate::config::{self, RuleKind};

/// How long a secondary would wait to look for a new serial number, seconds: RIPE-203 for SOA values.
pub const REFRESH: i32 = 86_400;
/// How long after a failure to do so.
pub const RETRY: i32 = 7_200;
/// How long it would answer without having been able to.
pub const EXPIRE: i32 = 3_600_000;

/// One zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its apex in lower case, in wire form with the final zero octet.
    pub apex: Vec<u8>,
    /// How names make handles.
    pub mapping: Mapping,
    /// Which values become which records.
    pub rules: Vec<Rule>,
    /// The name servers, in wire form; the first one is the primary.
    pub nameservers: Vec<Vec<u8>>,
    /// The mailbox, in wire form.
    pub mail: Vec<u8>,
    /// TTL of SOA and NS, seconds.
    pub ttl: u32,
    /// TTL of what does not exist, seconds.
    pub negative_ttl: u32,
}

impl Zone {
    /// A zone as configured, for a store that folds handles by `case`.
    ///
    /// # Errors
    /// What cannot work, for people.
    pub fn new(config: &config::Zone, case: CaseRule) -> Result<Self, String> {
        let apex = parse(&config.name).ok_or_else(|| bad_name(&config.name))?;
        let mut stem = Vec::new();
        handle::fold(config.handles.as_bytes(), case, &mut stem);
        let slash = stem.iter().position(|octet| *octet == b'/');
        match (config.mapping, slash) {
            (Scheme::Handle, None) if !stem.is_empty() => {
                return Err(format!("handles {:?}: end it with a slash", config.handles));
            }
            (Scheme::Handle, Some(slash)) if slash + 1 != stem.len() => {
                return Err(format!(
                    "handles {:?}: a prefix and its slash, no more",
                    config.handles
                ));
            }
            (Scheme::Oid | Scheme::Gs1, None) => {
                return Err(format!(
                    "handles {:?}: name the prefix that the identifiers are under, such as \"88.118.1/\"",
                    config.handles
                ));
            }
            _ => {}
        }
        let mut nameservers = Vec::new();
        for server in &config.nameservers {
            let wire = parse(server).ok_or_else(|| bad_name(server))?;
            if relative(&wire, &apex).is_some() {
                return Err(format!(
                    "name server {server} lies in the zone, where every name is an identifier; name it elsewhere"
                ));
            }
            nameservers.push(wire);
        }
        if nameservers.is_empty() {
            return Err("nameservers is empty; name at least one".into());
        }
        let seconds = |name: &str, time: std::time::Duration| {
            i32::try_from(time.as_secs())
                .map(i32::unsigned_abs)
                .map_err(|_| format!("{name} is above 68 years (RFC 2181 §8)"))
        };
        let rules = if config.rules.is_empty() {
            usual(config.mapping)
        } else {
            config.rules.clone()
        };
        let rules: Result<_, _> = rules.iter().map(Rule::new).collect();
        Ok(Self {
            mail: parse(&config.mail).ok_or_else(|| bad_name(&config.mail))?,
            ttl: seconds("ttl", config.ttl)?,
            negative_ttl: seconds("negative_ttl", config.negative_ttl)?,
            mapping: Mapping {
                scheme: config.mapping,
                stem,
                case,
            },
            rules: rules?,
            nameservers,
            apex,
        })
    }
}

/// All zones of a node.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    /// The longest apex first, so that the first that fits is the closest.
    zones: Vec<Zone>,
}

impl Zones {
    /// The zones of a configuration.
    ///
    /// # Errors
    /// The name of a zone that cannot work, and why.
    pub fn new(config: &[config::Zone], case: CaseRule) -> Result<Self, (String, String)> {
        let mut zones: Vec<Zone> = Vec::new();
        for one in config {
            let zone = Zone::new(one, case).map_err(|why| (one.name.clone(), why))?;
            if zones.iter().any(|other| other.apex == zone.apex) {
                return Err((one.name.clone(), "is there twice".into()));
            }
            zones.push(zone);
        }
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.apex.len()));
        Ok(Self { zones })
    }

    /// The zone that `name` (wire form, lower case, with its final zero octet) lies in, and the part of
    /// the name below its apex.
    #[must_use]
    pub fn find<'n>(&self, name: &'n [u8]) -> Option<(&Zone, &'n [u8])> {
        self.zones
            .iter()
            .find_map(|zone| Some((zone, relative(name, &zone.apex)?)))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.zones.iter()
    }
}

/// The part of `name` in front of `apex`; none when it lies elsewhere.
#[must_use]
pub fn relative<'n>(name: &'n [u8], apex: &[u8]) -> Option<&'n [u8]> {
    let length = name.len().checked_sub(apex.len())?;
    if &name[length..] != apex {
        return None;
    }
    // The same octets may also begin in the middle of a label.
    let mut at = 0;
    while at < length {
        at += usize::from(name[at]) + 1;
    }
    (at == length).then(|| &name[..length])
}

/// A name in wire form, lower case, with its final zero octet; none when it is no host name.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        let good = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        if !(1..=name::LABEL_MAX).contains(&label.len()) || !label.bytes().all(good) {
            return None;
        }
        put_label(label.to_ascii_lowercase().as_bytes(), &mut wire);
    }
    wire.push(0);
    (wire.len() <= NAME_MAX).then_some(wire)
}

/// A name in wire form as text, with its final dot; what is no letter, digit, `-` or `_` is escaped as
/// zone files do (RFC 1035 §5.1).
#[must_use]
pub fn text(name: &[u8]) -> String {
    let mut text = String::new();
    for label in labels(name) {
        for &octet in label {
            if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_') {
                text.push(char::from(octet));
            } else {
                text.push_str(&format!("\\{octet:03}"));
            }
        }
        text.push('.');
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

fn bad_name(text: &str) -> String {
    format!("{text:?} is no name; write letters, digits and hyphens with dots between them")
}

/// The rules of a zone that has none of its own.
///
/// Service tokens: none of these could be read in its standard, so every one is *unverified*:
/// `http+I2L` (RFC 3404 §4.3 for the form, RFC 2483 §4.1 for I2L, "URI to URL"), `ORS+1:COID` (ITU-T
/// X.672 §8.1), `EPC+html` (ONS 1.0.1; ONS 2.0.1 identifies services by URLs). A zone that must satisfy
/// clients of these systems names the tokens they look for.
#[must_use]
pub fn usual(mapping: Scheme) -> Vec<config::Rule> {
    let service = match mapping {
        Scheme::Handle => "http+I2L",
        Scheme::Oid => "ORS+1:COID",
        Scheme::Gs1 => "EPC+html",
    };
    vec![
        config::Rule::new(RuleKind::Naptr, "URL", service),
        config::Rule::new(RuleKind::Uri, "URL", ""),
        config::Rule::new(RuleKind::A, "HS_SITE", ""),
        config::Rule::new(RuleKind::Aaaa, "HS_SITE", ""),
        config::Rule::new(RuleKind::Srv, "HS_SITE", ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a name belongs to the closest zone above it, cut at labels and not at octets.
    #[test]
    fn the_closest_zone() {
        let zone = |name: &str| config::Zone {
            name: name.into(),
            mapping: Scheme::Handle,
            handles: String::new(),
            nameservers: vec!["ns.example.org".into()],
            mail: "hostmaster.example.org".into(),
            ttl: std::time::Duration::from_secs(60),
            negative_ttl: std::time::Duration::from_secs(60),
            rules: Vec::new(),
        };
        let configured = [zone("id.example.net"), zone("gs1.id.example.net")];
        let zones = Zones::new(&configured, CaseRule::Whole).unwrap();
        let found = |name: &str| {
            let name = parse(name).unwrap();
            zones
                .find(&name)
                .map(|(zone, rest)| (text(&zone.apex), text(rest)))
        };
        let at = |apex: &str, rest: &str| Some((apex.into(), rest.into()));
        assert_eq!(found("a.id.example.net"), at("id.example.net.", "a."));
        assert_eq!(found("id.example.net"), at("id.example.net.", "."));
        assert_eq!(
            found("1.gs1.id.example.net"),
            at("gs1.id.example.net.", "1.")
        );
        assert_eq!(found("example.net"), None);
        assert_eq!(found("grid.example.net"), None);
        // A label that ends with the octets of the zone.
        let mut name = Vec::new();
        put_label(b"x\x02id", &mut name);
        name.extend_from_slice(&parse("example.net").unwrap());
        assert!(zones.find(&name).is_none());
        let mut inside = zone("id.example.net");
        inside.nameservers = vec!["ns.id.example.net".into()];
        assert!(Zone::new(&inside, CaseRule::Whole).is_err());
    }
}
