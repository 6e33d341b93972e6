//! Follows the network from a thread of its own.
//!
//! In: netlink messages, the Node's `InternalIP`s. Out: events and addresses, as soon as the messages that are waiting have been
//! applied: within a millisecond or so of what happened, never by a poll. A full list is taken at the start, when messages were lost, when a
//! socket broke, and every 30 seconds for what the kernel does not report.
//!
//! The thread is there because netlink requests are served inside the system call, under a lock that may be held elsewhere for long.

use std::{collections::BTreeMap, net::IpAddr, thread, time::Duration};

use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    Error,
    addresses::LocalAddresses,
    classify::{Classifier, Rules},
    devices::{Device, DeviceEvent, Reporter},
    message::{Change, Link},
    socket::{self, Asker, Listener},
    table::Table,
};

const FULL_LIST_EVERY: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// What is told of the network. Following ends when `devices` is dropped.
#[derive(Debug)]
pub struct Network {
    pub devices: mpsc::UnboundedReceiver<DeviceEvent>,
    pub addresses: watch::Receiver<LocalAddresses>,
}

/// Starts to follow the network namespace of the calling thread. When this returns the first full list has been taken: its events wait in
/// `devices`, followed by [`DeviceEvent::Listed`], and `addresses` is complete.
pub async fn follow(rules: Rules, node_ips: watch::Receiver<Vec<IpAddr>>) -> Result<Network, Error> {
    let (events, devices) = mpsc::unbounded_channel();
    let (addresses_tx, addresses) = watch::channel(LocalAddresses::default());
    let (started_tx, started) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let follower = Follower {
        rules,
        node_ips,
        table: Table::default(),
        reporter: Reporter::default(),
        events,
        addresses: addresses_tx,
        started: Some(started_tx),
    };
    let work = move || runtime.block_on(follower.run());
    thread::Builder::new().name("shunt-net".to_owned()).spawn(work).map_err(Error::Thread)?;
    // The sender goes without a word only if the thread panicked.
    started.await.unwrap_or(Err(Error::Broken))?;
    Ok(Network { devices, addresses })
}

/// Owns the table; lives on the network thread.
struct Follower {
    rules: Rules,
    node_ips: watch::Receiver<Vec<IpAddr>>,
    table: Table,
    reporter: Reporter,
    events: mpsc::UnboundedSender<DeviceEvent>,
    addresses: watch::Sender<LocalAddresses>,
    /// Waits for the first full list; there until that was taken.
    started: Option<oneshot::Sender<Result<(), Error>>>,
}

/// The consumer has gone.
struct Finished;

impl Follower {
    async fn run(mut self) {
        let mut wait = RETRY_FIRST;
        loop {
            let since = Instant::now();
            let error = match self.session().await {
                Ok(Finished) => return,
                Err(error) => error,
            };
            if let Some(started) = self.started.take() {
                // The receiver may have been cancelled, and then nobody wants to know.
                drop(started.send(Err(error)));
                return;
            }
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow the network, trying again");
            if since.elapsed() > RETRY_MOST {
                wait = RETRY_FIRST;
            }
            tokio::select! {
                () = time::sleep(wait) => wait = (wait * 2).min(RETRY_MOST),
                () = self.events.closed() => return,
            }
        }
    }

    /// One life of the sockets.
    async fn session(&mut self) -> Result<Finished, Error> {
        let mut listener = Listener::open(socket::RECEIVE_BUFFER)?;
        let asker = Asker::open()?;
        let mut full_list = time::interval(FULL_LIST_EVERY);
        full_list.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Kept apart from the receiver in `self`, which is read while this one waits.
        let mut node_ips = self.node_ips.clone();
        // Before anything is told: from messages alone nobody knows what else is there. At the start twice, since one list may leave something out
        // (`add_overlooked`), and what is not told of then loses its programs.
        if self.started.is_some() {
            self.table.replace(asker.list(&self.rules).await?);
        }
        let mut lost = true;
        loop {
            if lost {
                let mut fresh = asker.list(&self.rules).await?;
                add_overlooked(&mut fresh, &self.table, &asker).await?;
                self.table.replace(fresh);
                full_list.reset();
            }
            self.ask_about_pairs(&asker).await?;
            self.publish();
            lost = tokio::select! {
                () = self.events.closed() => return Ok(Finished),
                changes = listener.changes() => self.apply(changes?),
                Ok(()) = node_ips.changed() => false,
                _ = full_list.tick() => true,
            };
        }
    }

    /// Whether messages are missing.
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        let mut lost = false;
        for change in changes {
            lost |= change == Change::Lost;
            if self.rules.are_concerned_by(&change) {
                self.table.apply(change);
            }
        }
        lost
    }

    async fn ask_about_pairs(&mut self, asker: &Asker) -> Result<(), Error> {
        for ifindex in self.table.take_unpaired() {
            if let Some(link) = asker.link(ifindex).await? {
                self.table.apply(Change::Link(link));
            }
        }
        // A pair that is still unfinished is reported again when it is finished.
        self.table.take_unpaired();
        Ok(())
    }

    fn publish(&mut self) {
        let node_ips = self.node_ips.borrow_and_update().clone();
        let classifier = Classifier::new(&self.rules, &node_ips, &self.table);
        let device = |link: &Link| Some((link.ifindex, Device::new(link, classifier.role(link)?)));
        let devices: BTreeMap<u32, Device> = self.table.links().filter_map(device).collect();
        let addresses = LocalAddresses::new(&self.table, &classifier, &node_ips);
        self.addresses.send_if_modified(|current| {
            let modified = *current != addresses;
            *current = addresses;
            modified
        });
        for event in self.reporter.update(devices, &self.table.take_vanished()) {
            self.report(event);
        }
        if let Some(started) = self.started.take() {
            self.report(DeviceEvent::Listed);
            drop(started.send(Ok(())));
        }
    }

    fn report(&self, event: DeviceEvent) {
        // An error means that the consumer has gone, which `session` notices.
        drop(self.events.send(event));
    }
}

/// Adds to a full list the devices that were known and are not in it but are there. While devices come and go the kernel may leave others
/// out, and a device must not lose its programs by that.
pub(super) async fn add_overlooked(fresh: &mut Table, known: &Table, asker: &Asker) -> Result<(), Error> {
    for ifindex in known.links_not_in(fresh) {
        if let Some(link) = asker.link(ifindex).await? {
            fresh.apply(Change::Link(link));
        }
    }
    Ok(())
}
