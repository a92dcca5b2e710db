//! The options that all commands share: which notebook, and where it syncs.

use std::path::PathBuf;

use clap::Args;
use landfall::LinkOptions;

use crate::failure::{Exit, Failure};
use crate::request::{Draft, Hosted};
use crate::token::TokenSource;

/// Which notebook, and where it syncs.
#[derive(Debug, Clone, Args)]
pub(crate) struct NotebookPlace {
    /// The notebook's file; created if absent
    #[arg(
        long,
        global = true,
        env = "LANDFALL_STORE",
        default_value = "./notes.landfall",
        value_name = "FILE"
    )]
    pub(crate) store: PathBuf,
    /// The relay to sync with [default: ws://127.0.0.1:7600] [env: LANDFALL_RELAY=]
    // Read from the environment by hand: `replay` needs to know whether it was given here.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) relay: Option<String>,
    #[command(flatten)]
    pub(crate) token: TokenSource,
    /// The space that the notes are in [default: that of the relay's URL, or `default`]
    #[arg(long = "space", global = true, env = "LANDFALL_SPACE", value_name = "NAME")]
    pub(crate) given_space: Option<String>,
    /// The space in use: see [`NotebookPlace::settle`].
    #[arg(skip)]
    pub(crate) space: String,
    /// Set while the command is performed for another process.
    #[arg(skip)]
    pub(crate) hosted: Option<Hosted>,
    /// The text that the user has edited already.
    #[arg(skip)]
    pub(crate) draft: Option<Draft>,
    /// Do not try to reach the relay
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Write results and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

const RELAY_DEFAULT: &str = "ws://127.0.0.1:7600";

/// The space if neither an option nor a URL names one.
const SPACE_DEFAULT: &str = "default";

impl NotebookPlace {
    /// Determines the space: the option's, or the one in the relay's URL (`ws://host/spaces/NAME`, as for a
    /// browser's client). Fails if both are given and differ.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        let url = self.relay_url();
        // The command that needs the relay reports an invalid URL.
        let of_url = LinkOptions::new(url.as_str()).space().ok().flatten();
        self.space = match (&self.given_space, of_url) {
            (Some(given), Some(named)) if *given != named.to_string() => {
                let why = format!("`{url}` names the space `{named}`, --space names `{given}`");
                let remedy = "give only one of them";
                return Err(Failure::new(
                    Exit::Usage,
                    "two different spaces are given",
                    why,
                    remedy,
                ));
            }
            (Some(given), _) => given.clone(),
            (None, Some(named)) => named.to_string(),
            (None, None) => SPACE_DEFAULT.to_owned(),
        };
        Ok(())
    }

    /// The relay's URL: from the command line, the environment, or the default.
    pub(crate) fn relay_url(&self) -> String {
        self.given_relay().unwrap_or_else(|| RELAY_DEFAULT.to_owned())
    }

    /// How a relay at this URL is reached.
    pub(crate) fn link_options(&self, url: impl Into<String>) -> LinkOptions {
        let mut options = LinkOptions::new(url);
        options.token = self.token.provider();
        options
    }

    /// The URL that the user gave.
    pub(crate) fn given_relay(&self) -> Option<String> {
        let from_environment =
            || std::env::var("LANDFALL_RELAY").ok().filter(|url| !url.is_empty());
        self.relay.clone().or_else(from_environment)
    }
}
