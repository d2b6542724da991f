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

/// Why a zone cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which zone of the configuration, counted from 0.
    pub place: usize,
    /// Its name.
    pub zone: String,
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong, and the remedy.
    pub why: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.zone, self.why)
    }
}

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
    /// The key that cannot work, and why, for people.
    pub fn new(config: &config::Zone, case: CaseRule) -> Result<Self, (&'static str, String)> {
        let named = |key, name: &str| parse(name).ok_or_else(|| (key, bad_name(name)));
        let apex = named("name", &config.name)?;
        let mapping = mapping(config.mapping, &config.handles, case);
        let seconds = |key, time: std::time::Duration| {
            i32::try_from(time.as_secs())
                .map(i32::unsigned_abs)
                .map_err(|_| (key, format!("{key} is above 68 years (RFC 2181 §8)")))
        };
        Ok(Self {
            mail: named("mail", &config.mail)?,
            ttl: seconds("ttl", config.ttl)?,
            negative_ttl: seconds("negative_ttl", config.negative_ttl)?,
            mapping: mapping.map_err(|why| ("handles", why))?,
            rules: rules(config).map_err(|why| ("rules", why))?,
            nameservers: nameservers(&config.nameservers, &apex)
                .map_err(|why| ("nameservers", why))?,
            apex,
        })
    }
}

/// The name servers of a zone in wire form.
fn nameservers(names: &[String], apex: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut nameservers = Vec::new();
    for server in names {
        let wire = parse(server).ok_or_else(|| bad_name(server))?;
        if relative(&wire, apex).is_some() {
            return Err(format!(
                "name server {server} lies in the zone, where every name is an identifier; name it elsewhere"
            ));
        }
        nameservers.push(wire);
    }
    if nameservers.is_empty() {
        return Err("nameservers is empty; name at least one".into());
    }
    Ok(nameservers)
}

/// The rules of a zone, or what is usual for its mapping.
fn rules(config: &config::Zone) -> Result<Vec<Rule>, String> {
    if config.rules.is_empty() {
        return usual(config.mapping).iter().map(Rule::new).collect();
    }
    let numbered = config.rules.iter().zip(1..);
    numbered
        .map(|(rule, number)| Rule::new(rule).map_err(|why| format!("rule {number}: {why}")))
        .collect()
}

/// How the names of a zone make handles that begin with `handles`, in a store that folds by `case`.
///
/// # Errors
/// What is wrong with `handles`, and the remedy.
pub fn mapping(scheme: Scheme, handles: &str, case: CaseRule) -> Result<Mapping, String> {
    let mut stem = Vec::new();
    handle::fold(handles.as_bytes(), case, &mut stem);
    let slash = stem.iter().position(|octet| *octet == b'/');
    match (scheme, slash) {
        (Scheme::Handle, None) if !stem.is_empty() => {
            Err(format!("handles {handles:?}: end it with a slash"))
        }
        (Scheme::Handle, Some(slash)) if slash + 1 != stem.len() => Err(format!(
            "handles {handles:?}: a prefix and its slash, no more"
        )),
        (Scheme::Oid | Scheme::Gs1, None) => Err(format!(
            "handles {handles:?}: name the prefix that the identifiers are under, such as \"88.118.1/\""
        )),
        (Scheme::Oid, Some(slash)) if !name::begins_oid(&stem[slash + 1..]) => Err(format!(
            "handles {handles:?}: the arcs behind the slash are no beginning of an object identifier; write them as in \
             \"88.118.1/1.2.156.\", with a dot behind each"
        )),
        _ => Ok(Mapping { scheme, stem, case }),
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
    /// Every zone that cannot work, and why.
    pub fn new(config: &[config::Zone], case: CaseRule) -> Result<Self, Vec<Fault>> {
        let (mut zones, mut faults) = (Vec::<Zone>::new(), Vec::new());
        for (place, one) in config.iter().enumerate() {
            let wrong = match Zone::new(one, case) {
                Ok(zone) if zones.iter().any(|other| other.apex == zone.apex) => {
                    ("name", "is there twice; take one of them out".into())
                }
                Ok(zone) => {
                    zones.push(zone);
                    continue;
                }
                Err(wrong) => wrong,
            };
            faults.push(Fault {
                place,
                zone: one.name.clone(),
                key: wrong.0,
                why: wrong.1,
            });
        }
        if !faults.is_empty() {
            return Err(faults);
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
/// Service tokens: none of these could be read in the text of its standard, so every one is *unverified* but for
/// what is said here:
///
/// * `http+I2L`: RFC 3404 §4.4 for the form, RFC 2483 §4.1 for I2L, "URI to URL".
/// * `ORS+1:UINF`: the service type UINF is the one whose expression holds a URI, says ITU's page of X.672 (08/2010) under
///   "New service type for Recommendation ITU-T X.672" (itu.int/itu-t/recommendations/rec.aspx?rec=X.672). COID is the
///   canonical OID (X.672 Annex B), which no URL is. What stands before the type is unverified (X.672 §6.3, §8.1).
/// * `EPC+html`: ONS 1.0.1; ONS 2.0.1 identifies services by URLs.
///
/// A zone that must satisfy clients of these systems names the tokens they look for.
#[must_use]
pub fn usual(mapping: Scheme) -> Vec<config::Rule> {
    let service = match mapping {
        Scheme::Handle => "http+I2L",
        Scheme::Oid => "ORS+1:UINF",
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
