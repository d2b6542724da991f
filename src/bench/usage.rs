//! Processor time and memory of a process, as the kernel counts them.

use std::{fs, io};

use nix::errno::Errno;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::Failure;

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Run time of all threads, those included that have ended, and kernel work done in their system calls.
    pub nanoseconds: u64,
    /// Resident memory.
    pub resident_kib: u64,
}

impl Usage {
    /// Reads the figures of all processes in `pids` and of their threads.
    ///
    /// # Errors
    /// A process that is gone or cannot be read.
    pub fn of(pids: &[u32]) -> Result<Self, Failure> {
        let mut all = Self {
            nanoseconds: 0,
            resident_kib: 0,
        };
        for &pid in pids {
            let failed = |error: io::Error| Failure::new(format_args!("process {pid}: {error}"));
            all.nanoseconds += run_time(pid).map_err(|errno| failed(errno.into()))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            all.resident_kib += first_number(resident.unwrap_or("0"));
        }
        Ok(all)
    }
}

/// Nanoseconds on processors. The sum over the threads that are there would fall with each one that ends.
fn run_time(pid: u32) -> Result<u64, Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let spent = clock_gettime(clock_getcpuclockid(Pid::from_raw(pid))?)?;
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(part(spent.tv_sec()) * 1_000_000_000 + part(spent.tv_nsec()))
}

fn first_number(text: &str) -> u64 {
    let first = text.split_whitespace().next();
    first.and_then(|number| number.parse().ok()).unwrap_or(0)
}
