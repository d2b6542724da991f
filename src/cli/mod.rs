//! The command line: one file for each subcommand, with its arguments and `run`.
//!
//! * [`run`] — arguments in, exit code out; `main` is this and nothing else.
//! * `init`, `serve` — set a node up and run it; `promote` — a standby becomes the primary; `upgrade` — the next
//!   version of the program becomes the node.
//! * `resolve`, `decode` — look at the protocol from outside; `bench` — load for a node, and what it costs.
//! * `batch` — many handles at once, out of a file into a file. `jobs` (`bulk`) — many registrations on another machine;
//!   `changes` — what changes there. `remote` is where these ask.
//! * `handle`, `value`, `prefix` — change records: `access` is where and by whom, `values` what, `refusal` why not.
//! * `bulk` (the commands `import` and `export`), `store`, `backup` — the data of a node, running or stopped.
//! * `migrate` — batch files of a CNRI server, and all that it has.
//! * `dns` — what the DNS zones of a node say.
//! * `key`, `audit` — keys in every form, the escrow of the node's; who changed what.
//! * `token` — tokens of the HTTP API.
//! * `config` — the template and the checker; `status`, `doctor` — how the node is, and why.
//! * `completions` — of shells; man pages. `files` — what is written where something may have been.
//! * `place` — which node is meant; `record`, `output` — tables and JSON; `exit` — how commands end.
//!
//! Commands only read arguments and print; what they do is done by the modules beside `cli`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod access;
mod audit;
mod backup;
mod batch;
mod bench;
mod bulk;
mod changes;
mod completions;
mod config;
mod decode;
mod dns;
mod doctor;
mod exit;
mod files;
mod handle;
mod init;
mod jobs;
mod key;
mod migrate;
mod output;
mod place;
mod prefix;
mod progress;
mod promote;
mod record;
mod refusal;
mod remote;
mod resolve;
mod resolve_dns;
mod serve;
mod status;
mod store;
mod target;
mod token;
mod upgrade;
mod value;
mod values;

pub use exit::Failed;

use crate::logging::{self, Logging};

/// What `--help` says below the commands.
const AFTER_HELP: &str = "\
Start here:
  jiexi serve --demo                       a node with realistic data, no set-up, loopback only
  jiexi init --prefix 88.118 --address 192.0.2.10
  jiexi serve                              the node that init has set up
  jiexi resolve 88.118.1/...               ask it
  jiexi handle create 88.118/a --value 1:URL=https://example.cn/a

Exit codes: 0 done or found, 1 failed, 2 wrong command line, 3 not found, 141 nobody reads the output any more.";

/// An identifier resolution node for the industrial internet (工业互联网标识解析二级节点).
#[derive(Debug, Parser)]
#[command(name = "jiexi", version, after_help = AFTER_HELP, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Serve(serve::Serve),
    Resolve(resolve::Resolve),
    Batch(batch::Batch),
    Bulk(jobs::Bulk),
    Changes(changes::Changes),
    Handle(handle::Handle),
    Value(value::ValueCommand),
    Prefix(prefix::Prefix),
    Import(bulk::Import),
    Export(bulk::Export),
    Migrate(migrate::Migrate),
    Store(store::Store),
    Promote(promote::Promote),
    Upgrade(upgrade::Upgrade),
    Backup(backup::Backup),
    Key(key::Key),
    Audit(audit::Audit),
    Token(token::Token),
    Decode(decode::Decode),
    Dns(dns::Dns),
    Bench(bench::Bench),
    Config(config::ConfigCommand),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(completions::Man),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    logging::prioritise_panics();
    let logging = Logging::early();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::unparsed(&error),
    };
    let outcome = match arguments.command {
        Command::Init(command) => command.run(),
        Command::Serve(command) => command.run(&logging),
        Command::Resolve(command) => command.run(),
        Command::Batch(command) => command.run(),
        Command::Bulk(command) => command.run(),
        Command::Changes(command) => command.run(),
        Command::Handle(command) => command.run(),
        Command::Value(command) => command.run(),
        Command::Prefix(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Migrate(command) => command.run(),
        Command::Store(command) => command.run(),
        Command::Promote(command) => command.run(),
        Command::Upgrade(command) => command.run(),
        Command::Backup(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Decode(command) => command.run(),
        Command::Dns(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Completions(command) => command.run(Arguments::command()),
        Command::Man(command) => command.run(Arguments::command()),
    };
    exit::code(outcome)
}
