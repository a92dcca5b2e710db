//! What a command needs from the user: standard input, and a confirmation. Both come from the process that the
//! user started.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::OnceLock;

use crate::failure::{Exit, Failure, rejected};
use crate::place::NotebookPlace;
use crate::term;

/// The standard input that this process has read.
static INPUT: OnceLock<String> = OnceLock::new();

/// What this process has read from standard input.
pub(crate) fn input_read() -> Option<String> {
    INPUT.get().cloned()
}

/// Reads standard input once, in the process that the user started.
pub(crate) fn input(
    place: &NotebookPlace,
    read: impl FnOnce() -> Result<String, Failure>,
) -> Result<String, Failure> {
    if let Some(hosted) = &place.hosted {
        let input = hosted.request.input.clone();
        return input.ok_or_else(|| rejected("the request contains no standard input"));
    }
    if INPUT.get().is_none() {
        // Commands run one after the other, so no other thread sets it.
        let _ = INPUT.set(read()?);
    }
    Ok(INPUT.get().cloned().unwrap_or_default())
}

/// Asks the user at the terminal. Without a terminal, only `--yes` confirms.
pub(crate) fn confirm(
    place: &NotebookPlace,
    question: &str,
    yes: bool,
    otherwise: &str,
) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if let Some(hosted) = &place.hosted {
        return if hosted.is_confirmed() { Ok(()) } else { Err(Failure::ask(question)) };
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = "this is permanent, and there is no terminal for the prompt";
        return Err(Failure::new(Exit::Usage, otherwise, why, "give --yes to confirm"));
    }
    let mut answer = String::new();
    let question = term::harmless(question);
    let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush());
    // A terminal that cannot be written or read has not confirmed.
    let read = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    match read.is_ok() && is_yes(&answer) {
        true => Ok(()),
        false => {
            Err(Failure::new(Exit::Other, otherwise, "the answer was no", "answer `y` to confirm"))
        }
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_y_and_yes_confirm() {
        assert!(["y\n", "Y", " yes ", "YES\r\n"].into_iter().all(is_yes));
        assert!(["", "\n", "n", "yep", "no, yes"].into_iter().all(|answer| !is_yes(answer)));
    }
}
