//! The thread that owns the programs on devices.
//!
//! In: what happens to devices. Out: programs on them, at once: a pod's first packet may come milliseconds after its device. The thread is
//! there because a round of the control path may take far longer than that.

use std::{thread, time::Duration};

use anyhow::{Context as _, Error, Result, anyhow};
use tokio::{
    runtime::{self, Runtime},
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};

use super::{
    attach::Attacher,
    exchange::{Exchange, Exchanger},
    load::Options,
};
use crate::{maps::Pins, net::DeviceEvent};

/// How often a device that could not be served is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How often devices are checked for what somebody else may have taken off them.
const RESTORE_EVERY: Duration = Duration::from_secs(30);

/// What is heard of the thread.
pub struct Serving {
    listed: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Error>,
    exchanges: mpsc::UnboundedSender<Exchange>,
}

impl Serving {
    /// Waits until the devices that were there at the start have been served.
    pub async fn listed(&mut self) -> Result<()> {
        match (&mut self.listed).await {
            Ok(()) => Ok(()),
            // It ended before.
            Err(_) => Err(self.ended().await),
        }
    }

    /// What exchanges programs, which were loaded with these options.
    pub fn exchanger(&self, pins: Pins, options: Options) -> Exchanger {
        Exchanger::new(pins, options, self.exchanges.clone())
    }

    /// Waits for the end of the thread and yields its reason.
    pub async fn ended(&mut self) -> Error {
        (&mut self.ended).await.unwrap_or_else(|_| anyhow!("the thread that serves devices has panicked"))
    }
}

/// Starts the thread. It serves the network namespace of the calling one.
pub fn serve(attacher: Attacher, events: mpsc::UnboundedReceiver<DeviceEvent>) -> Result<Serving> {
    serve_and_restore(attacher, events, RESTORE_EVERY)
}

/// The same, where devices are checked so often.
pub(super) fn serve_and_restore(
    attacher: Attacher,
    events: mpsc::UnboundedReceiver<DeviceEvent>,
    restore_every: Duration,
) -> Result<Serving> {
    let starting = "starting the thread that serves devices";
    let runtime = runtime::Builder::new_current_thread().enable_time().build().context(starting)?;
    let (listed_tx, listed) = oneshot::channel();
    let (ended_tx, ended) = oneshot::channel();
    let (exchanges, exchanges_rx) = mpsc::unbounded_channel();
    let orders = Orders { events, exchanges: exchanges_rx };
    let work = move || {
        let error = run(&runtime, attacher, orders, listed_tx, restore_every);
        // Whoever would want to know may have ended.
        drop(ended_tx.send(error));
    };
    thread::Builder::new().name("shunt-devices".to_owned()).spawn(work).context(starting)?;
    Ok(Serving { listed, ended, exchanges })
}

/// What others want of the thread.
struct Orders {
    events: mpsc::UnboundedReceiver<DeviceEvent>,
    exchanges: mpsc::UnboundedReceiver<Exchange>,
}

/// What there is to do.
enum Work {
    Event(DeviceEvent),
    Exchange(Exchange),
    Retry,
    Restore,
    Nothing,
}

/// Works until no event can come any more. The work itself is done outside of the runtime, for it blocks.
fn run(runtime: &Runtime, mut attacher: Attacher, mut orders: Orders, listed: oneshot::Sender<()>, restore_every: Duration) -> Error {
    let mut listed = Some(listed);
    let (mut retries, mut restores) = {
        let _context = runtime.enter();
        (time::interval(RETRY_EVERY), time::interval(restore_every))
    };
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    restores.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let work = runtime.block_on(async {
            tokio::select! {
                biased;
                event = orders.events.recv() => event.map_or(Work::Nothing, Work::Event),
                Some(exchange) = orders.exchanges.recv() => Work::Exchange(exchange),
                _ = retries.tick(), if attacher.is_waiting() => Work::Retry,
                _ = restores.tick() => Work::Restore,
            }
        });
        match work {
            Work::Event(event) => {
                attacher.serve(&event);
                if matches!(event, DeviceEvent::Listed)
                    && let Some(listed) = listed.take()
                {
                    // As above.
                    listed.send(()).ok();
                }
            }
            Work::Exchange(exchange) => {
                let waiting = attacher.exchange(exchange.datapath);
                // As above.
                exchange.done.send(waiting).ok();
            }
            Work::Retry => attacher.retry(),
            Work::Restore => attacher.restore(),
            Work::Nothing => return anyhow!("the network is not followed any more"),
        }
    }
}
