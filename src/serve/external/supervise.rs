//! The process between us and an engine, which sees to it that no process of the engine outlives us.
//!
//! Its standard input is held by us: a byte is a signal for the engine, and the end of it says that we are gone,
//! however we ended. Whatever the engine starts, and lets go of, becomes a child of this process, and is killed with
//! the engine's end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait};

/// What shells say of a program that a signal has ended.
const SIGNALLED: i32 = 128;
/// Signals that are for the engine, and come to it from us.
const PASSED_ON: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Runs a program and whatever it starts until it ends, or until standard input does; removes `remove` then. Gives
/// the program's exit status, as shells do.
///
/// # Errors
/// If the program cannot be started.
pub fn supervise(words: &[OsString], remove: Option<&Path>) -> io::Result<u8> {
    let (program, arguments) = words.split_first().ok_or_else(|| io::Error::other("no program"))?;
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    for signal in PASSED_ON {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    // SAFETY: `signal` and `prctl` may be called between fork and exec; nothing is allocated.
    unsafe { command.pre_exec(begin) };
    let child = command.spawn()?;
    let engine = Pid::from_child(&child);
    let running = Arc::new(AtomicI32::new(engine.as_raw_nonzero().get()));
    let own = running.clone();
    std::thread::spawn(move || listen(&own));
    let status = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == engine => {
                running.store(0, Ordering::Release);
                let signalled = status.terminating_signal().map(|signal| SIGNALLED + signal);
                break status.exit_status().or(signalled).unwrap_or(1);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    // Of the group, if it left any behind.
    kill_process_group(engine, Signal::KILL).unwrap_or_default();
    end_descendants();
    if let Some(folder) = remove {
        // Its name tells whose it is, should it stay.
        drop(std::fs::remove_dir_all(folder));
    }
    Ok(u8::try_from(status).unwrap_or(1))
}

/// Runs in the engine's process before its program does.
fn begin() -> io::Result<()> {
    for signal in PASSED_ON {
        // SAFETY: the default is set for a signal that exists.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Passes signals on until we are gone, and ends the engine then.
fn listen(running: &AtomicI32) {
    let mut input = io::stdin().lock();
    let mut byte = [0];
    let engine = || Pid::from_raw(running.load(Ordering::Acquire));
    while input.read_exact(&mut byte).is_ok() {
        let [number] = byte;
        // One that is not there any more needs none.
        if let (Some(engine), Some(signal)) = (engine(), Signal::from_named_raw(i32::from(number)))
        {
            kill_process(engine, signal).unwrap_or_default();
        }
    }
    if let Some(engine) = engine() {
        kill_process_group(engine, Signal::KILL).unwrap_or_default();
        kill_process(engine, Signal::KILL).unwrap_or_default();
    }
}

/// Kills whatever this process has below it, until nothing is left.
fn end_descendants() {
    loop {
        for pid in descendants() {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            // There are no more.
            Err(_) => return,
        }
    }
}

/// The processes below this one.
fn descendants() -> Vec<Pid> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name in the middle may have any characters.
        let parent: Option<i32> = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        all.extend(pid.zip(parent));
    }
    let mut found: Vec<i32> = vec![rustix::process::getpid().as_raw_nonzero().get()];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        let own = all.iter().filter(|(pid, of)| *of == parent && !found.contains(pid));
        let own: Vec<i32> = own.map(|(pid, _)| *pid).collect();
        found.extend(own);
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}
