//! A program that may crash or take too long.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It was stopped at its limit.
    OutOfTime,
}

impl Ended {
    /// An error unless it ended by itself with success.
    pub fn ok(self) -> Result<()> {
        match self {
            Ended::With(status) if status.success() => Ok(()),
            Ended::With(status) => match status.signal() {
                Some(signal) => bail!("crashed: signal {signal}"),
                None => bail!("failed: {status}"),
            },
            Ended::OutOfTime => bail!("stopped: out of time"),
        }
    }

    /// An error if it crashed or was stopped.
    pub fn ok_if_in_time(self) -> Result<()> {
        match self {
            Ended::With(status) if status.signal().is_none() => Ok(()),
            _ => self.ok(),
        }
    }
}

/// Runs a program, its output going to the file, and stops it and all that it started when the limit is reached.
pub fn run_child(command: &mut Command, log: &Path, limit: Duration) -> Result<Ended> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).process_group(0);
    let mut child =
        command.spawn().with_context(|| format!("could not start {:?}", command.get_program()))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::With(status));
        }
        if start.elapsed() >= limit {
            // The group, of which the child is the leader: a compiler that it started ends with it.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            child.wait()?;
            return Ok(Ended::OutOfTime);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> (Ended, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let ended = run_child(Command::new("sh").args(["-c", script]), &log, limit).unwrap();
        (ended, std::fs::read_to_string(log).unwrap())
    }

    #[test]
    fn success_failure_and_a_crash_are_told_apart_and_the_output_is_kept() {
        let (ended, log) = sh("echo out; echo err >&2", Duration::from_secs(20));
        assert!(ended.ok().is_ok());
        assert_eq!(log, "out\nerr\n");
        assert!(sh("exit 3", Duration::from_secs(20)).0.ok().unwrap_err().to_string().contains('3'));
        let (crashed, _) = sh("kill -SEGV $$", Duration::from_secs(20));
        assert!(crashed.ok().unwrap_err().to_string().contains("signal 11"));
        assert!(crashed.ok_if_in_time().is_err());
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped_and_what_it_said_is_kept() {
        let start = Instant::now();
        let (ended, log) = sh("echo begun; sleep 60 & wait", Duration::from_millis(300));
        assert_eq!((ended, log.as_str()), (Ended::OutOfTime, "begun\n"));
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
