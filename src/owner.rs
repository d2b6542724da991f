//! Whose the files of a node are. All of them belong to one user: what another one leaves there the node cannot read, and
//! then it does not start.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

/// The name of a user, or its number.
#[must_use]
pub fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Why root leaves a node alone whose data are somebody else's, and what to type; nothing when it may go on. `command` is
/// the program with its arguments.
#[must_use]
pub fn refuse_root<S: AsRef<OsStr>>(
    data: &Path,
    command: impl IntoIterator<Item = S>,
) -> Option<String> {
    let (user, command) = as_owner(data, command)?;
    Some(format!(
        "{} belongs to {user}; what root writes there {user} could not read, and the node would not start. Nothing was \
         done; run it as {user}: {command}",
        data.display()
    ))
}

/// Whose the data are when this is root and they are not root's, and how root runs a command as that user.
#[must_use]
pub fn as_owner<S: AsRef<OsStr>>(
    data: &Path,
    command: impl IntoIterator<Item = S>,
) -> Option<(String, String)> {
    if !geteuid().is_root() {
        return None;
    }
    let owner = owner_of(data)?;
    if owner.uid() == 0 {
        return None;
    }
    let words: Vec<_> = command
        .into_iter()
        .map(|word| quoted(&word.as_ref().to_string_lossy()))
        .collect();
    let (user, words) = (name(owner.uid()), words.join(" "));
    let command = match user.parse::<u32>() {
        // `runuser` knows names only.
        Ok(uid) => {
            let gid = owner.gid();
            format!("setpriv --reuid={uid} --regid={gid} --clear-groups -- {words}")
        }
        Err(_) => format!("runuser -u {user} -- {words}"),
    };
    Some((user, command))
}

/// Whose a node is: its data directory, or what is in that; before it is made, where it would be.
fn owner_of(data: &Path) -> Option<fs::Metadata> {
    let parts = ["store", "audit"].map(|part| data.join(part));
    let mut all = parts.iter().map(PathBuf::as_path).chain([data]);
    let foreign = all.find_map(|path| fs::metadata(path).ok().filter(|owner| owner.uid() != 0));
    foreign.or_else(|| {
        let data = std::path::absolute(data).ok()?;
        data.ancestors().find_map(|above| fs::metadata(above).ok())
    })
}

/// What to do about a file that this user may not use.
#[must_use]
pub fn advice(path: &Path) -> String {
    let me = geteuid().as_raw();
    let mut owners = path
        .ancestors()
        .filter_map(|above| Some((above, fs::metadata(above).ok()?.uid())));
    let Some((nearest, owner)) = owners.next() else {
        return "it is not known whose it is".to_owned();
    };
    let me_by_name = name(me);
    if owner == me {
        let shown = nearest.display();
        return format!("{shown} is {me_by_name}'s, as this process is: see its mode");
    }
    let chown = |directory: &Path| {
        let directory = quoted(&directory.display().to_string());
        format!("as root `chown -R {me_by_name} {directory}`")
    };
    let owner = name(owner);
    match owners.find(|(_, above)| *above == me) {
        // Others have left something among the files of this user.
        Some((above, _)) => format!(
            "{} belongs to {owner}, perhaps because a command was run as {owner}: {}",
            nearest.display(),
            chown(above)
        ),
        None => format!(
            "this is {me_by_name}, and {} belongs to {owner}: run it as {owner}, or {}",
            nearest.display(),
            chown(nearest.parent().unwrap_or(nearest))
        ),
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is shown to be typed means the same to a shell.
    #[test]
    fn words_for_a_shell() {
        for (word, shown) in [
            ("88.118/x", "88.118/x"),
            ("1:URL=https://example.cn/", "1:URL=https://example.cn/"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("a;b", "'a;b'"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }
}
