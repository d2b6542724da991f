//! What a configuration needs on the disk, looked at before anything is opened: `config check` and `serve` ask the same,
//! and name the key that names the file. Every command that reads the configuration of a node asks for its case rule.
//!
//! Nothing is left behind: to see whether a directory can be made, it is made and taken away again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

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
    let directory = config.audit_dir();
    if let Err(error) = directory_can_be(&directory) {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => owner::advice(&directory),
            _ => "name a directory that this user can make and write".to_owned(),
        };
        let message = format!("{}: {error}; {advice}", directory.display());
        found.push(origins.problem("administration", "audit", message));
    }
    found.extend(case_rule(config, origins));
    found
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
    let mut missing: PathBuf = directory.join(format!(".check-{}", std::process::id()));
    while let Some(parent) = missing.parent() {
        // An empty parent is where we are.
        if parent.as_os_str().is_empty() || parent.exists() {
            break;
        }
        missing = parent.to_path_buf();
    }
    match fs::create_dir(&missing) {
        Ok(()) => fs::remove_dir(&missing),
        // How full the disk is, is another matter.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        Err(error) => Err(error),
    }
}
