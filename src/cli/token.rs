//! `jiexi token`: API tokens of a node, running or stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::{
    Failed,
    output::{self, Format},
    place::Place,
    target::{self, Target},
};
use crate::{
    clock,
    control::command::{Command, Outcome},
    identity,
    token::{
        Right,
        office::{self, Order},
    },
};

/// Make, list, rotate and revoke API tokens
///
/// A token acts as one identity, narrowed to prefixes and rights; HS_ADMIN values still decide what the identity may do.
/// It is sent as `Authorization: Bearer jx_…` over HTTPS. It is shown once, when it is made: the node keeps its SHA-256.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Place,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token, and show it this once
    Create {
        /// Whom it acts as: index:handle, such as 300:0.NA/88.118
        #[arg(long, value_name = "INDEX:HANDLE")]
        identity: String,
        /// Prefixes it is good for, with those derived from them; without this all that the identity may use
        #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
        prefix: Vec<String>,
        /// What it may be used for
        #[arg(long, value_enum, value_delimiter = ',', required = true)]
        right: Vec<Right>,
        /// How long it is good, such as 90d; without this until it is revoked
        #[arg(long, value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// Identifiers a day (UTC): asked one by one or in batches, and registered by jobs; a change is one, too
        #[arg(long)]
        quota: Option<u64>,
        /// What it is for, in your own words
        #[arg(long, default_value = "")]
        note: String,
        /// Write the token into this file (0600; it must not exist) instead of showing it
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Show all tokens, without their secrets
    List,
    /// Give a token a new secret; the old one is good for a while
    Rotate {
        /// The id: what stands between jx_ and the next _
        id: String,
        /// How long the old secret is still good
        #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
        overlap: Duration,
        /// Write the token into this file (0600; it must not exist) instead of showing it
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// End a token at once
    Revoke {
        /// The id: what stands between jx_ and the next _
        id: String,
    },
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failed> {
        let config = self.place.load()?;
        let (order, file) = self.action.into_order();
        if let Some(file) = file.as_ref().filter(|file| file.exists()) {
            return Err(Failed::usage(format_args!(
                "--token-file: {} exists already",
                file.display()
            )));
        }
        let mut report = match target::find(&config)? {
            Target::Stopped(store) => {
                let done = office::carry_out(&store, &order, clock::unix_seconds());
                target::close(&store)?;
                done.map_err(Failed::report)?
            }
            Target::Running(node) => {
                let command = Command::Token {
                    order: order.clone(),
                };
                let nothing = None::<tokio::io::Empty>;
                let outcome = target::block_on(node.run(command, nothing, |_| Ok(()), |_| {}))?;
                match outcome.map_err(target::explain)? {
                    Outcome::Report { report, .. } => report,
                    Outcome::Counts(_) | Outcome::Told(_) => {
                        return Err(Failed::report("the node answered another command"));
                    }
                }
            }
        };
        if let Some(file) = &file {
            put_away(&mut report, file)?;
        }
        match self.output {
            Format::Json => output::print_json(&report),
            Format::Table => output::print(&shown(&order, &report)),
        }
    }
}

impl Action {
    fn into_order(self) -> (Order, Option<PathBuf>) {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        match self {
            Self::Create {
                identity,
                prefix,
                right,
                expires,
                quota,
                note,
                token_file,
            } => {
                let order = Order::Create {
                    identity,
                    prefixes: prefix,
                    rights: right,
                    lifetime: expires.map(seconds),
                    quota,
                    note,
                };
                (order, token_file)
            }
            Self::List => (Order::List, None),
            Self::Rotate {
                id,
                overlap,
                token_file,
            } => {
                let overlap = seconds(overlap);
                (Order::Rotate { id, overlap }, token_file)
            }
            Self::Revoke { id } => (Order::Revoke { id }, None),
        }
    }
}

/// Writes the token into its file; the report then names the file instead.
fn put_away(report: &mut Json, file: &Path) -> Result<(), Failed> {
    let Some(token) = report["token"].as_str() else {
        return Ok(());
    };
    identity::write_file(file, 0o600, format!("{token}\n").as_bytes()).map_err(|error| {
        Failed::report(format_args!(
            "{error}; the token was made but nobody knows it: revoke {}",
            report["id"].as_str().unwrap_or_default()
        ))
    })?;
    report["token"] = format!("in {}", file.display()).into();
    Ok(())
}

fn shown(order: &Order, report: &Json) -> String {
    let text = |json: &Json| match json {
        Json::String(text) => output::visible(text),
        Json::Null => "-".to_owned(),
        Json::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Json::as_str).collect();
            if items.is_empty() {
                "-".to_owned()
            } else {
                items.join(",")
            }
        }
        other => other.to_string(),
    };
    if *order != Order::List {
        let rows: Vec<Vec<String>> = report.as_object().map_or_else(Vec::new, |fields| {
            let row = |(name, value): (&String, &Json)| match name.as_str() {
                "expires" | "revoked" => vec![name.clone(), time(value)],
                _ => vec![name.clone(), text(value)],
            };
            fields.iter().map(row).collect()
        });
        return output::table(&["WHAT", "VALUE"], &rows);
    }
    let tokens = report["tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            let state = match (&token["revoked"], token["valid"].as_bool()) {
                (Json::Null, Some(true)) => "valid",
                (Json::Null, _) => "ended",
                _ => "revoked",
            };
            vec![
                text(&token["id"]),
                text(&token["identity"]),
                text(&token["prefixes"]),
                text(&token["rights"]),
                state.to_owned(),
                time(&token["expires"]),
                time(&token["last_used"]),
                text(&token["note"]),
            ]
        })
        .collect();
    let header = [
        "ID",
        "IDENTITY",
        "PREFIXES",
        "RIGHTS",
        "STATE",
        "EXPIRES",
        "LAST USED",
        "NOTE",
    ];
    output::table(&header, &rows)
}

fn time(json: &Json) -> String {
    let Some(seconds) = json.as_u64() else {
        return "-".to_owned();
    };
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
