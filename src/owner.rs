//! Whose the files of a node are. All of them belong to one user: what another one leaves there the node cannot read, and
//! then it does not start.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{self, Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{Uid, User, geteuid};

/// The data directory of the node that this process is about, once it is known. Errors from deep below ask for advice, and
/// know their file only.
static DATA: OnceLock<PathBuf> = OnceLock::new();

/// What is inside a data directory and says whose the node is, when the directory itself is still root's.
const PARTS: [&str; 2] = ["store", "audit"];

/// This process is about the node with this data directory: advice names nothing above it.
pub fn is_about(data: &Path) {
    // A process is about one node; the first word counts.
    drop(DATA.set(absolute(data)));
}

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
    let owner = node_of(data)?;
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
pub(crate) fn node_of(data: &Path) -> Option<fs::Metadata> {
    let parts = PARTS.map(|part| data.join(part));
    let mut all = [data].into_iter().chain(parts.iter().map(PathBuf::as_path));
    let foreign = all.find_map(|path| fs::metadata(path).ok().filter(|owner| owner.uid() != 0));
    foreign.or_else(|| {
        let data = path::absolute(data).ok()?;
        data.ancestors().find_map(|above| fs::metadata(above).ok())
    })
}

/// What to do about a file that this user may not use.
#[must_use]
pub fn advice(path: &Path) -> String {
    let sight = Sight {
        me: geteuid().as_raw(),
        data: DATA.get().map(PathBuf::as_path),
        owner_of,
    };
    sight.advice(&absolute(path))
}

/// What to do when this is neither root nor the user of the node with these data; nothing when it is one of them, or there is
/// no node.
#[must_use]
pub fn refuse_stranger(data: &Path) -> Option<String> {
    let (me, data) = (geteuid(), absolute(data));
    let sight = Sight {
        me: me.as_raw(),
        data: Some(&data),
        owner_of,
    };
    let hidden = || {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        fs::metadata(&data).is_err_and(denied)
    };
    let stranger = match sight.user_of(&data) {
        Some(user) => user != sight.me,
        None => hidden(),
    };
    (stranger && !me.is_root()).then(|| sight.advice(&data))
}

/// What root types so that everything in a directory belongs to a user.
#[must_use]
pub fn hand_over(directory: &Path, user: &str) -> String {
    // `chown -R` does not go through a link.
    let real = fs::canonicalize(directory).unwrap_or_else(|_| absolute(directory));
    format!("chown -R {user} {}", quoted(&real.display().to_string()))
}

/// Whose a path is; none where there is nothing, or nothing that this user can see.
fn owner_of(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.uid())
}

/// Who looks at the files of which node. Nothing above the data directory is ever named to be given away: it is no node's,
/// and whoever is root does what is written here.
struct Sight<'d, F> {
    /// The user of this process.
    me: u32,
    /// The data directory, when it is known.
    data: Option<&'d Path>,
    /// Whose a path is; none where there is nothing, or nothing that this user can see.
    owner_of: F,
}

impl<F: Fn(&Path) -> Option<u32>> Sight<'_, F> {
    fn advice(&self, path: &Path) -> String {
        let seen = |above| Some((above, (self.owner_of)(above)?));
        let Some((nearest, owner)) = path.ancestors().find_map(seen) else {
            return "it is not known whose it is".to_owned();
        };
        let (me, shown) = (name(self.me), nearest.display());
        if owner == self.me {
            return format!("{shown} is {me}'s, as this process is: see its mode");
        }
        let owner = name(owner);
        let seen = format!("this is {me}, and {shown} belongs to {owner}");
        let Some(data) = self.data else {
            let user = match owner == name(0) {
                true => "the user of the node",
                false => &owner,
            };
            return format!("{seen}: run it as {user}");
        };
        match self.user_of(data) {
            Some(user) if user != self.me && user != 0 => {
                format!("{seen}: run it as {}, the user of the node", name(user))
            }
            None if path.starts_with(data) => format!(
                "{seen}: run it as {owner}, or choose a directory that {me} may use, which root makes with `install -d -o \
                 {me} {}`",
                quoted(&data.display().to_string())
            ),
            _ if !nearest.starts_with(data) => {
                format!("{seen}: let {me} use it, or name another place in the configuration")
            }
            // Others have left something among the files of this user.
            Some(user) if user == self.me => format!(
                "{shown} belongs to {owner}, perhaps because a command was run as {owner}: as root `{}`",
                hand_over(data, &me)
            ),
            _ => format!(
                "{seen}: run it as {}, or as root `{}`",
                name(0),
                hand_over(data, &me)
            ),
        }
    }

    /// The user of the node: that of the data directory, or of what is in it when the directory is root's.
    fn user_of(&self, data: &Path) -> Option<u32> {
        let directory = (self.owner_of)(data)?;
        let mut parts = PARTS
            .iter()
            .filter_map(|part| (self.owner_of)(&data.join(part)));
        match directory {
            0 => parts.find(|user| *user != 0).or(Some(0)),
            user => Some(user),
        }
    }
}

/// A path from the root on. Without a working directory it stays as it is.
fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
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

    /// Users of the tests: numbers that have no name.
    const ME: u32 = 61_001;
    const NODE: u32 = 61_002;
    const OTHER: u32 = 61_003;

    /// The advice of `me` about a file of the node in /var/lib/jiexi, where these paths are there and whose they are.
    fn advised(me: u32, owners: &[(&str, u32)], path: &str) -> String {
        let sight = Sight {
            me,
            data: Some(Path::new("/var/lib/jiexi")),
            owner_of: |path: &Path| {
                let known = owners.iter().find(|(known, _)| Path::new(known) == path);
                known.map(|(_, owner)| *owner)
            },
        };
        let said = sight.advice(Path::new(path));
        // Whatever is to be given away is the data directory.
        for command in said.split("chown").skip(1) {
            assert!(command.ends_with("/var/lib/jiexi`"), "{said}");
        }
        said
    }

    const DIRECTORIES: [(&str, u32); 3] = [("/", 0), ("/var", 0), ("/var/lib", 0)];
    const JOURNAL: &str = "/var/lib/jiexi/store/journal";

    /// Goal: what others left among the files of the node's user is handed over, and nothing above the data directory.
    #[test]
    fn files_among_those_of_the_node() {
        let owners = [
            &DIRECTORIES[..],
            &[("/var/lib/jiexi", NODE), ("/var/lib/jiexi/store", NODE)],
            &[(JOURNAL, 0)],
        ]
        .concat();
        let said = advised(NODE, &owners, "/var/lib/jiexi/store/journal/1.journal");
        assert!(
            said.contains("belongs to root") && said.contains("chown -R 61002 /var/lib/jiexi`"),
            "{said}"
        );
        // Whoever else looks is sent to the user of the node, root without its powers too.
        for stranger in [ME, 0] {
            let said = advised(stranger, &owners, "/var/lib/jiexi/store/lock");
            assert!(
                said.contains("run it as 61002") && !said.contains("chown"),
                "{said}"
            );
        }
        let own = advised(NODE, &owners, "/var/lib/jiexi/store/lock");
        assert!(own.ends_with("see its mode"), "{own}");
    }

    /// Goal: a data directory that was made as root may be handed over, but not when what is in it is another user's.
    #[test]
    fn a_data_directory_of_root() {
        let mut owners = [&DIRECTORIES[..], &[("/var/lib/jiexi", 0)]].concat();
        let said = advised(ME, &owners, JOURNAL);
        assert!(
            said.contains("run it as root") && said.contains("chown -R 61001 /var/lib/jiexi`"),
            "{said}"
        );
        owners.push(("/var/lib/jiexi/store", NODE));
        let said = advised(ME, &owners, JOURNAL);
        assert!(
            said.contains("run it as 61002") && !said.contains("chown"),
            "{said}"
        );
    }

    /// Goal: of a data directory of another user, and of what is above it or elsewhere, nothing is given away.
    #[test]
    fn what_is_not_the_node_s() {
        let closed = [&DIRECTORIES[..], &[("/var/lib/jiexi", OTHER)]].concat();
        let said = advised(ME, &closed, JOURNAL);
        assert!(
            said.ends_with("run it as 61003, the user of the node"),
            "{said}"
        );
        let missing = advised(ME, &DIRECTORIES, JOURNAL);
        assert!(
            missing.ends_with("`install -d -o 61001 /var/lib/jiexi`"),
            "{missing}"
        );
        let of_node = [&DIRECTORIES[..], &[("/var/lib/jiexi", ME), ("/srv", 0)]].concat();
        let elsewhere = advised(ME, &of_node, "/srv/audit");
        assert!(
            elsewhere.contains("/srv belongs to root: let 61001 use it"),
            "{elsewhere}"
        );
    }

    /// Goal: as long as it is not known which node is meant, nothing is given away; and nothing is said of nothing.
    #[test]
    fn a_file_of_no_known_node() {
        let sight = |owner| Sight {
            me: ME,
            data: None,
            owner_of: move |_: &Path| owner,
        };
        let path = Path::new("/etc/jiexi/jiexi.toml");
        for (owner, whose, user) in [
            (0, "root", "the user of the node"),
            (OTHER, "61003", "61003"),
        ] {
            assert_eq!(
                sight(Some(owner)).advice(path),
                format!(
                    "this is 61001, and /etc/jiexi/jiexi.toml belongs to {whose}: run it as {user}"
                )
            );
        }
        assert_eq!(sight(None).advice(path), "it is not known whose it is");
    }
}
