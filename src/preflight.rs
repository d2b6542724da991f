//! What a configuration needs on the disk, looked at before anything is opened: `config check` and `serve` ask the same,
//! and name the key that names the file. Every command that reads the configuration of a node asks for its case rule.
//!
//! Nothing is left behind: to see whether a directory can be made, it is made and taken away again.

use std::fs::{self, File};
use std::io;
use std::os::unix::{fs::FileTypeExt as _, net::SocketAddr};
use std::path::Path;

use crate::config::{Config, Origins, Problem};
use crate::ops;
use crate::owner;
use crate::reload;
use crate::store::{Store, StoreError};

/// Everything that a node with this configuration would not start with.
#[must_use]
pub fn problems(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut found = certificates(config, origins);
    found.extend(beside_certificates(config, origins));
    found
}

/// Certificates that cannot be used.
fn certificates(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut found = Vec::new();
    let (http, dns) = (&config.http, &config.dns);
    for (section, used, certificate, key) in [
        ("http", true, &http.certificate, &http.key),
        ("dns", dns.enabled, &dns.certificate, &dns.key),
    ] {
        if !used {
            continue;
        }
        let files = [("certificate", certificate), ("key", key)];
        let before = found.len();
        for (name, path) in files {
            if let Some(message) = unreadable(path) {
                found.push(origins.problem(section, name, message));
            }
        }
        if found.len() == before
            && let Err(error) = reload::check_files(certificate, key)
        {
            found.push(origins.problem(section, "certificate", error));
        }
    }
    found
}

/// Everything else.
#[must_use]
pub fn beside_certificates(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut found = Vec::new();
    let token = &config.operations.token_file;
    if !token.as_os_str().is_empty()
        && let Err(error) = ops::read_token(token)
    {
        found.push(origins.problem("operations", "token_file", error));
    }
    for (section, name, directory) in [
        ("administration", "audit", config.audit_dir()),
        ("batch", "spool", config.spool_dir()),
        ("jobs", "directory", config.jobs_dir()),
    ] {
        if let Err(error) = directory_can_be(&directory) {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => owner::advice(&directory),
                _ => "name a directory that this user can make and write".to_owned(),
            };
            let message = format!("{}: {error}; {advice}", directory.display());
            found.push(origins.problem(section, name, message));
        }
    }
    if let Some(message) = no_socket(config) {
        found.push(origins.problem("control", "socket", message));
    }
    found.extend(case_rule(config, origins));
    found
}

/// Why the control socket cannot be bound. Nobody makes its directory, but for that of the data.
fn no_socket(config: &Config) -> Option<String> {
    let path = config.control_socket();
    let shown = path.display();
    if let Err(error) = SocketAddr::from_pathname(&path) {
        return Some(format!(
            "{shown}: {error}; name a shorter path, such as /run/jiexi/control.sock"
        ));
    }
    if let Ok(found) = fs::symlink_metadata(&path)
        && !found.file_type().is_socket()
    {
        return Some(format!(
            "{shown} exists and is not a socket; name another file"
        ));
    }
    let directory = path.parent()?;
    if directory == config.node.data && !directory.exists() {
        return None;
    }
    // Of a path without directories that is where we are.
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let error = match fs::metadata(directory) {
        Ok(_) => directory_can_be(directory).err()?,
        Err(error) => error,
    };
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => owner::advice(directory),
        _ => "make this directory, or name a socket in one that this user can write".to_owned(),
    };
    Some(format!("{}: {error}; {advice}", directory.display()))
}

/// A case rule that is not the one the store was created with. What else may be wrong with a store, opening it says.
#[must_use]
pub fn case_rule(config: &Config, origins: &Origins) -> Option<Problem> {
    let directory = config.store_dir();
    let stored = Store::case_in(&directory).ok()?;
    (stored != config.store.case.rule()).then(|| {
        let mismatch = StoreError::CaseMismatch {
            path: directory,
            stored,
            asked: config.store.case.rule(),
        };
        origins.problem("store", "case", mismatch.to_string())
    })
}

/// Why a file that is named cannot be read.
fn unreadable(path: &Path) -> Option<String> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let opened = File::open(path).and_then(|file| file.metadata());
    let error = match opened {
        Ok(metadata) if metadata.is_dir() => io::Error::other("is a directory"),
        Ok(_) => return None,
        Err(error) => error,
    };
    Some(format!(
        "{}: {error}; name a PEM file that this user can read",
        path.display()
    ))
}

/// Whether a directory is there and takes files, or can be made.
fn directory_can_be(directory: &Path) -> io::Result<()> {
    // An empty parent is where we are.
    let is_there = |place: &&Path| place.as_os_str().is_empty() || place.exists();
    let nearest = directory.ancestors().find(is_there).unwrap_or(directory);
    // Under a name of its own: a node that just starts may make the directory itself.
    let tried = nearest.join(format!(".check-{}", std::process::id()));
    match fs::create_dir(&tried) {
        Ok(()) => fs::remove_dir(&tried),
        // How full the disk is, is another matter.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        Err(error) => Err(error),
    }
}
