//! `jiexi key …`: make, convert and look at keys; put the node's key into escrow.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use getrandom::SysRng;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Failed;
use super::output::{self, Format as Output};
use super::place::Place;
use crate::identity::{self, KeyPair};
use crate::keyring;
use crate::registry::sm2;

/// Make, convert and look at keys
///
/// Private keys are written to files that only their owner may read, never to a terminal unless --out is - .
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key pair: RSA-2048, or SM2 for users of the Chinese system
    New {
        /// An SM2 key, as PEM. Its public half (key export --public) is the data of the user's HS_PUBKEY value
        #[arg(long)]
        sm2: bool,
        #[command(flatten)]
        destination: Destination,
    },
    /// Read a key in any form and write it as a reference key file
    Import {
        /// Reference key file, PEM (PKCS#8 or PKCS#1) or JSON Web Key
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File with the passphrase that opens it
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Where to write it; the file must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a key in another form
    Export {
        /// Reference key file, PEM or JSON Web Key
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File with the passphrase that opens it
        #[arg(long, value_name = "FILE")]
        open_with: Option<PathBuf>,
        /// Only the public half
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        destination: Destination,
    },
    /// Show what a key is, without anything secret
    Show {
        /// Reference key file, PEM or JSON Web Key
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File with the passphrase that opens it
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Form of the output
        #[arg(long, short = 'o', value_enum, default_value_t)]
        output: Output,
    },
    /// Keep the node's key under a passphrase, so that a backup can be restored on another host
    ///
    /// Secrets in the store are encrypted with the node's key: without it a backup has lost them.
    Escrow {
        #[command(subcommand)]
        action: Escrow,
    },
}

#[derive(Debug, Subcommand)]
enum Escrow {
    /// Write the node's key, protected by a passphrase
    Export {
        /// Where to write it; the file must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// File with the passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Bring the key back, into the data directory of a node that has none
    Import {
        /// What the export has written
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// File with the passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// Where and how a key is written.
#[derive(Debug, Args)]
struct Destination {
    /// Where to write it; the file must not exist. - is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    /// File with a passphrase that protects it (form file only)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A key file as the reference tools have it
    #[default]
    File,
    /// PEM
    Pem,
    /// JSON Web Key
    Jwk,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::New {
                sm2: true,
                destination,
            } => {
                let key = sm2::PrivateKey::generate(&mut SysRng).map_err(Failed::report)?;
                destination.write_sm2(&key, false)
            }
            Action::New {
                sm2: false,
                destination,
            } => {
                let pair = KeyPair::generate().map_err(Failed::report)?;
                destination.write(&pair, false)
            }
            Action::Import {
                file,
                passphrase_file,
                out,
            } => {
                let pair = read(&file, passphrase_file.as_deref())?;
                write(&out, &pair.file())
            }
            Action::Export {
                file,
                open_with,
                public,
                destination,
            } => match keyring::sm2(&file).map_err(Failed::report)? {
                Some(key) => destination.write_sm2(&key, public),
                None => destination.write(&read(&file, open_with.as_deref())?, public),
            },
            Action::Show {
                file,
                passphrase_file,
                output,
            } => match keyring::sm2(&file).map_err(Failed::report)? {
                Some(key) => show_sm2(&key, output),
                None => show(&read(&file, passphrase_file.as_deref())?, output),
            },
            Action::Escrow { action } => action.run(),
        }
    }
}

impl Escrow {
    fn run(self) -> Result<(), Failed> {
        match self {
            Self::Export {
                out,
                passphrase_file,
                place,
            } => {
                let key = place.load()?.node_key();
                let pair = keyring::read(&key, None).map_err(Failed::report)?;
                let passphrase = passphrase(&passphrase_file)?;
                let file = keyring::file(&pair, Some(&passphrase)).map_err(Failed::report)?;
                write(&out, &file)?;
                output::print(&format!(
                    "{} holds the node's key, protected. Keep it and the passphrase in different places.\n",
                    out.display()
                ))
            }
            Self::Import {
                file,
                passphrase_file,
                place,
            } => {
                let pair = read(&file, Some(&passphrase_file))?;
                let config = place.load()?;
                let (key, site) = (config.node_key(), config.site_file());
                let known = site.exists();
                if known {
                    let record = identity::own_site(&site).map_err(Failed::report)?;
                    let own = pair.public_octets();
                    if !record.servers.iter().any(|server| server.public_key == own) {
                        return Err(Failed::report(format_args!(
                            "{} holds the key of another node: {} does not name it",
                            file.display(),
                            site.display()
                        )));
                    }
                }
                write(&key, &pair.file())?;
                let next = match known {
                    true => "It is the one that the site record names.",
                    false => "The site record (site.json) that names it is still missing.",
                };
                output::print(&format!("{} is in place. {next}\n", key.display()))
            }
        }
    }
}

impl Destination {
    fn write(&self, pair: &KeyPair, public: bool) -> Result<(), Failed> {
        let secret = self
            .passphrase_file
            .as_deref()
            .map(passphrase)
            .transpose()?;
        if secret.is_some() && (self.format != Form::File || public) {
            return Err(Failed::usage(
                "--passphrase-file: only private keys in the form file are protected",
            ));
        }
        let text = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        let octets = match (self.format, public) {
            (Form::File, false) => keyring::file(pair, secret.as_ref().map(|secret| &secret[..]))
                .map_err(Failed::report)?,
            (Form::File, true) => Zeroizing::new(pair.public_octets().to_vec()),
            (Form::Pem, false) => text(&keyring::pem(pair).map_err(Failed::report)?),
            (Form::Pem, true) => text(&keyring::public_pem(pair).map_err(Failed::report)?),
            (Form::Jwk, public) => text(&format!("{:#}\n", keyring::jwk(pair, public))),
        };
        self.put(&octets)
    }

    /// An SM2 key has one form.
    fn write_sm2(&self, key: &sm2::PrivateKey, public: bool) -> Result<(), Failed> {
        if self.format == Form::Jwk || self.passphrase_file.is_some() {
            return Err(Failed::usage(
                "SM2 keys are written as PEM, without a passphrase: leave --format and --passphrase-file out",
            ));
        }
        let pem = match public {
            true => Zeroizing::new(key.public().pem().map_err(Failed::report)?),
            false => key.pem().map_err(Failed::report)?,
        };
        self.put(pem.as_bytes())
    }

    fn put(&self, octets: &[u8]) -> Result<(), Failed> {
        if self.out == Path::new("-") {
            use std::io::Write as _;
            let written = std::io::stdout().write_all(octets);
            return written.map_err(|error| Failed::output("standard output", &error));
        }
        write(&self.out, octets)
    }
}

fn show_sm2(key: &sm2::PrivateKey, form: Output) -> Result<(), Failed> {
    let public = key.public();
    let pem = public.pem().map_err(Failed::report)?;
    let fingerprint = hex::encode(Sha256::digest(pem.as_bytes()));
    match form {
        Output::Json => output::print_json(&json!({
            "type": "SM2",
            "bits": 256,
            "fingerprint": fingerprint,
            "public": pem,
        })),
        Output::Table => output::print(&format!(
            "SM2, 256 bits\nSHA-256 of the public key  {fingerprint}\n\n{pem}"
        )),
    }
}

fn show(pair: &KeyPair, form: Output) -> Result<(), Failed> {
    let (bits, fingerprint) = (keyring::bits(pair), keyring::fingerprint(pair));
    match form {
        Output::Json => output::print_json(&json!({
            "type": "RSA",
            "bits": bits,
            "fingerprint": fingerprint,
            "public": keyring::jwk(pair, true),
        })),
        Output::Table => {
            let pem = keyring::public_pem(pair).map_err(Failed::report)?;
            output::print(&format!(
                "RSA, {bits} bits\nSHA-256 of the public key  {fingerprint}\n\n{pem}"
            ))
        }
    }
}

fn read(file: &Path, passphrase_file: Option<&Path>) -> Result<KeyPair, Failed> {
    let secret = passphrase_file.map(passphrase).transpose()?;
    keyring::read(file, secret.as_ref().map(|secret| &secret[..])).map_err(Failed::report)
}

/// The first line of a file.
pub(super) fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let text = std::fs::read(path)
        .map_err(|error| Failed::report(format_args!("{}: {error}", path.display())))?;
    let text = Zeroizing::new(text);
    let line = text
        .split(|octet| *octet == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failed::report(format_args!(
            "{}: the first line is empty; it must be the passphrase",
            path.display()
        )));
    }
    Ok(Zeroizing::new(line.to_vec()))
}

fn write(path: &Path, octets: &[u8]) -> Result<(), Failed> {
    identity::write_file(path, 0o600, octets).map_err(Failed::report)
}
