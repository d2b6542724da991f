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

use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::{self, CaseRule};

/// The name under which a handle is stored.
fn key(handle: &[u8], case: CaseRule) -> Vec<u8> {
    let mut key = Vec::with_capacity(handle.len() + handle::PREFIX_SPACE.len());
    handle::canonical(handle, case, &mut key);
    key
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
