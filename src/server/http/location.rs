//! Where a scanned code leads: the choice among `10320/loc` locations, else the first `URL`.

use std::net::IpAddr;

use jiexi_proto::value::Value;
use url::Url;

/// Longest `10320/loc` value that is looked at.
const XML_MAX: usize = 64 * 1024;
/// Elements, attributes and texts of one.
const NODES_MAX: u32 = 10_000;
/// Longest address.
const URL_MAX: usize = 4_096;
/// The type of a list of locations.
const LOCATIONS: &[u8] = b"10320/loc";
/// The type of an address.
const URL_TYPE: &[u8] = b"URL";

/// The address that a record leads to: of the locations that have one of `locatt`, or of all, one by their weights;
/// `random` decides. Only what is safe to send a browser to.
pub(super) fn choose(values: &[Value], locatt: &[(String, String)], random: u64) -> Option<Url> {
    let of = |kind: &'static [u8]| {
        let same = move |value: &&Value| value.kind.eq_ignore_ascii_case(kind);
        values.iter().filter(same)
    };
    let location = of(LOCATIONS).find_map(|value| among(&value.data, locatt, random));
    location.or_else(|| {
        let mut addresses = of(URL_TYPE).filter_map(|value| std::str::from_utf8(&value.data).ok());
        addresses.find_map(safe)
    })
}

/// An address that a browser may be sent to, or that may be a link: http or https, a host, no user, no control
/// characters.
pub(super) fn safe(text: &str) -> Option<Url> {
    if text.len() > URL_MAX || text.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let good = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.username().is_empty()
        && url.password().is_none();
    good.then_some(url)
}

/// Whether an address is at this node, which is known by these origins and was asked by these names.
pub(super) fn is_at<'a>(
    url: &Url,
    mut asked: impl Iterator<Item = &'a str>,
    origins: &[(String, u16)],
) -> bool {
    let Some(there) = url.host_str() else {
        return false;
    };
    let port = url.port_or_known_default().unwrap_or(0);
    let named = |name: &str, at: u16| name.eq_ignore_ascii_case(there) && at == port;
    if origins.iter().any(|(name, at)| named(name, *at)) {
        return true;
    }
    // What the client says is good enough to refuse by, and for nothing else.
    asked.any(|name| {
        Url::parse(&format!("{}://{name}", url.scheme())).is_ok_and(|asked| {
            asked.port_or_known_default() == Some(port) && asked.host_str() == Some(there)
        })
    })
}

/// An address as it stands in a URL.
pub(super) fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

struct Location {
    url: Url,
    weight: f64,
}

fn among(xml: &[u8], locatt: &[(String, String)], random: u64) -> Option<Url> {
    let text = std::str::from_utf8(xml)
        .ok()
        .filter(|text| text.len() <= XML_MAX)?;
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..roxmltree::ParsingOptions::default()
    };
    let document = roxmltree::Document::parse_with_options(text, options).ok()?;
    let root = document.root_element();
    let by_attribute = root
        .attribute("chooseby")
        .is_none_or(|ways| ways.split(',').any(|way| way.trim() == "locatt"));
    let elements = || root.children().filter(|node| node.has_tag_name("location"));
    let wanted = |node: &roxmltree::Node<'_, '_>| {
        locatt
            .iter()
            .any(|(name, value)| node.attribute(name.as_str()) == Some(value))
    };
    let read = |node: roxmltree::Node<'_, '_>| {
        Some(Location {
            url: safe(node.attribute("href")?)?,
            weight: node.attribute("weight").map_or(1.0, |weight| {
                let weight: f64 = weight.trim().parse().unwrap_or(0.0);
                if weight.is_finite() {
                    weight.clamp(0.0, 1e6)
                } else {
                    0.0
                }
            }),
        })
    };
    let matching: Vec<Location> = match by_attribute && !locatt.is_empty() {
        true => elements().filter(wanted).filter_map(read).collect(),
        false => Vec::new(),
    };
    let chosen = !matching.is_empty();
    let locations = match chosen {
        true => matching,
        false => elements().filter_map(read).collect(),
    };
    weighted(locations, random, chosen)
}

/// One of them by weight. Weight 0 is for those that are asked for by an attribute.
fn weighted(locations: Vec<Location>, random: u64, asked_for: bool) -> Option<Url> {
    let total: f64 = locations.iter().map(|location| location.weight).sum();
    if total <= 0.0 {
        let first = locations.into_iter().next().filter(|_| asked_for);
        return first.map(|location| location.url);
    }
    let mut point = (random >> 11) as f64 / (1_u64 << 53) as f64 * total;
    let mut last = None;
    for location in locations {
        if location.weight <= 0.0 {
            continue;
        }
        point -= location.weight;
        last = Some(location.url);
        if point < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use jiexi_proto::code::Permissions;
    use jiexi_proto::value::Ttl;

    fn value(kind: &'static str, data: &str) -> Value {
        Value {
            index: 1,
            timestamp: 0,
            ttl: Ttl::Relative(0),
            permissions: Permissions(0b1110),
            kind: Bytes::from_static(kind.as_bytes()),
            data: Bytes::from(data.to_owned()),
            references: Vec::new(),
        }
    }

    fn to(values: &[Value], locatt: &[(&str, &str)], random: u64) -> Option<String> {
        let locatt: Vec<_> = locatt
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        choose(values, &locatt, random).map(Into::into)
    }

    const LOC: &str = r#"<locations><location href="https://a.cn/" weight="0" country="cn"/>
        <location href="https://b.cn/" weight="1" view="x"/><location href="https://c.cn/" weight="3"/></locations>"#;

    /// Goal: attributes, weights and the first URL, in this order.
    #[test]
    fn choices() {
        let values = [value("URL", "https://u.cn/"), value("10320/loc", LOC)];
        assert_eq!(
            to(&values, &[("country", "cn")], 0).as_deref(),
            Some("https://a.cn/")
        );
        assert_eq!(
            to(&values, &[("view", "x")], u64::MAX).as_deref(),
            Some("https://b.cn/")
        );
        assert_eq!(
            to(&values, &[("view", "none")], 0).as_deref(),
            Some("https://b.cn/")
        );
        assert_eq!(to(&values, &[], u64::MAX).as_deref(), Some("https://c.cn/"));
        let mut counts = [0; 2];
        for step in 0..1000_u64 {
            let place = to(&values, &[], step * (u64::MAX / 1000)).unwrap();
            counts[usize::from(place.contains("c.cn"))] += 1;
        }
        assert!((240..=260).contains(&counts[0]), "{counts:?}");
        assert_eq!(
            to(&[value("URL", "x"), value("url", "http://u.cn")], &[], 0).as_deref(),
            Some("http://u.cn/")
        );
    }

    /// Goal: nothing but http and https, and no XML that does more than list locations.
    #[test]
    fn hostile() {
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "http://",
            "https://u:p@a.cn/",
            "http://a.cn/\r\nX: y",
            "ht\ttp://a.cn",
            "//a.cn",
            "file:///etc/passwd",
            " http://a.cn",
            "http://a.cn/\u{1}",
        ] {
            assert_eq!(to(&[value("URL", bad)], &[], 0), None, "{bad:?}");
        }
        let entity = r#"<!DOCTYPE l [<!ENTITY a "https://a.cn/">]><locations><location href="&a;"/></locations>"#;
        let script = r#"<locations><location href="javascript:alert(1)"/></locations>"#;
        let long = format!(
            "<locations>{}<location href=\"https://a.cn/\"/></locations>",
            " ".repeat(XML_MAX)
        );
        let deep = "<a>".repeat(20_000);
        for bad in [entity, script, &long, &deep, "<locations", ""] {
            let values = [value("10320/loc", bad), value("URL", "https://u.cn/")];
            assert_eq!(to(&values, &[], 0).as_deref(), Some("https://u.cn/"));
        }
    }
}
