//! The token for a relay that requires one: read from a file, or printed by a command, before each
//! connection attempt.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use landfall::{Token, TokenError, TokenProvider};
use thiserror::Error;
use tokio::sync::oneshot;

/// The most bytes of a file or of a command's output: as many as a token may have, and a line's end.
const OUTPUT_BYTES: u64 = 16 * 1024 + 2;

/// How often it is checked whether the command has ended, after it has closed its output.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// The source of the token.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TokenSource {
    /// Read the token for the relay from this file, before each connection attempt
    #[arg(
        long,
        global = true,
        env = "LANDFALL_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token_command"
    )]
    token_file: Option<PathBuf>,
    /// Run this command before each connection attempt: it prints the token, within 10 s
    #[arg(long, global = true, env = "LANDFALL_TOKEN_COMMAND", value_name = "CMD")]
    token_command: Option<String>,
}

impl TokenSource {
    /// The provider, if a source is given.
    pub(crate) fn provider(&self) -> Option<TokenProvider> {
        if let Some(command) = self.token_command.clone() {
            return Some(TokenProvider::new(move || {
                let command = command.clone();
                async move { printed(&command).await.map(Token::new).map_err(TokenError::failed) }
            }));
        }
        let file = self.token_file.clone()?;
        Some(TokenProvider::new(move || {
            let token = read(&file);
            async move { token.map(Token::new).map_err(TokenError::failed) }
        }))
    }
}

/// Why there is no token. No message contains what was read.
#[derive(Debug, Error)]
enum NoToken {
    #[error("the token file {} cannot be read: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the token file {} {what}", path.display())]
    BadFile { path: PathBuf, what: &'static str },
    #[error("the token command cannot be run: {0}")]
    Command(#[from] io::Error),
    #[error("the token command failed ({0})")]
    Failed(ExitStatus),
    #[error("the token command's output {0}")]
    BadOutput(&'static str),
}

fn read(path: &Path) -> Result<Vec<u8>, NoToken> {
    let failed = |source| NoToken::File { path: path.to_owned(), source };
    let bytes = File::open(path).and_then(bounded).map_err(failed)?;
    trimmed(&bytes).map_err(|what| NoToken::BadFile { path: path.to_owned(), what })
}

/// Reads at most one byte more than allowed.
fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(OUTPUT_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn trimmed(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    if bytes.len() as u64 > OUTPUT_BYTES {
        return Err("is longer than a token may be (16 KiB)");
    }
    match bytes.trim_ascii() {
        [] => Err("is empty"),
        token => Ok(token.to_owned()),
    }
}

/// A running command, killed when its caller stops waiting.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn printed(command: &str) -> Result<Vec<u8>, NoToken> {
    let (stdin, stdout) = (Stdio::null(), Stdio::piped());
    let mut running = Running(shell(command).stdin(stdin).stdout(stdout).spawn()?);
    let (give, read) = oneshot::channel();
    if let Some(output) = running.0.stdout.take() {
        // On a thread, because a pipe has no deadline. It ends with the command, which closes the pipe.
        thread::spawn(move || give.send(bounded(output)));
    }
    let bytes = read.await.map_err(io::Error::other)??;
    // A command that prints without end does not end by itself.
    let token = trimmed(&bytes).map_err(NoToken::BadOutput);
    if bytes.len() as u64 > OUTPUT_BYTES {
        return token;
    }
    loop {
        match running.0.try_wait()? {
            Some(status) if status.success() => return token,
            Some(status) => return Err(NoToken::Failed(status)),
            None => tokio::time::sleep(CHECK_EVERY).await,
        }
    }
}

fn shell(command: &str) -> Command {
    let (program, option) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut shell = Command::new(program);
    shell.args([option, command]);
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let printed = runtime.block_on(printed(command));
        printed.map(|token| String::from_utf8(token).unwrap()).map_err(|error| error.to_string())
    }

    #[cfg(unix)]
    #[test]
    fn a_command_prints_the_token() {
        assert_eq!(run("echo '  secret '"), Ok("secret".to_owned()));
        assert_eq!(run("true"), Err("the token command's output is empty".to_owned()));
        let failed = run("echo secret; exit 3").unwrap_err();
        assert!(failed.contains("exit status: 3") && !failed.contains("secret"), "{failed}");
        let endless = run("while :; do echo secret; done").unwrap_err();
        assert!(endless.contains("longer") && !endless.contains("secret"), "{endless}");
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_nobody_waits_for_is_killed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = Duration::from_millis(100);
        // `exec`: the process itself, so that its end closes the pipe.
        let late = runtime.block_on(async {
            tokio::time::timeout(deadline, printed("exec sleep 3600")).await.is_err()
        });
        assert!(late, "and dropping it waits for the killed process");
    }

    #[test]
    fn a_file_holds_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        std::fs::write(&path, "secret\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), b"secret");
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        let long = read(&path).unwrap_err().to_string();
        assert!(long.contains("longer") && !long.contains("xx"), "{long}");
    }
}
