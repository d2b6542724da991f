//! Chinese or English, as the client's `Accept-Language` asks.

use axum::http::{HeaderMap, header};

/// A language that pages and problems are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Language {
    /// Chinese, simplified.
    Chinese,
    /// English; also when the client does not say.
    #[default]
    English,
}

/// Languages of a header that are looked at.
const ITEMS_MAX: usize = 16;

impl Language {
    /// The one that the client likes better.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(text) = headers
            .get(header::ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok())
        else {
            return Self::default();
        };
        let mut best: Option<(f32, Self)> = None;
        for item in text.split(',').take(ITEMS_MAX) {
            let (tag, parameters) = item.split_once(';').unwrap_or((item, ""));
            let primary = tag.trim().split('-').next().unwrap_or_default();
            let language = match primary {
                tag if tag.eq_ignore_ascii_case("zh") => Self::Chinese,
                tag if tag.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            let weight = parameters.trim().strip_prefix("q=");
            let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
            if weight > best.map_or(0.0, |(known, _)| known) {
                best = Some((weight, language));
            }
        }
        best.map_or_else(Self::default, |(_, language)| language)
    }

    /// Its tag.
    pub(crate) const fn tag(self) -> &'static str {
        match self {
            Self::Chinese => "zh-CN",
            Self::English => "en",
        }
    }

    /// One of two texts.
    pub(crate) const fn pick<'a>(self, chinese: &'a str, english: &'a str) -> &'a str {
        match self {
            Self::Chinese => chinese,
            Self::English => english,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what phones and browsers send is understood; anything else is English.
    #[test]
    fn preferences() {
        for (header, expected) in [
            ("zh-CN,zh;q=0.9,en;q=0.8", Language::Chinese),
            ("en-US,en;q=0.9,zh;q=0.8", Language::English),
            ("de,zh;q=0.5", Language::Chinese),
            ("en;q=0.1, ZH-hant;q=0.2", Language::Chinese),
            ("zh;q=0", Language::English),
            ("*", Language::English),
            (";;,,q=", Language::English),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, header.parse().unwrap());
            assert_eq!(Language::of(&headers), expected, "{header}");
        }
    }
}
