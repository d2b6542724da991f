//! `jiexi handle …`: whole records.

use bytes::Bytes;
use clap::{Args, Subcommand};
use jiexi_proto::value::Value;
use serde_json::json;

use super::{
    Failed,
    access::{Access, Changed, Trouble},
    exit,
    output::{self, Format},
    record, refusal,
    values::{self, Values},
};
use crate::{
    client::Question,
    json::line,
    registry::{plan::Request, seal},
};

/// What `--help` says at its end.
const EXAMPLES: &str = "\
Examples:
  jiexi handle create 88.118.20/pump.7 --value 1:URL=https://example.cn/pump/7
  jiexi handle get 88.118.20/pump.7 -o json
  jiexi handle get 88.118.20/pump.7 -o json | jiexi handle put 88.118.20/pump.8 --json -
  jiexi handle list 88.118.20
  jiexi handle rm 88.118.20/pump.8

On a node elsewhere, as an administrator of the prefix:
  jiexi handle create 88.118.20/pump.9 --value 1:URL=https://example.cn/pump/9 \\
    --server 192.0.2.10 --identity 300:0.NA/88.118.20 --key admin.key

Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 no such handle or value.";

/// Show, create, replace, remove and list handles
///
/// Without --server on the node of this machine, whoever may use its control socket being administrator of everything;
/// every change is in its audit trail. With --server on a node elsewhere, by an identity and its key.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Handle {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show a record, with the values that only administrators may read if who asks is one
    Get {
        /// The handle
        handle: String,
        /// Only the value of this index. May be repeated; indexes and types are a union
        #[arg(long = "index", short = 'i', value_name = "N")]
        indexes: Vec<u32>,
        /// Only values of this type; "URL." also takes URL.x. May be repeated
        #[arg(long = "type", short = 't', value_name = "TYPE")]
        types: Vec<String>,
        /// Show secret keys too
        #[arg(long)]
        with_secrets: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Create a handle; one that exists is left as it is
    #[command(after_help = values::FORMS)]
    Create {
        /// The handle; with --mint what it begins with, such as 88.118.20/
        handle: String,
        /// The node makes up the rest of the name (a UUID)
        #[arg(long)]
        mint: bool,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        common: Common,
    },
    /// Create a handle, or replace all of one that exists
    #[command(after_help = values::FORMS)]
    Put {
        /// The handle
        handle: String,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        common: Common,
    },
    /// Remove handles
    ///
    /// One that does not exist, or may not be removed, is reported and the others are removed all the same. The exit code
    /// is then 3 if nothing else was wrong than that some do not exist, else 1.
    Rm {
        /// The handles
        #[arg(required = true, value_name = "HANDLE")]
        handles: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List the handles below a prefix: one a line, as JSON one object a line
    List {
        /// The prefix, such as 88.118.20
        prefix: String,
        #[command(flatten)]
        common: Common,
    },
}

/// What all of them take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Common {
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) access: Access,
}

impl Handle {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Get {
                handle,
                indexes,
                types,
                with_secrets,
                common,
            } => {
                let types = types.into_iter().map(Bytes::from).collect();
                let handle = checked(&handle)?;
                let question = Question {
                    handle,
                    types,
                    indexes,
                };
                get(&question, with_secrets, &common)
            }
            Action::Create {
                handle,
                mint,
                values,
                common,
            } => {
                let request = Request::Create {
                    handle: checked(&handle)?,
                    values: values.read()?,
                    overwrite: false,
                    mint,
                };
                let changed = common.change(&[request], &handle)?;
                common.say(&changed, "created")
            }
            Action::Put {
                handle,
                values,
                common,
            } => {
                let request = Request::Create {
                    handle: checked(&handle)?,
                    values: values.read()?,
                    overwrite: true,
                    mint: false,
                };
                let changed = common.change(&[request], &handle)?;
                let what = match changed.overwritten {
                    true => "replaced",
                    false => "created",
                };
                common.say(&changed, what)
            }
            Action::Rm { handles, common } => remove(&handles, &common),
            Action::List { prefix, common } => list(&prefix, &common),
        }
    }
}

impl Common {
    /// Makes changes, or explains why not.
    pub(super) fn change(&self, requests: &[Request], subject: &str) -> Result<Changed, Failed> {
        let given = requests.iter().filter_map(|request| match request {
            Request::Create { values, .. }
            | Request::Add { values, .. }
            | Request::Modify { values, .. } => Some(values),
            _ => None,
        });
        let secret = given.into_iter().any(|values| values::has_secret(values));
        let mut way = self.access.open(secret)?;
        let changed = way.change(requests);
        way.close();
        changed.map_err(|trouble| self.explain(trouble, subject))
    }

    pub(super) fn explain(&self, trouble: Trouble, subject: &str) -> Failed {
        refusal::explain(trouble, subject, &self.access, self.output)
    }

    /// Says what was done.
    pub(super) fn say(&self, changed: &Changed, what: &str) -> Result<(), Failed> {
        let handle = String::from_utf8_lossy(&changed.handle);
        match self.output {
            Format::Table => output::print(&format!("{what} {}\n", output::visible(&handle))),
            Format::Json => output::print_json(&json!({
                "responseCode": 1,
                "handle": handle,
                "done": what,
            })),
        }
    }
}

/// A handle that can be sent.
pub(super) fn checked(handle: &str) -> Result<Bytes, Failed> {
    match handle.is_empty() {
        true => Err(Failed::usage("the handle is empty")),
        false => Ok(Bytes::copy_from_slice(handle.as_bytes())),
    }
}

fn get(question: &Question, with_secrets: bool, common: &Common) -> Result<(), Failed> {
    let subject = String::from_utf8_lossy(&question.handle);
    // Whoever may read secrets gets them from the node, whether they are shown or not.
    let mut way = common.access.open(true)?;
    let read = way.read(question);
    way.close();
    let (handle, values) = read.map_err(|trouble| common.explain(trouble, &subject))?;
    let chosen = values.into_iter().filter(|value| wanted(value, question));
    let (hidden, shown): (Vec<Value>, Vec<Value>) =
        chosen.partition(|value| seal::is_secret(&value.kind) && !with_secrets);
    if !hidden.is_empty() {
        exit::say(format_args!(
            "jiexi: secret values that are not shown: {}; --with-secrets shows them",
            hidden.len()
        ));
    }
    if shown.is_empty() && hidden.is_empty() {
        let text = format_args!("{subject}: the handle has no value as asked for (code 200)");
        return Err(Failed::not_found(text));
    }
    match common.output {
        Format::Table => output::print(&record::table(&shown)),
        Format::Json => output::print_json(&json!({
            "responseCode": 1,
            "handle": String::from_utf8_lossy(&handle),
            "values": shown.iter().map(record::json_value).collect::<Vec<_>>(),
        })),
    }
}

/// Whether a value is asked for; the node of this machine gives all of them.
fn wanted(value: &Value, question: &Question) -> bool {
    let everything = question.types.is_empty() && question.indexes.is_empty();
    let kind = |wanted: &Bytes| match wanted.strip_suffix(b".") {
        Some(stem) => value
            .kind
            .split_at_checked(stem.len())
            .is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(stem) && (rest.is_empty() || rest.starts_with(b"."))
            }),
        None => value.kind.eq_ignore_ascii_case(wanted),
    };
    everything || question.indexes.contains(&value.index) || question.types.iter().any(kind)
}

/// Removes handles one after the other. One that cannot be removed is reported and keeps no other from being removed; a
/// node that cannot be asked does.
fn remove(handles: &[String], common: &Common) -> Result<(), Failed> {
    let names: Vec<Bytes> = handles
        .iter()
        .map(|handle| checked(handle))
        .collect::<Result<_, _>>()?;
    let mut way = common.access.open(false)?;
    let mut outcome = Ok(());
    for (place, handle) in names.iter().enumerate() {
        let delete = Request::Delete {
            handle: handle.clone(),
        };
        let (done, asked) = match way.change(&[delete]) {
            Ok(changed) => (common.say(&changed, "removed"), true),
            Err(trouble) => {
                let asked = matches!(trouble, Trouble::Refused(_));
                let subject = String::from_utf8_lossy(handle);
                (Err(common.explain(trouble, &subject)), asked)
            }
        };
        if let Err(failed) = done {
            outcome = Err(outcome
                .err()
                .map_or(failed, |earlier: Failed| earlier.and(failed)));
        }
        let left = names.len() - place - 1;
        if !asked && left > 0 {
            let text = format_args!("handles that were not tried after this: {left}");
            outcome = Err(Failed::report(text));
        }
        if !asked {
            break;
        }
    }
    way.close();
    outcome
}

fn list(prefix: &str, common: &Common) -> Result<(), Failed> {
    let prefix_handle = line::parse_prefix(prefix).map_err(|error| Failed::usage(error.message))?;
    let mut way = common.access.open(false)?;
    let mut page = String::new();
    let mut each = |name: &str| {
        match common.output {
            Format::Table => page.push_str(&output::visible(name)),
            Format::Json => page.push_str(&json!({ "handle": name }).to_string()),
        }
        page.push('\n');
        if page.len() < PAGE {
            return Ok(());
        }
        output::print(&std::mem::take(&mut page))
    };
    let listed = way.list(&Bytes::from(prefix_handle), &mut each);
    way.close();
    output::print(&page)?;
    listed.map_err(|trouble| common.explain(trouble, prefix))
}

/// Bytes of a list that are written at once.
const PAGE: usize = 32 << 10;
