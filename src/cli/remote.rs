//! A node elsewhere that is asked over HTTP: its address, and the token that it knows us by.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use url::Url;

use super::Failed;
use crate::ask::http::Server;

/// The variable that may have the token.
const TOKEN: &str = "JIEXI_TOKEN";

/// The node that is asked.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The node, such as https://id.example.cn:8000
    #[arg(
        long,
        short,
        default_value = "http://127.0.0.1:8000",
        value_name = "URL",
        global = true
    )]
    server: String,
    /// File with the API token, which has the right for what is asked; without it the variable JIEXI_TOKEN
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Certificates in PEM to believe beside those of the machine, such as the node's own
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// How long the server may neither take nor say anything
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = patience, global = true)]
    pub(super) timeout: Duration,
}

impl Remote {
    /// The node as it is asked.
    pub(super) fn server(&self) -> Result<Server, Failed> {
        Ok(Server {
            url: url(&self.server, "https://id.example.cn:8000")?,
            token: Some(token(self.token_file.as_deref())?),
            authority: self.ca.clone(),
            zstd: false,
        })
    }
}

/// Reads the address of a node; `such` are good ones.
pub(super) fn url(text: &str, such: &str) -> Result<Url, Failed> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
    });
    let url = url.ok_or_else(|| Failed::usage(format_args!("--server must be such as {such}")))?;
    if url.scheme() == "http" && !is_here(&url) {
        return Err(Failed::usage(
            "--server: a token goes over https:// to another machine; everybody on the way could read it",
        ));
    }
    Ok(url)
}

/// The token out of a file, or out of the environment.
pub(super) fn token(file: Option<&Path>) -> Result<String, Failed> {
    token_if_any(file)?.ok_or_else(|| {
        Failed::usage("an API token is needed: give --token-file FILE, or set JIEXI_TOKEN")
    })
}

/// As [`token`], where the server may take none.
pub(super) fn token_if_any(file: Option<&Path>) -> Result<Option<String>, Failed> {
    let token = match file {
        Some(path) => Some(fs::read_to_string(path).map_err(|error| {
            Failed::report(format_args!("--token-file {}: {error}", path.display()))
        })?),
        None => std::env::var(TOKEN).ok(),
    };
    Ok(token.map(|token| token.trim().to_owned()))
}

/// Reads a time such as `30s`.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&time) {
        true => Ok(time),
        false => Err("must lie between 1s and 1day".to_owned()),
    }
}

/// Whether a server is this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
