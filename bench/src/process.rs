//! Processes that are measured: CPU time and resident memory from /proc, with everything that they started.

use std::{collections::BTreeSet, fs, process::Child, time::Duration};

use anyhow::{Context, Result};

/// A tick of /proc/PID/stat: 1/100 s on every Linux that is in use (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Ends with the bench.
pub(crate) struct Started(pub(crate) Child);

impl Started {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let kill = std::process::Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
        kill.context("kill could not be run")?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = std::process::Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
            let _ = self.0.wait();
        }
    }
}

/// A process and all that it started, itself first.
pub(crate) fn family(root: u32) -> BTreeSet<u32> {
    let mut family = BTreeSet::from([root]);
    let parents: Vec<(u32, u32)> = all().into_iter().filter_map(|id| Some((id, stat(id)?.0))).collect();
    loop {
        let found: Vec<u32> = parents
            .iter()
            .filter(|(id, parent)| family.contains(parent) && !family.contains(id))
            .map(|(id, _)| *id)
            .collect();
        if found.is_empty() {
            return family;
        }
        family.extend(found);
    }
}

/// CPU time that processes have used so far.
pub(crate) fn cpu(ids: &BTreeSet<u32>) -> Duration {
    ids.iter().filter_map(|id| stat(*id)).map(|(_, ticks)| TICK * ticks).sum()
}

/// What the machine's cores have done so far: ticks in which they were busy, and all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cores(u64, u64);

impl Cores {
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; proc(5).
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let (all, rest) = (ticks.iter().sum::<u64>(), ticks.iter().skip(3).take(2).sum::<u64>());
        Self(all - rest, all)
    }

    /// How busy they were since then, in percent.
    pub(crate) fn busy_since(self, before: Self) -> u64 {
        (self.0 - before.0) * 100 / (self.1 - before.1).max(1)
    }
}

/// Resident memory of one process in bytes.
pub(crate) fn rss(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1_024
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// (parent, ticks of user and system time, with those of children that have ended).
fn stat(id: u32) -> Option<(u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold spaces and brackets; what follows its last bracket does not.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some((number(1)?, number(11)? + number(12)? + number(13)? + number(14)?))
}
