//! `jiexi prefix …`: what a node is the home of, and what it has delegated.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgGroup, Args, Subcommand};
use jiexi_proto::{
    code::ResponseCode,
    value::{Value, site::SiteRecord},
};
use serde_json::json;

use super::{
    Failed,
    access::{Changed, Trouble, Way},
    handle::Common,
    output::{self, Format},
    resolve, target,
};
use crate::{
    client::{Client, Place, Transports},
    clock,
    control::command::PrefixRow,
    identity,
    json::{data, line},
    keyring,
    registry::{permit, plan::Request},
};

/// What `--help` says at its end.
const EXAMPLES: &str = "\
Examples:
  jiexi key new --out enterprise.key
  jiexi prefix add 88.118.9 --hosted --admin-key enterprise.key
  jiexi prefix add 88.118.10 --site 192.0.2.20:2641
  jiexi prefix list
  jiexi prefix rm 88.118.9

After the second command 88.118.9 resolves here, and whoever holds enterprise.key administers it:
  jiexi handle create 88.118.9/a --value 1:URL=https://example.cn/a \\
    --server 192.0.2.10 --identity 300:0.NA/88.118.9 --key enterprise.key

Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 no such prefix.";

/// Index of the site of derived prefixes in the record of a delegated one; the sites of its own stand before it.
const DERIVED_INDEX: u32 = 3;

/// Add, list and remove prefixes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Prefix {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a prefix: at home on this node, or delegated to another one
    ///
    /// Either way its record 0.NA/<prefix> is made, with the site and the administrator. On the node of this machine
    /// and on any jiexi elsewhere (--server), where that takes a server administrator, all of it is one commit. A server
    /// of another make has no operation for that: there the prefix is homed first and the record follows, and if it
    /// cannot be made the prefix is unhomed again.
    #[command(group = ArgGroup::new("where").required(true))]
    Add {
        /// The prefix, such as 88.118.9
        prefix: String,
        /// This node is its home
        #[arg(long, group = "where", requires = "admin_key")]
        hosted: bool,
        /// Another node is its home: it is asked for its site record, which the record of the prefix then has
        #[arg(long, group = "where", value_name = "HOST:PORT")]
        site: Option<String>,
        /// The key of its administrator, value 300 of its record: a private key, of which only the public half is
        /// taken, or a public key; reference file, PEM or JSON Web Key. "jiexi key new" makes one
        #[arg(long, value_name = "FILE")]
        admin_key: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// List the prefixes that the node is the home of; on the node of this machine the delegated ones too
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Remove a prefix: the node is no longer its home, and its record goes
    ///
    /// Refused while there are handles below it. All of it is one commit, on any jiexi, as for "prefix add". A prefix that
    /// the node has delegated is removed there and nowhere else: what the other node has of it stays.
    Rm {
        /// The prefix
        prefix: String,
        /// Even if there are handles below it; they stay stored, and come back with the prefix
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
}

impl Prefix {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Add {
                prefix,
                site,
                admin_key,
                common,
                ..
            } => add(&prefix, site.as_deref(), admin_key, &common),
            Action::List { common } => list(&common),
            Action::Rm {
                prefix,
                force,
                common,
            } => remove(&prefix, force, &common),
        }
    }
}

/// `0.NA/…`.
fn handle_of(prefix: &str) -> Result<Bytes, Failed> {
    line::parse_prefix(prefix)
        .map(Bytes::from)
        .map_err(|error| Failed::usage(error.message))
}

fn add(
    prefix: &str,
    site: Option<&str>,
    admin_key: Option<PathBuf>,
    common: &Common,
) -> Result<(), Failed> {
    let handle = handle_of(prefix)?;
    let prefix = &line::bare_prefix(&handle);
    let key = admin_key.map(|path| {
        keyring::read_public(&path, None).map_err(|error| {
            Failed::report(format_args!(
                "{error} (\"jiexi key new --out FILE\" makes a key)"
            ))
        })
    });
    let key = key.transpose()?;
    let mut way = common.access.open(false)?;
    if site.is_none() {
        way.stay();
    }
    let sites = match site {
        Some(server) => vec![site_at(server)?],
        None => way.sites()?,
    };
    let record = values(&handle, &sites, key.clone(), site.is_some());
    let done = match site {
        Some(_) => way.change(&[created(handle, record)]).map(drop),
        None => hosted(&mut way, handle, record),
    };
    way.close();
    done.map_err(|trouble| exists(trouble, prefix, common))?;
    said(prefix, &sites, key.is_some(), site.is_none(), common)
}

/// The record of a prefix: its own administrator, or those of the prefix above when it has none of its own. A delegated
/// one says as well where the prefixes derived from it are, which this node will not know.
fn values(handle: &Bytes, sites: &[SiteRecord], key: Option<Bytes>, delegated: bool) -> Vec<Value> {
    let now = clock::unix_seconds();
    let mut values = match key {
        Some(key) => identity::prefix_values(handle, sites, key, now),
        None => {
            let above = permit::parent_of(handle);
            let mut values = identity::site_values(sites, now);
            values.push(identity::admin_value(&above, identity::LIST_INDEX, now));
            values
        }
    };
    if let Some(site) = sites.first().filter(|_| delegated) {
        let data = data::encoded(|out| site.encode(out)).into();
        values.push(identity::value(DERIVED_INDEX, b"HS_SITE.PREFIX", data, now));
    }
    values
}

fn created(handle: Bytes, values: Vec<Value>) -> Request {
    Request::Create {
        handle,
        values,
        overwrite: false,
        mint: false,
    }
}

/// Homes a prefix with its record: in one commit where the server can.
fn hosted(way: &mut Way, prefix: Bytes, record: Vec<Value>) -> Result<(), Trouble> {
    let both = Request::Home {
        prefix: prefix.clone(),
        record: Some(record.clone()),
    };
    match way.change(&[both]) {
        Err(Trouble::Refused(refusal)) if UNKNOWN.contains(&refusal.code) => {
            one_by_one(way, prefix, record)
        }
        // The reference closes the connection, or answers under another id, when it does not know an operation. If this
        // one was carried out and its answer lost, the record is found to exist.
        Err(Trouble::Failed(_)) if matches!(way, Way::Remote(_)) => one_by_one(way, prefix, record),
        done => done.map(drop),
    }
}

/// What servers say to an operation that they do not know.
const UNKNOWN: [ResponseCode; 3] = [
    ResponseCode::ERROR,
    ResponseCode::PROTOCOL_ERROR,
    ResponseCode::OPERATION_NOT_SUPPORTED,
];

/// Homes a prefix elsewhere and makes its record; undoes the first when the second cannot be.
fn one_by_one(way: &mut Way, prefix: Bytes, record: Vec<Value>) -> Result<(), Trouble> {
    let home = Request::Home {
        prefix: prefix.clone(),
        record: None,
    };
    way.change(&[home])?;
    way.change(&[created(prefix.clone(), record)]).map(drop).or_else(|trouble| {
        // A prefix that has a record already may have been homed before.
        if !matches!(&trouble, Trouble::Refused(refusal) if refusal.code == ResponseCode::HANDLE_ALREADY_EXISTS) {
            let unhome = Request::Unhome {
                prefix,
                record: false,
            };
            way.change(&[unhome])?;
        }
        Err(trouble)
    })
}

/// A prefix that exists is not what "handle create" says about one.
fn exists(trouble: Trouble, prefix: &str, common: &Common) -> Failed {
    match trouble {
        Trouble::Refused(refusal) if refusal.code == ResponseCode::HANDLE_ALREADY_EXISTS => {
            Failed::report(format_args!(
                "{prefix}: the record 0.NA/{prefix} exists already (code 101): \"jiexi handle get 0.NA/{prefix}\" \
                 shows it, \"jiexi value set\" changes it, \"jiexi prefix rm {prefix}\" removes it"
            ))
        }
        trouble => common.explain(trouble, prefix),
    }
}

/// The site record of another node.
fn site_at(server: &str) -> Result<SiteRecord, Failed> {
    let client = Client::new(Transports::Any, clock::unix_seconds);
    let name = server.to_owned();
    let asked = target::block_on(async move {
        let place = Place::at(resolve::address(&name).await?);
        client.site(&place).await.map_err(|error| {
            Failed::report(format_args!(
                "--site: {error} (the node must run while it is added)"
            ))
        })
    })?;
    let site = asked?;
    match site.servers.is_empty() {
        true => Err(Failed::report(format_args!(
            "--site {server}: its site record names no server"
        ))),
        false => Ok(site),
    }
}

fn said(
    prefix: &str,
    sites: &[SiteRecord],
    own_key: bool,
    hosted: bool,
    common: &Common,
) -> Result<(), Failed> {
    let at: Vec<String> = sites.iter().flat_map(identity::addresses).collect();
    let administrator = own_key.then(|| format!("{}:0.NA/{prefix}", identity::KEY_INDEX));
    if common.output == Format::Json {
        return output::print_json(&json!({
            "responseCode": 1,
            "prefix": prefix,
            "handle": format!("0.NA/{prefix}"),
            "hosted": hosted,
            "sites": at,
            "administrator": administrator,
        }));
    }
    let what = match hosted {
        true => "is at home here",
        false => "is delegated",
    };
    let who = administrator.map(|who| format!("; its administrator is {who}"));
    output::print(&format!(
        "{prefix} {what}, at {}{}\n",
        at.join(", "),
        who.unwrap_or_default()
    ))
}

fn list(common: &Common) -> Result<(), Failed> {
    let mut way = common.access.open(false)?;
    let local = common.access.local();
    let mut found = Vec::new();
    let mut each = |text: &str| {
        found.push(match local {
            true => serde_json::from_str(text).map_err(Failed::report)?,
            false => PrefixRow {
                prefix: text.strip_prefix("0.NA/").unwrap_or(text).to_owned(),
                hosted: true,
                sites: Vec::new(),
            },
        });
        Ok(())
    };
    let listed = way.prefixes(&mut each);
    way.close();
    listed.map_err(|trouble| common.explain(trouble, "prefix list"))?;
    if common.output == Format::Json {
        return output::print_json(&json!(found));
    }
    let row = |row: &PrefixRow| {
        let role = match row.hosted {
            true => "hosted",
            false => "delegated",
        };
        vec![
            output::visible(&row.prefix),
            role.to_owned(),
            row.sites.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    output::print(&output::table(&["PREFIX", "ROLE", "SITE"], &rows))
}

fn remove(prefix: &str, force: bool, common: &Common) -> Result<(), Failed> {
    let handle = handle_of(prefix)?;
    let prefix = &line::bare_prefix(&handle);
    let mut way = common.access.open(false)?;
    // The node to which a prefix is delegated has a record of the same name, and handles below it: both stay.
    way.stay();
    let mut below = 0_u64;
    let mut each = |_: &str| {
        below += 1;
        Ok(())
    };
    let homed = match way.list(&handle, &mut each) {
        Ok(()) => true,
        // A delegated prefix has a record here and nothing else.
        Err(Trouble::Refused(refusal)) if refusal.code == ResponseCode::SERVER_NOT_RESPONSIBLE => {
            false
        }
        Err(trouble) => return Err(common.explain(trouble, prefix)),
    };
    if below > 0 && !force {
        return Err(Failed::report(format_args!(
            "{prefix}: handles below it: {below}; remove them first, or say --force"
        )));
    }
    let done = match homed {
        true => unhomed(&mut way, handle),
        false => way.change(&[Request::Delete { handle }]),
    };
    way.close();
    let changed = done.map_err(|trouble| common.explain(trouble, prefix))?;
    common.say(&changed, "removed")
}

/// Unhomes a prefix and deletes its record: in one commit where the server can.
fn unhomed(way: &mut Way, prefix: Bytes) -> Result<Changed, Trouble> {
    let unhome = |record| Request::Unhome {
        prefix: prefix.clone(),
        record,
    };
    match way.change(&[unhome(true)]) {
        // Homed, but without a record.
        Err(Trouble::Refused(refusal)) if refusal.code == ResponseCode::HANDLE_NOT_FOUND => {
            way.change(&[unhome(false)])
        }
        Err(Trouble::Refused(refusal)) if UNKNOWN.contains(&refusal.code) => in_steps(way, prefix),
        // As for the one commit of prefix add. If this one was carried out and its answer lost, nothing is left to do.
        Err(Trouble::Failed(_)) if matches!(way, Way::Remote(_)) => in_steps(way, prefix),
        done => done,
    }
}

/// Unhomes a prefix elsewhere and then deletes its record; undoes the first when the second is refused. In this order
/// nobody is at home in a prefix without administrators if the way breaks off in between, and prefix rm does the rest.
fn in_steps(way: &mut Way, prefix: Bytes) -> Result<Changed, Trouble> {
    let delete = [Request::Delete {
        handle: prefix.clone(),
    }];
    let unhome = [Request::Unhome {
        prefix: prefix.clone(),
        record: false,
    }];
    let home = [Request::Home {
        prefix,
        record: None,
    }];
    let unhomed = way.change(&unhome)?;
    match way.change(&delete) {
        Err(Trouble::Refused(refusal)) if refusal.code == ResponseCode::HANDLE_NOT_FOUND => {
            Ok(unhomed)
        }
        // It has the record as the home of the prefix itself, and of none above.
        Err(Trouble::Refused(refusal)) if refusal.code == ResponseCode::SERVER_NOT_RESPONSIBLE => {
            way.change(&home)?;
            match way.change(&delete) {
                Err(Trouble::Refused(refusal))
                    if refusal.code == ResponseCode::HANDLE_NOT_FOUND => {}
                deleted => drop(deleted?),
            }
            way.change(&unhome)
        }
        Err(Trouble::Refused(refusal)) => {
            way.change(&home)?;
            Err(Trouble::Refused(refusal))
        }
        done => done,
    }
}
