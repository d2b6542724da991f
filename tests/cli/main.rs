//! Goal: the program as an operator meets it. Method: the real binary is run; exit codes, files, messages and output
//! are looked at from outside.
//!
//! * `codes` — exit codes and help; `config` — checking and the template; `decode` — recorded messages
//! * `init` — what a new node consists of; `bulk` — import and export on a stopped node
//! * `broken` — readers of the output that go away
//! * `backup` — repositories, restores and drills, of running and stopped nodes
//! * `backup_damage` — repositories and journals that are not whole, and what is done all the same
//! * `bucket` — repositories in an S3 store; `encrypted` — backups that only a key opens
//! * `batch` — against servers that no node is
//! * `change` — handles, values and prefixes, on the node of this machine and on one elsewhere
//! * `removal` — prefixes and handles go where they were meant to, and from nowhere else
//! * `migrate` — batch files of a CNRI server; `copying` — all that one has
//! * `dns` — zones: served, checked, exported
//! * `exchange` — nodes that are started while their store is exchanged
//! * `doctor` — `status`, `doctor`, completions and man pages
//! * `owner` — the data of a node stay its user's
//! * `logs` — what the log says, of what runs, what is slow and what is refused
//! * `node` — everything again through the control socket of a running one, and `resolve` against it

#![expect(
    clippy::expect_used,
    reason = "a test ends where something is not as expected"
)]

mod backup;
mod backup_damage;
mod batch;
mod bench;
mod broken;
mod bucket;
mod bucket_server;
mod bulk;
mod change;
mod codes;
mod config;
mod copying;
mod damaged;
mod decode;
mod dns;
mod doctor;
mod encrypted;
mod exchange;
mod init;
mod logs;
mod migrate;
mod node;
mod owner;
#[path = "../support/ports.rs"]
mod ports;
mod removal;
mod sm2;
mod support;
