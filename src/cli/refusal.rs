//! What a node has refused, in words: what it means and what to do. The code of the protocol is always in it.

use std::net::SocketAddr;

use jiexi_proto::code::ResponseCode;
use serde_json::json;

use crate::registry::DISK_FULL;

use super::{
    Failed,
    access::{Access, Trouble},
    output::{self, Format},
};

/// A refusal.
pub(super) struct Refusal {
    pub(super) code: ResponseCode,
    /// What the node says; often empty.
    pub(super) message: String,
    /// Which node; none for that of this machine.
    pub(super) server: Option<SocketAddr>,
}

impl Refusal {
    /// What to do about it.
    fn help(&self, access: &Access) -> String {
        let who = access.identity().unwrap_or("whoever asks");
        match self.code {
            ResponseCode::HANDLE_ALREADY_EXISTS => {
                "it exists already; \"handle put\" replaces it, \"value set\" changes values of it".into()
            }
            ResponseCode::VALUE_ALREADY_EXISTS => {
                "a value with this index exists already; \"value set\" replaces it".into()
            }
            ResponseCode::SERVER_NOT_RESPONSIBLE => {
                "the node is not the home of this prefix; \"prefix list\" shows those it has, \"prefix add\" adds one"
                    .into()
            }
            ResponseCode::INVALID_ADMIN => format!(
                "{who} is no administrator of it: its HS_ADMIN values, those of its prefix and the node's \
                 configuration ([administration] admins) say who is"
            ),
            ResponseCode::INSUFFICIENT_PERMISSIONS => {
                format!("{who} lacks the right to do this; the HS_ADMIN values say who has it")
            }
            ResponseCode::AUTHENTICATION_FAILED => match access.proves_by_secret() {
                true => format!(
                    "the secret is not that of {who}: the first line of --secret-file, or JIEXI_SECRET, must be the data \
                     of the HS_SECKEY value with that index; an HS_PUBKEY value there takes --key"
                ),
                false => format!(
                    "the key is not that of {who}: compare \"jiexi key show\" with the HS_PUBKEY value with that index; \
                     an HS_SECKEY value there takes --secret-file"
                ),
            },
            ResponseCode::AUTHENTICATION_NEEDED => {
                "the node wants another proof than the one it was given".into()
            }
            ResponseCode::SERVER_TOO_BUSY => match self.message.trim() {
                DISK_FULL => "the node takes changes again when its disk has space: free some on that machine, or allow \
                     less by [store] disk_free_min and disk_free_percent"
                    .into(),
                _ => "the node is busy; try again in a moment".into(),
            },
            ResponseCode::SERVICE_REFERRAL | ResponseCode::PREFIX_REFERRAL => {
                "another node has it; \"jiexi resolve --trace\" shows which: name that one with --server".into()
            }
            _ => String::new(),
        }
    }

    fn said(&self) -> String {
        let server = self.server.map(|server| format!("{server}: "));
        let name = self.code.name().unwrap_or("unknown code");
        let text = match self.message.trim() {
            "" => String::new(),
            text => format!(" ({})", output::visible(text)),
        };
        format!(
            "{}{name} (code {}){text}",
            server.unwrap_or_default(),
            self.code.0
        )
    }
}

/// Reports why something was not done to `subject`; in JSON on stdout as well, as an answer.
pub(super) fn explain(trouble: Trouble, subject: &str, access: &Access, form: Format) -> Failed {
    let refusal = match trouble {
        Trouble::Failed(failed) => return failed,
        Trouble::Refused(refusal) => refusal,
    };
    let (said, help) = (refusal.said(), refusal.help(access));
    if form == Format::Json {
        let message = match refusal.message.is_empty() {
            true => refusal.code.name().unwrap_or_default().to_owned(),
            false => refusal.message.clone(),
        };
        let code = refusal.code.0;
        let answer = json!({"responseCode": code, "handle": subject, "message": message});
        // That it cannot be written is no reason to say less about what was refused.
        let _ = output::print_json(&answer);
    }
    let help = match help.is_empty() {
        true => help,
        false => format!(": {help}"),
    };
    let text = format!("{}: {said}{help}", output::visible(subject));
    match refusal.code {
        ResponseCode::HANDLE_NOT_FOUND | ResponseCode::VALUES_NOT_FOUND => Failed::not_found(text),
        _ => Failed::report(text),
    }
}
