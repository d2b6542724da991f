//! Moving here from a CNRI server: with the batch files of its tools, or with everything that a running one has.
//!
//! * [`batch`] — the lines of a batch file as [`batch::Step`]s; `value` reads those of values.
//! * [`carry`] — steps become changes, many in a commit, and a killed migration goes on; [`trial`] says before that what
//!   they would come to, and changes nothing.
//! * `unit` — steps that are one change.
//! * [`position`] — how far a file is, kept beside it.
//! * [`refused`] — what was refused, beside it as well.
//! * [`report`] — what came of it all, for people and programs.
//! * [`dump`] — everything that a server has becomes lines for an import.

pub mod batch;
pub mod carry;
pub mod dump;
pub mod position;
pub mod refused;
pub mod report;
pub mod trial;
mod unit;
mod value;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::{self, CaseRule};

use crate::owner;

/// The name under which a handle is stored.
fn key(handle: &[u8], case: CaseRule) -> Vec<u8> {
    let mut key = Vec::with_capacity(handle.len() + handle::PREFIX_SPACE.len());
    handle::canonical(handle, case, &mut key);
    key
}

/// What went wrong with a file that is kept beside another one; whose it is, where that is why.
fn with_owner(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    if error.kind() != io::ErrorKind::PermissionDenied {
        return format!("{shown}: {error}");
    }
    let me = nix::unistd::geteuid().as_raw();
    let foreign = |path: &Path| {
        let uid = fs::symlink_metadata(path).ok()?.uid();
        (uid != me).then(|| owner::name(uid))
    };
    let me = owner::name(me);
    match (foreign(path), path.parent().and_then(foreign)) {
        (Some(owner), _) => format!(
            "{shown}: {error}: it belongs to {owner}, perhaps because a command was run as {owner}: as root `chown {me} {shown}`"
        ),
        (None, Some(owner)) => format!(
            "{shown}: {error}: its directory belongs to {owner}, and {me} must be able to write there"
        ),
        (None, None) => format!("{shown}: {error}"),
    }
}

/// A refusal of the node, in words.
fn said(code: ResponseCode, message: &str) -> String {
    let name = code.name().unwrap_or("unknown code");
    let help = match code {
        ResponseCode::SERVER_NOT_RESPONSIBLE => {
            ": this node is not the home of its prefix; \"jiexi prefix add\", or a HOME before it, makes it so"
        }
        ResponseCode::HANDLE_ALREADY_EXISTS => ": it is here already, with other values",
        ResponseCode::INSUFFICIENT_PERMISSIONS => {
            ": the value here may be written by nobody, as its permissions say"
        }
        _ => "",
    };
    let text = match message.trim() {
        "" => String::new(),
        text => format!(" ({text})"),
    };
    format!("{name} (code {}){text}{help}", code.0)
}
