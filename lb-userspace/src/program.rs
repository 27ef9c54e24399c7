//! Programs that the operator names: started, fed, listened to, and ended with all that they
//! started.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::Receiver,
    process::{Child, ChildStdin, Command},
    time::timeout,
};

/// Bytes of the output that are kept; the rest is read and thrown away.
const OUTPUT_MAX: usize = 4096;

/// How long the kernel may take to end a program that was killed.
const ENDING: Duration = Duration::from_secs(1);

/// A program that runs; dropped, it is killed with its process group.
pub(crate) struct Running {
    child: Child,
    /// Its process group, until it has ended.
    group: Option<Pid>,
    input: Option<(ChildStdin, Vec<u8>)>,
    output: Receiver,
    said: Vec<u8>,
}

impl Running {
    /// Starts it in a process group of its own, in `/`, with `input` on its standard input.
    ///
    /// # Errors
    /// There is nothing to run, or no room to run it in: [`why_not`] says what to do.
    pub(crate) fn start(mut command: Command, input: Option<Vec<u8>>) -> io::Result<Self> {
        // Standard output and error in the order that they come in.
        let (reader, writer) = io::pipe()?;
        let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command
            .current_dir("/")
            .stdin(stdin)
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let input = child.stdin.take().zip(input);
        Ok(Self { child, group, input, output, said: Vec::new() })
    }

    /// Waits for the end. Meanwhile writes the input, which nobody need read, and reads the
    /// output, since a program that nobody reads stops. What the program itself left running
    /// isn't waited for.
    pub(crate) async fn end(&mut self) -> io::Result<ExitStatus> {
        let Self { child, input, output, said, .. } = self;
        let mut chunk = [0; 1024];
        let talk = async {
            let write = async {
                if let Some((mut input, words)) = input.take() {
                    // Not to want to know is no failure.
                    let _ = input.write_all(&words).await;
                }
            };
            let read = async {
                while let Ok(length @ 1..) = output.read(&mut chunk).await {
                    keep(said, &chunk[..length]);
                }
            };
            tokio::join!(write, read);
            std::future::pending::<()>().await
        };
        let status = tokio::select! {
            status = child.wait() => status,
            () = talk => unreachable!("it is pending for ever"),
        };
        // Reaped: its number may be another's by now.
        self.group = None;
        while self.said.len() < OUTPUT_MAX
            && let Ok(length @ 1..) = self.output.try_read(&mut chunk)
        {
            keep(&mut self.said, &chunk[..length]);
        }
        status
    }

    /// Kills it and all that it started.
    pub(crate) async fn kill(&mut self) {
        self.kill_group();
        // One that the kernel holds is left to the runtime, which reaps it when it can.
        let _ = timeout(ENDING, self.child.wait()).await;
    }

    /// The first bytes of its output.
    pub(crate) fn said(&self) -> &[u8] {
        &self.said
    }

    fn kill_group(&mut self) {
        // Not reaped yet, so its number is nobody else's.
        if let Some(group) = self.group.take().filter(|_| self.child.id().is_some()) {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    let room = OUTPUT_MAX.saturating_sub(said.len());
    said.extend_from_slice(&more[..more.len().min(room)]);
}

/// How a program ended: `exit status 3`, `killed by signal 9`.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => status.to_string(),
    }
}

/// Why a program can't be started, and what would mend it where that is known.
pub(crate) fn why_not(program: &str, error: &io::Error) -> String {
    let path = Path::new(program);
    let there = path.metadata().ok();
    let hint = match (error.raw_os_error(), there) {
        (Some(libc::ENOENT), Some(_)) => ": the interpreter in its first line isn't there",
        (Some(libc::ENOEXEC), _) => ": a script begins with a line such as #!/bin/sh",
        (Some(libc::EACCES), Some(there)) if there.is_dir() => ": it is a directory",
        (Some(libc::EACCES), Some(there)) if there.permissions().mode() & 0o111 == 0 => {
            return format!("{error}: chmod +x {program}");
        }
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Writes a file, and tells why it can't be run.
    fn refused(name: &str, text: &str, mode: u32) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let path = path.to_str().unwrap();
        let error = std::process::Command::new(path).spawn().expect_err("it runs");
        why_not(path, &error).replace(path, "IT")
    }

    #[test]
    fn what_cannot_run_is_told_with_what_mends_it() {
        let interpreter = refused("a", "#!/no/such/shell\n", 0o755);
        assert!(interpreter.ends_with("the interpreter in its first line isn't there"));
        assert!(refused("b", "#!/bin/sh\n", 0o644).ends_with("chmod +x IT"));
        assert!(refused("c", "\u{1}\u{2}\n", 0o755).contains("#!/bin/sh"));
        let error = std::process::Command::new("/no/such").spawn().expect_err("it runs");
        assert_eq!(why_not("/no/such", &error), error.to_string());
    }

    /// What a program left running writes without an end.
    #[tokio::test]
    async fn a_flood_of_output_does_not_hide_the_end() {
        let mut command = Command::new("/bin/sh");
        // It ends by itself once nobody reads.
        command.args(["-c", "yes & exit 3"]);
        let mut running = Running::start(command, None).unwrap();
        let status = timeout(Duration::from_secs(20), running.end()).await.unwrap().unwrap();
        assert_eq!(ending(status), "exit status 3");
        assert!(running.said().len() <= OUTPUT_MAX);
    }
}
