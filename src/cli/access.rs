//! Where records are changed and by whom: a node elsewhere, with a key; or the node of this machine, running or stopped.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::Args;
use jiexi_proto::{
    code::ResponseCode,
    message::{Body, values::HandleValues},
    value::{Reference, Value, site::SiteRecord},
};
use zeroize::Zeroizing;

use super::{Failed, key, place::Place as NodePlace, refusal::Refusal, resolve, target};
use crate::{
    client::{
        Administrator, Answer, Client, ClientError, Credentials, Key, Operation, Place, Protection,
        Question, Target, Transports,
    },
    clock,
    config::Config,
    control::{
        command::{Ask, Command, Octets, Outcome, Told},
        registry as local,
    },
    identity, keyring, maintenance, node,
    registry::{Registry, keys::NodeKey, plan::Request},
};

/// The variable with a secret key itself; on the command line everybody would see it.
const SECRET_VARIABLE: &str = "JIEXI_SECRET";
/// How long an answer of a node elsewhere may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How long the next block of a copy may take: a server that looks for it may have much to do.
const COPY_PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Which node, and who asks.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which node, and who asks")]
pub(super) struct Access {
    /// A node elsewhere: address or name, with port 2641 unless another is given. Without it: the node of this
    /// machine, through its control socket or, when it is stopped, in its files; that takes no key
    #[arg(
        long,
        short,
        value_name = "ADDR",
        env = "JIEXI_SERVER",
        hide_env_values = true
    )]
    server: Option<String>,
    /// The site record (site.json) of a node elsewhere, instead of --server: sessions are then with the holder of the
    /// key in it and nobody else, and no other node is gone to
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    site_record: Option<PathBuf>,
    /// Who asks: the index of the value with the key, and its handle, such as 300:0.NA/88.118
    #[arg(
        long,
        value_name = "INDEX:HANDLE",
        env = "JIEXI_IDENTITY",
        hide_env_values = true
    )]
    identity: Option<String>,
    /// The RSA private key of --identity: reference key file, PEM or JSON Web Key
    #[arg(
        long,
        value_name = "FILE",
        env = "JIEXI_KEY",
        hide_env_values = true,
        conflicts_with = "secret_file"
    )]
    key: Option<PathBuf>,
    /// The secret key (HS_SECKEY) of --identity is the first line of this file; or set JIEXI_SECRET
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The first line of this file opens --key
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Work in a session: one proof for all requests
    #[arg(long)]
    session: bool,
    /// Work in an encrypted session; by itself when secrets are on the way
    #[arg(long)]
    encrypt: bool,
    /// Let secrets and restricted values go in clear: for a server that opens no encrypted session
    #[arg(long, conflicts_with = "encrypt")]
    clear: bool,
    #[command(flatten)]
    place: NodePlace,
}

/// Why something was not done.
pub(super) enum Trouble {
    /// The node says no.
    Refused(Refusal),
    /// It could not be asked; that has been reported.
    Failed(Failed),
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Failed(Failed::report(error))
    }
}

/// What changes came to.
pub(super) struct Changed {
    /// The handle of the last one, as it was written or minted.
    pub(super) handle: Bytes,
    /// Something that existed was overwritten.
    pub(super) overwritten: bool,
}

/// A way to the records of a node.
pub(super) enum Way {
    /// The node of this machine.
    Local(Box<Config>),
    /// A node elsewhere.
    Remote(Box<Remote>),
}

/// A node elsewhere.
pub(super) struct Remote {
    client: Client,
    place: Place,
    admin: Administrator,
    identified: bool,
}

impl Access {
    /// Finds the way; `secret`: what goes over it must not be seen by others.
    pub(super) fn open(&self, secret: bool) -> Result<Way, Failed> {
        let elsewhere = self.server.is_some() || self.site_record.is_some();
        let credentials = self.credentials()?;
        if !elsewhere {
            if credentials.is_some() {
                return Err(Failed::usage(
                    "a key is given, but the node of this machine takes none; name another node with --server",
                ));
            }
            return Ok(Way::Local(Box::new(self.place.load()?)));
        }
        let mut client = Client::new(Transports::Any, clock::unix_seconds);
        client.tcp_answer = PATIENCE;
        let target = self.target()?;
        if credentials.is_none() && (self.session || self.encrypt) {
            return Err(Failed::usage(
                "a session needs to know who asks: give --identity and its key",
            ));
        }
        let hide = self.encrypt || secret && !self.clear;
        let protection = match (&credentials, hide, self.session) {
            (None, ..) | (_, false, false) => Protection::Proofs,
            (_, true, _) => Protection::Encrypted,
            (_, false, true) => Protection::Session,
        };
        let identified = credentials.is_some();
        Ok(Way::Remote(Box::new(Remote {
            place: target.place,
            admin: Administrator::new(client.clone(), target, credentials, protection),
            client,
            identified,
        })))
    }

    /// The node elsewhere.
    fn target(&self) -> Result<Target, Failed> {
        if let Some(file) = &self.site_record {
            let site = identity::load_site(file).map_err(Failed::report)?;
            if site.servers.len() > 1 {
                let file = file.display();
                return Err(Failed::report(format_args!(
                    "{file}: names several servers; name the one of the handle with --server"
                )));
            }
            return Target::of(&site, b"").ok_or_else(|| {
                let file = file.display();
                Failed::report(format_args!(
                    "{file}: no server in it takes changes over TCP"
                ))
            });
        }
        let server = self.server.clone().unwrap_or_default();
        let address = target::block_on(async move { resolve::address(&server).await })??;
        Ok(Target {
            place: Place::at(address),
            key: None,
        })
    }

    /// Who asks.
    fn credentials(&self) -> Result<Option<Credentials>, Failed> {
        let key = match (&self.key, &self.secret_file) {
            (Some(file), _) => {
                let secret = self.passphrase_file.as_deref().map(key::passphrase);
                let secret = secret.transpose()?;
                let pair = keyring::read(file, secret.as_ref().map(|secret| &secret[..]))
                    .map_err(Failed::report)?;
                let key = NodeKey::new(&pair.private).map_err(Failed::report)?;
                Some(Key::Rsa(Box::new(key)))
            }
            (None, Some(file)) => Some(Key::Secret(key::passphrase(file)?)),
            (None, None) => secret_variable().map(Key::Secret),
        };
        match (key, &self.identity) {
            (None, None) => Ok(None),
            (Some(key), Some(identity)) => Ok(Some(Credentials {
                user: reference("--identity", identity)?,
                key,
            })),
            (Some(_), None) => Err(Failed::usage(
                "a key is given, but not whose it is: --identity INDEX:HANDLE, such as 300:0.NA/88.118",
            )),
            (None, Some(_)) => Err(Failed::usage(format_args!(
                "--identity needs its key: --key FILE, --secret-file FILE or {SECRET_VARIABLE}"
            ))),
        }
    }

    /// Somebody who copies a server elsewhere; whether the copy may go in clear; and the node of this machine, which takes
    /// it.
    pub(super) fn copying(&self) -> Result<(Administrator, bool, Config), Failed> {
        if self.local() {
            return Err(Failed::usage(
                "which server is to be copied? --server ADDRESS, or --site-record FILE",
            ));
        }
        if self.session || self.encrypt {
            return Err(Failed::usage(
                "a copy is no part of a session: leave out --session and --encrypt",
            ));
        }
        let credentials = self.credentials()?.ok_or_else(|| {
            Failed::usage(
                "a server is copied for one of its replication_admins: give --identity INDEX:HANDLE and --key FILE",
            )
        })?;
        let config = self.place.load()?;
        let mut client = Client::new(Transports::Any, clock::unix_seconds);
        client.tcp_answer = COPY_PATIENCE;
        let proofs = Protection::Proofs;
        let admin = Administrator::new(client, self.target()?, Some(credentials), proofs);
        Ok((admin, self.clear, config))
    }

    /// The server elsewhere, as it was named.
    pub(super) fn elsewhere(&self) -> String {
        let file = self.site_record.as_ref();
        let file = file.map(|file| file.display().to_string());
        self.server.clone().or(file).unwrap_or_default()
    }

    /// The configuration of the node of this machine, if that is the one.
    pub(super) fn local(&self) -> bool {
        self.server.is_none() && self.site_record.is_none()
    }

    /// Whether who asks is proved by a secret, and not by a private key.
    pub(super) const fn proves_by_secret(&self) -> bool {
        self.key.is_none()
    }

    /// Who asks, for people.
    pub(super) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }
}

/// The secret key in the environment.
fn secret_variable() -> Option<Zeroizing<Vec<u8>>> {
    use std::os::unix::ffi::OsStringExt as _;
    let secret = Zeroizing::new(std::env::var_os(SECRET_VARIABLE)?.into_vec());
    (!secret.is_empty()).then_some(secret)
}

/// Reads `INDEX:HANDLE`.
pub(super) fn reference(option: &str, text: &str) -> Result<Reference, Failed> {
    let parsed = text.split_once(':').and_then(|(index, handle)| {
        let index = index.parse().ok()?;
        let handle = Bytes::copy_from_slice(handle.as_bytes());
        (!handle.is_empty()).then_some(Reference { handle, index })
    });
    parsed.ok_or_else(|| {
        Failed::usage(format_args!(
            "{option}: {text:?} is not INDEX:HANDLE, such as 300:0.NA/88.118"
        ))
    })
}

impl Way {
    /// Makes changes: on the node of this machine all of them or none, elsewhere one after the other.
    pub(super) fn change(&mut self, requests: &[Request]) -> Result<Changed, Trouble> {
        match self {
            Self::Local(config) => {
                let ask = local::asked(requests, clock::unix_seconds());
                let Told::Changed {
                    handles,
                    overwritten,
                    ..
                } = here(config, ask, &mut |_| Ok(()))?
                else {
                    return Err(another().into());
                };
                let last = handles.into_iter().next_back();
                Ok(Changed {
                    handle: last.map_or_else(Bytes::new, |handle| Bytes::from(handle.0)),
                    overwritten,
                })
            }
            Self::Remote(remote) => remote.change(requests),
        }
    }

    /// The values of a handle, as far as whoever asks may read them, and the handle as it was asked or written.
    pub(super) fn read(&mut self, question: &Question) -> Result<(Bytes, Vec<Value>), Trouble> {
        match self {
            Self::Local(config) => {
                let ask = Ask::Read {
                    handle: Octets(question.handle.to_vec()),
                    unhomed: false,
                };
                let Told::Values { handle, values } = here(config, ask, &mut |_| Ok(()))? else {
                    return Err(another().into());
                };
                let decode = |octets: Octets| Value::decode(&Bytes::from(octets.0));
                let values: Result<Vec<Value>, _> = values.into_iter().map(decode).collect();
                let values = values.map_err(Failed::report)?;
                Ok((Bytes::from(handle.0), values))
            }
            Self::Remote(remote) => remote.read(question),
        }
    }

    /// The names of the handles below a prefix, given as `0.NA/…`.
    pub(super) fn list(
        &mut self,
        prefix_handle: &Bytes,
        each: &mut dyn FnMut(&str) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        match self {
            Self::Local(config) => {
                let ask = Ask::List {
                    prefix: Octets(prefix_handle.to_vec()),
                };
                let mut line = |line: &str| match serde_json::from_str::<String>(line) {
                    Ok(name) => each(&name),
                    Err(error) => Err(Failed::report(error)),
                };
                here(config, ask, &mut line).map(drop)
            }
            Self::Remote(remote) => remote.list(&Operation::list(prefix_handle.clone()), each),
        }
    }

    /// The prefixes: on the node of this machine as rows of JSON, elsewhere as names of homed ones.
    pub(super) fn prefixes(
        &mut self,
        each: &mut dyn FnMut(&str) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        match self {
            Self::Local(config) => here(config, Ask::Prefixes, each).map(drop),
            Self::Remote(remote) => remote.list(&Operation::list_homed(), each),
        }
    }

    /// The site records of the node: one, or one for each address family.
    pub(super) fn sites(&self) -> Result<Vec<SiteRecord>, Failed> {
        match self {
            Self::Local(config) => local_sites(config),
            Self::Remote(remote) => {
                let site = target::block_on(remote.client.site(&remote.place))?;
                Ok(vec![site.map_err(Failed::report)?])
            }
        }
    }

    /// Keeps to the node that was named: what is done to a prefix there must not be done to its record elsewhere.
    pub(super) const fn stay(&mut self) {
        if let Self::Remote(remote) = self {
            remote.admin.stay();
        }
    }

    /// Ends what is open.
    pub(super) fn close(&mut self) {
        if let Self::Remote(remote) = self {
            // A session that is not ended ends by itself.
            let _ = target::block_on(remote.admin.close());
        }
    }
}

/// What was said belongs to another command.
fn another() -> Failed {
    Failed::report("the node answered another command")
}

/// Asks the node of this machine: through its socket, or in its files when it is stopped.
fn here(
    config: &Config,
    ask: Ask,
    each: &mut dyn FnMut(&str) -> Result<(), Failed>,
) -> Result<Told, Trouble> {
    let mut lines = Lines::default();
    let told = match target::running(config)? {
        Some(node) => {
            let command = Command::Registry { ask };
            let on_data = |data: &[u8]| lines.take(data, each);
            let nothing = None::<tokio::io::Empty>;
            let outcome = target::block_on(node.run(command, nothing, on_data, |_| {}))?;
            match (outcome, lines.failed) {
                (_, Some(failed)) => return Err(failed.into()),
                (Ok(Outcome::Told(told)), None) => told,
                (Ok(_), None) => return Err(another().into()),
                (Err(error), None) => return Err(target::explain(error).into()),
            }
        }
        None => {
            let store = maintenance::open(config.store_config()).map_err(|error| {
                let help = "no node runs here; name one elsewhere with --server";
                Failed::report(format_args!("{error} ({help})"))
            })?;
            let store = Arc::new(store);
            let registry = node::registry_of(config, &store).map_err(Failed::report)?;
            node::complete_audit(&registry);
            let told = directly(&registry, &ask, &mut lines, each);
            target::close_with(&store, &registry)?;
            told?
        }
    };
    match told {
        Told::Refused { code, message, .. } => Err(Trouble::Refused(Refusal {
            code: ResponseCode(code),
            message,
            server: None,
        })),
        told => Ok(told),
    }
}

/// Asks a stopped node.
fn directly(
    registry: &Registry,
    ask: &Ask,
    lines: &mut Lines,
    each: &mut dyn FnMut(&str) -> Result<(), Failed>,
) -> Result<Told, Failed> {
    let uid = nix::unistd::geteuid().as_raw();
    let mut output = Output { lines, each };
    let told = local::perform(registry, ask, uid, clock::unix_seconds(), &mut output);
    match (told, lines.failed) {
        (_, Some(failed)) => Err(failed),
        (told, None) => told.map_err(Failed::report),
    }
}

/// Lines out of pieces.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    failed: Option<Failed>,
}

impl Lines {
    fn take(
        &mut self,
        data: &[u8],
        each: &mut dyn FnMut(&str) -> Result<(), Failed>,
    ) -> std::io::Result<()> {
        self.partial.extend_from_slice(data);
        let Some(end) = self.partial.iter().rposition(|octet| *octet == b'\n') else {
            return Ok(());
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        for line in String::from_utf8_lossy(&whole).lines() {
            if let Err(failed) = each(line) {
                self.failed = Some(failed);
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

/// Lines as they are written.
struct Output<'a> {
    lines: &'a mut Lines,
    each: &'a mut dyn FnMut(&str) -> Result<(), Failed>,
}

impl std::io::Write for Output<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.lines.take(data, self.each)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The site record in the node's file, and the same one with each further address of the configuration.
fn local_sites(config: &Config) -> Result<Vec<SiteRecord>, Failed> {
    let site = identity::own_site(&config.site_file()).map_err(Failed::report)?;
    let own = site.servers.first().map(|server| server.ip());
    let others = config.node.addresses.iter().filter(|ip| Some(**ip) != own);
    let other = others.map(|ip| {
        let mut site = site.clone();
        for server in &mut site.servers {
            server.address = jiexi_proto::value::site::Server::address_of(*ip);
        }
        site
    });
    let mut sites: Vec<SiteRecord> = other.collect();
    sites.insert(0, site);
    Ok(sites)
}

impl Remote {
    fn change(&mut self, requests: &[Request]) -> Result<Changed, Trouble> {
        let mut changed = Changed {
            handle: Bytes::new(),
            overwritten: false,
        };
        for request in requests {
            let answer = self.perform(request)?;
            let answer = match (request, answer.code) {
                // Who can overwrite never says so: servers before version 2.3 do.
                (
                    Request::Add {
                        handle,
                        values,
                        overwrite: true,
                    },
                    ResponseCode::VALUE_ALREADY_EXISTS,
                ) => self.set_one_by_one(handle, values)?,
                (
                    Request::Create {
                        handle,
                        overwrite: true,
                        ..
                    },
                    ResponseCode::HANDLE_ALREADY_EXISTS,
                ) => return Err(too_old(&answer, handle).into()),
                _ => successful(answer)?,
            };
            changed.handle = match answer.body {
                Body::Created(handle) => handle,
                _ => request.handle().clone(),
            };
            changed.overwritten |= answer.overwritten;
        }
        Ok(changed)
    }

    fn perform(&mut self, request: &Request) -> Result<Answer, Trouble> {
        let operation = Operation::from(request);
        Ok(target::block_on(self.admin.perform(&operation))??)
    }

    /// Sets values at a server that cannot add over what is there: each is modified if it is there, else added.
    fn set_one_by_one(&mut self, handle: &Bytes, values: &[Value]) -> Result<Answer, Trouble> {
        let mut last = None;
        for value in values {
            let (handle, values) = (handle.clone(), vec![value.clone()]);
            let mut answer = self.perform(&Request::Modify {
                handle: handle.clone(),
                values: values.clone(),
            })?;
            if answer.code == ResponseCode::VALUES_NOT_FOUND {
                answer = self.perform(&Request::Add {
                    handle,
                    values,
                    overwrite: false,
                })?;
            }
            last = Some(successful(answer)?);
        }
        last.ok_or_else(|| another().into())
    }

    fn read(&mut self, question: &Question) -> Result<(Bytes, Vec<Value>), Trouble> {
        if !self.identified {
            let resolving = self.client.resolve(self.place, question.clone());
            let (reply, _) = target::block_on(resolving)??;
            return match reply.code {
                ResponseCode::SUCCESS => Ok((reply.handle, reply.values)),
                code => Err(Trouble::Refused(Refusal {
                    code,
                    message: reply.message,
                    server: Some(reply.server),
                })),
            };
        }
        let operation = Operation::resolution(question, true);
        let answer = target::block_on(self.admin.perform(&operation))??;
        match successful(answer)?.body {
            Body::Resolved(HandleValues { handle, values }) => Ok((handle, values)),
            _ => Err(another().into()),
        }
    }

    fn list(
        &mut self,
        operation: &Operation,
        each: &mut dyn FnMut(&str) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        let page = |names: &[Bytes]| -> Result<(), Trouble> {
            for name in names {
                each(&String::from_utf8_lossy(name))?;
            }
            Ok(())
        };
        let answer = target::block_on(self.admin.list(operation, page))??;
        successful(answer).map(drop)
    }
}

/// What is there cannot be replaced.
fn too_old(answer: &Answer, handle: &Bytes) -> Failed {
    let handle = String::from_utf8_lossy(handle);
    Failed::report(format_args!(
        "{handle}: {} is too old to replace a handle, and it exists already (code 101): \"value set\" and \"value rm\" \
         change its values, \"handle rm\" removes it",
        answer.server
    ))
}

/// The answer, if it is a success.
fn successful(answer: Answer) -> Result<Answer, Trouble> {
    match answer.code {
        ResponseCode::SUCCESS => Ok(answer),
        code => Err(Trouble::Refused(Refusal {
            code,
            message: answer.message,
            server: Some(answer.server),
        })),
    }
}
