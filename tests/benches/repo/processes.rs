//! Figures of a process and its children from the system: processor time, memory, files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Processor time so far, including all children, in ticks of 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let all = tree(pid);
    Duration::from_millis(all.iter().map(|pid| ticks(pid)).sum::<u64>() * 10)
}

/// The process's own time, and that of its ended children.
fn ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The preceding field, the name, is in parentheses and may contain any character.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    fields.get(12..16).map_or(0, |four| four.iter().filter_map(|n| n.parse::<u64>().ok()).sum())
}

/// Resident memory in MiB, including all children.
pub fn resident_mib(pid: u32) -> f64 {
    let (root, command) = (pid.to_string(), command(&pid.to_string()));
    // Between its fork and its exec, a child has its parent's command line and memory.
    let counts = |pid: &&String| **pid == root || self::command(pid) != command;
    tree(pid).iter().filter(counts).map(|pid| memory_mib(pid, "VmRSS")).sum()
}

fn command(pid: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn memory_mib(pid: &str, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib = found.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn tree(pid: u32) -> Vec<String> {
    let mut all = vec![pid.to_string()];
    let mut at = 0;
    while at < all.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", all[at]));
        let tasks = tasks.into_iter().flatten().flatten();
        let lists = tasks.flat_map(|task| std::fs::read_to_string(task.path().join("children")));
        let children: Vec<String> =
            lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        all.extend(children.into_iter().filter(|child| !child.trim().is_empty()));
        at += 1;
    }
    all
}

/// Bytes of all files below a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Disk space of the files below a folder, in blocks: a thousand small files take more than their
/// contents.
pub fn folder_disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => found.blocks() * 512 + folder_disk_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Observes the peak of the resident memory of a process and its children.
pub struct Peak {
    pid: u32,
    stop: Arc<AtomicBool>,
    kib: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    /// Resets the peak and starts to observe.
    pub fn watch(pid: u32) -> Self {
        // 5 makes the kernel reset the high-water mark.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        let (stop, kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, peak) = (Arc::clone(&stop), Arc::clone(&kib));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                peak.fetch_max((resident_mib(pid) * 1024.0) as u64, Ordering::Relaxed);
                // sleep: no event shows that another process grew
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { pid, stop, kib, thread: Some(thread) }
    }

    /// The peak so far, in MiB: the larger of the kernel's high-water mark of the process alone and of
    /// the observed sum with its children.
    pub fn mib(&self) -> f64 {
        let alone = memory_mib(&self.pid.to_string(), "VmHWM");
        alone.max(self.kib.load(Ordering::Relaxed) as f64 / 1024.0)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A child of a process: the first one found.
pub fn first_child(pid: u32) -> Option<u32> {
    tree(pid).get(1)?.parse().ok()
}
