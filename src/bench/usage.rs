//! Processor time and memory of a process, as the kernel counts them.

use std::fs;

use super::Failure;

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Run time of all threads, kernel work done in their system calls included.
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
            let failed = |error| Failure::new(format_args!("process {pid}: {error}"));
            for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)? {
                // A thread may end between the listing and the reading.
                let Ok(line) = fs::read_to_string(task.map_err(failed)?.path().join("schedstat"))
                else {
                    continue;
                };
                all.nanoseconds += first_number(&line);
            }
            let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            all.resident_kib += first_number(resident.unwrap_or("0"));
        }
        Ok(all)
    }
}

fn first_number(text: &str) -> u64 {
    let first = text.split_whitespace().next();
    first.and_then(|number| number.parse().ok()).unwrap_or(0)
}
