//! jiexi: an identifier resolution node (工业互联网标识解析二级节点).
//!
//! Reading order:
//!
//! * *Answering*: [`server`] receives → decodes → [`resolver`] decides → [`store`] knows; [`metrics`] counts, [`observe`] for the store.
//! * *Changing*: [`registry`] says who asks, whether they may, and what changes.
//! * *Operating*: [`history`] remembers who asked, [`busiest`] for what most; [`cli`] → [`config`], [`logging`], [`node`]; [`notices`] for requests that belong in the log; [`control`], [`ops`] and [`reload`] beside a running node; [`handover`] from one process to the next, of which [`notify`] tells systemd;
//!   [`bulk`], [`migrate`], [`maintenance`], [`mod@backup`] and [`demo`] for its data; [`identity`] and [`keyring`] for its keys and site record,
//!   [`token`] for those of the API. [`standby`]: a copy of another node, and how it takes that one's place.
//!   [`preflight`] looks before a start whether it can succeed, [`owner`] whose the files are, [`doctor`] and [`probe`] look at it from outside.
//! * *Asking*: [`client`]; [`ask`] asks for millions at once, and [`batch`] is both ends of that; [`mod@bench`] asks as
//!   fast as it can. Shapes: [`json`], [`records`].
//!
//! The core (`jiexi_proto`, [`resolver`], [`store`]) is synchronous, knows no sockets and reads no
//! clock but through [`clock`].

pub mod ask;
pub mod backup;
pub mod batch;
pub mod bench;
pub mod bulk;
pub mod busiest;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod handover;
pub mod history;
pub mod identity;
pub mod json;
pub mod keyring;
pub mod logging;
pub mod maintenance;
pub mod metrics;
pub mod migrate;
pub mod node;
pub mod notices;
pub mod notify;
pub mod observe;
pub mod ops;
pub mod owner;
pub mod preflight;
pub mod probe;
pub mod records;
pub mod registry;
pub mod reload;
pub mod resolver;
pub mod server;
pub mod standby;
pub mod store;
pub mod token;
