//! The old process while its connections end: it sees whether the new one lives.
//!
//! systemd does not hear of the end of a main process that is no child of its own. As long as the old process is there, it is
//! the one that must notice: when it ends, what it has left is systemd's.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::net::UnixStream;
use tokio::time::sleep;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// The process that is the node now.
#[derive(Debug)]
pub struct Watched {
    process: OwnedFd,
}

impl Watched {
    pub(super) const fn new(process: OwnedFd) -> Self {
        Self { process }
    }

    /// Waits until it has died, and says how, for people; for ever when it ends as one that was told to, or has given the node
    /// away itself. `control` is the control socket of the node.
    pub async fn died(self, control: &Path) -> String {
        while !has_ended(&self.process) {
            sleep(LOOK).await;
        }
        // It stays what it is, so that whoever looks after this process hears of it as well.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.process.as_fd()), options) {
            Ok(Some(status)) => match failure(&status) {
                Some(how) => how,
                None => std::future::pending().await,
            },
            _ => orphaned(control).await,
        }
    }
}

/// Its descriptor becomes readable when a process has ended.
fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut watched, Some(&now)), Ok(1..))
}

/// How a child ended, unless it did what it was told.
fn failure(status: &WaitIdStatus) -> Option<String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("it ended with exit code {code}")),
        (None, Some(signal)) => Some(format!("it was killed by signal {signal}")),
        (None, None) => Some("it ended".to_owned()),
    }
}

/// What has ended was no child of this process, so nobody says how. One that was told to end has removed its control socket, or
/// another process goes on with that.
async fn orphaned(control: &Path) -> String {
    loop {
        if let Err(error) = UnixStream::connect(control).await
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return "it has left its control socket, and nobody answers there".to_owned();
        }
        sleep(LOOK).await;
    }
}
