//! HTML for people: text made harmless, and the frame of every page.
//!
//! A page loads nothing: its style stands in it, named by its hash in the policy, and there is no script.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::{HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, with_type};
use super::language::Language;

/// The style of every page; fit for a phone.
const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--link:#0b57d0}\
@media(prefers-color-scheme:dark){:root{--link:#8ab4f8}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:52rem;padding:1rem;font:1rem/1.6 system-ui,sans-serif;overflow-wrap:anywhere}\
h1{font-size:1.25rem;margin:.5rem 0}h2{font-size:1.05rem;margin:1.5rem 0 .25rem}\
.v,.n{border:1px solid var(--line);border-radius:.5rem;padding:.5rem .75rem;margin:.5rem 0;overflow:hidden;contain:paint}\
.v b{font-weight:600}.v small,.m{color:GrayText}\
.d{margin:.25rem 0 0;white-space:pre-wrap;max-height:24rem;overflow:auto}\
.c{font:.75em/1 ui-monospace,monospace;border:1px solid;border-radius:.2rem;padding:0 .15rem;margin:0 .1rem;color:#b3261e}\
code{font-family:ui-monospace,monospace;background:var(--soft);border-radius:.2rem;padding:0 .2rem}\
a{color:var(--link);overflow-wrap:anywhere}table{border-collapse:collapse;width:100%;table-layout:fixed}\
td,th{border-top:1px solid var(--line);padding:.25rem .5rem .25rem 0;text-align:start;vertical-align:top}\
footer{margin-top:2rem;border-top:1px solid var(--line);padding-top:.5rem;font-size:.875rem}";

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(STYLE));

/// What a page may do: show its own style.
pub(crate) fn policy(style: &str) -> HeaderValue {
    let hash = STANDARD.encode(Sha256::digest(style));
    let text = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// A page. `title` is text, `head` and `body` are HTML.
pub(super) fn page(
    status: StatusCode,
    language: Language,
    title: &str,
    head: &str,
    body: &str,
) -> Answer {
    let text = format!(
        "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"referrer\" content=\"no-referrer\">{head}<style>{STYLE}</style></head><body>{body}</body></html>\n",
        language.tag(),
        plain(title)
    );
    let mut answer = with_type(status, "text/html; charset=utf-8", text);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    let none = HeaderValue::from_static("no-referrer");
    headers.insert(header::REFERRER_POLICY, none);
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Language"));
    answer
}

/// Text as HTML: escaped; what is invisible or turns the writing around is made visible.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            character if is_hidden(character) => {
                let _ = write!(
                    out,
                    "<span class=\"c\">U+{:04X}</span>",
                    u32::from(character)
                );
            }
            character => out.push(character),
        }
    }
    out
}

/// Text where no element may stand, as in a title or an attribute.
pub(super) fn plain(text: &str) -> String {
    let visible: String = text
        .chars()
        .map(|character| {
            if is_hidden(character) || character.is_control() {
                '\u{FFFD}'
            } else {
                character
            }
        })
        .collect();
    self::text(&visible)
}

/// Controls, marks that turn the writing around, and characters that show nothing.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character),
            0xAD | 0x34F | 0x61C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFEFF | 0xFFA0
            | 0xFFF0..=0xFFFB | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing of a value becomes markup, and nothing hides.
    #[test]
    fn harmless() {
        assert_eq!(text("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        assert_eq!(text("a\u{202E}b"), "a<span class=\"c\">U+202E</span>b");
        assert_eq!(
            text("\0工\u{200B}"),
            "<span class=\"c\">U+0000</span>工<span class=\"c\">U+200B</span>"
        );
        assert_eq!(plain("</title>\u{2066}"), "&lt;/title&gt;\u{FFFD}");
    }
}
