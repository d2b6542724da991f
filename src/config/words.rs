//! What is wrong with a value, in people's words instead of those of the reader of the file.

use std::borrow::Cow;

use super::file::nearest;

/// Types as the reader of the file names them, and what to write.
const EXPECTED: [(&str, &str); 11] = [
    ("u8", "a number from 0 to 255"),
    ("u16", "a number from 0 to 65535"),
    ("u32", "a number from 0 to 4294967295"),
    ("u64", "a number, 0 or more"),
    ("usize", "a number, 0 or more"),
    ("a boolean", "true or false"),
    ("a string", "a text in quotes"),
    ("path string", "a path in quotes"),
    (
        "a duration",
        "a time in quotes with its unit, such as \"30s\"",
    ),
    ("a sequence", "a list, such as [\"one\", \"two\"]"),
    ("IP address", "an IP address in quotes"),
];

/// Kinds of values as the reader of the file names them. What stands behind them is as it was written.
const FOUND: [(&str, &str); 6] = [
    ("integer `", ""),
    ("floating point `", ""),
    ("boolean `", ""),
    ("string ", ""),
    ("sequence", "a list"),
    ("map", "a table"),
];

/// The message, in words if it is about a type or a name.
pub(super) fn told(message: &str) -> Cow<'_, str> {
    let message = message.trim_end();
    if let Some(words) = about_name(message) {
        return Cow::Owned(words);
    }
    let about_type = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once(", expected "));
    let Some((found, expected)) = about_type else {
        return Cow::Borrowed(message);
    };
    let known = EXPECTED.iter().find(|(name, _)| *name == expected);
    let expected = known.map_or(expected, |(_, words)| words);
    let found = FOUND.iter().find_map(|(kind, words)| {
        let value = found.strip_prefix(kind)?.trim_end_matches('`');
        Some(format!("{words}{value}"))
    });
    let found = found.map_or(Cow::Borrowed("this"), Cow::Owned);
    Cow::Owned(format!("must be {expected}, and is {found}"))
}

/// What is said of a name that is none of those there are, with the nearest of them.
fn about_name(message: &str) -> Option<String> {
    let forms = [("unknown field `", "key"), ("unknown variant `", "value")];
    let (rest, what) = forms
        .iter()
        .find_map(|(start, what)| Some((message.strip_prefix(start)?, *what)))?;
    let (name, expected) = rest.split_once("`, expected ")?;
    // The names stand in backticks.
    let known: Vec<String> = expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(ToOwned::to_owned)
        .collect();
    let meant = nearest(name, known.iter());
    let meant = meant.map_or_else(String::new, |meant| format!(" did you mean \"{meant}\"?"));
    Some(format!(
        "unknown {what} \"{name}\";{meant} there are {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every form of the reader's messages is understood, and others stay as they are.
    #[test]
    fn messages_become_words() {
        for (message, words) in [
            (
                "invalid value: integer `70000`, expected u16\n",
                "must be a number from 0 to 65535, and is 70000",
            ),
            (
                "invalid type: string \"a, b\", expected a boolean",
                "must be true or false, and is \"a, b\"",
            ),
            (
                "invalid type: floating point `1.5`, expected u32",
                "must be a number from 0 to 4294967295, and is 1.5",
            ),
            (
                "invalid type: map, expected a sequence",
                "must be a list, such as [\"one\", \"two\"], and is a table",
            ),
            (
                "invalid type: unit value, expected struct Zone",
                "must be struct Zone, and is this",
            ),
            (
                "unknown field `maping`, expected one of `name`, `mapping`, `handles`",
                "unknown key \"maping\"; did you mean \"mapping\"? there are name, mapping, handles",
            ),
            (
                "unknown variant `txt`, expected `NAPTR` or `TXT`",
                "unknown value \"txt\"; there are NAPTR, TXT",
            ),
            ("invalid IP address syntax", "invalid IP address syntax"),
        ] {
            assert_eq!(told(message), words);
        }
    }
}
