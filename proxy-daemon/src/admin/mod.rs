//! What an operator asks of the running daemon, over a local socket: a request and its answer, each one line of JSON.
//!
//! Everything else the command line shows it reads from the pinned maps, so that it works while no daemon runs.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{client::ask, server::serve};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Whether the programs are to log what they decide.
    Log {
        /// Whether they are.
        on: bool,
    },
}

/// What has been done, or why it could not be, each in a sentence.
type Answer = Result<String, String>;
