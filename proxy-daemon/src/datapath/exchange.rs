//! Exchanges the programs of a running daemon: for those that log what they decide, and back.
//!
//! The kernel verifies the new ones while the old ones serve. Then each hook's program is exchanged by one update, so that every packet meets
//! the one or the other; both have the same maps.

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::load::{Datapath, Options, reload};
use crate::maps::Pins;

/// Programs for the thread that serves devices.
pub(super) struct Exchange {
    pub datapath: Datapath,
    /// Takes how many devices still have the old ones.
    pub done: oneshot::Sender<Result<usize>>,
}

/// Exchanges programs.
pub struct Exchanger {
    pins: Pins,
    options: Options,
    exchanges: mpsc::UnboundedSender<Exchange>,
}

impl Exchanger {
    pub(super) fn new(pins: Pins, options: Options, exchanges: mpsc::UnboundedSender<Exchange>) -> Self {
        Self { pins, options, exchanges }
    }

    /// Has the programs log what they decide, or not. Yields false where that is so already.
    pub async fn set_log(&mut self, on: bool) -> Result<bool> {
        if self.options.bpf_log == on {
            return Ok(false);
        }
        let options = Options { bpf_log: on, ..self.options };
        let pins = self.pins.clone();
        let mut datapath = task::spawn_blocking(move || reload(&pins, options)).await.context("loading programs")??;
        datapath.print_log()?;
        let (done, waiting) = oneshot::channel();
        // Where nobody takes it, there is no answer either.
        drop(self.exchanges.send(Exchange { datapath, done }));
        let answer = waiting.await.context("devices are not served any more")?;
        // Whatever the answer: these are what devices get from now on.
        self.options = options;
        let waiting = answer?;
        if waiting > 0 {
            bail!("{waiting} devices do not have the new programs yet: the log says why");
        }
        Ok(true)
    }
}
