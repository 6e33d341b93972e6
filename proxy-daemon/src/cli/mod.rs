//! The subcommands other than `run`: they read what is pinned, and work while no daemon runs.
//!
//! In: the folder of the pins and what to show. Out: data on standard output, as a table or with the stable field names that
//! docs/cli.md lists. Only `cleanup` changes anything.

mod attachments;
mod counters;
mod dump;
mod features;
mod fields;
mod flows;
pub mod output;
mod state;
mod status;
mod views;

use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;
use proxy_common::maps;

use self::{
    attachments::DeviceView,
    counters::Counters,
    features::KernelView,
    flows::{Clock, FlowView},
    state::State,
    status::Status,
};
use crate::{
    args::{Format, MapCommand, ProgCommand, ShowArgs, Shown},
    datapath,
    maps::{KernelMaps, Maps as _, Pins},
};

/// `shunt show`.
pub fn show(pins: &Pins, args: &ShowArgs) -> Result<()> {
    something_is_pinned(pins)?;
    let format = args.output;
    if args.what == Shown::Devices {
        return output::print(&attachments::devices(pins)?, format);
    }
    let kernel = KernelMaps::open(pins)?;
    let state = State::from(kernel.snapshot()?);
    match args.what {
        Shown::Services => output::print(&views::services(&state), format),
        Shown::Frontends => output::print(&views::frontends(&state), format),
        Shown::Backends => output::print(&views::backends(&state), format),
        Shown::Flows => output::print(&flows(pins, &kernel, &state)?, format),
        Shown::Counters => {
            let service = |id| Ok(kernel.service_counters(id)?);
            output::print(&Counters::new(&state, &kernel.reasons()?, service)?, format)
        }
        Shown::Devices | Shown::Status => {
            let attachments = attachments::devices(pins)?.iter().map(DeviceView::attachments).sum();
            output::print(&Status::read(pins, &kernel, &state, attachments)?, format)
        }
    }
}

fn flows(pins: &Pins, kernel: &KernelMaps, state: &State) -> Result<Vec<FlowView>> {
    let clock = clock(pins, kernel).inspect_err(|error| tracing::debug!("the kernel's clock is not known: {error:#}")).ok();
    let v4 = kernel.flows4.entries()?.into_iter().map(|(key, flow)| FlowView::new(state, clock, &key, &flow));
    let v6 = kernel.flows6.entries()?.into_iter().map(|(key, flow)| FlowView::new(state, clock, &key, &flow));
    let mut flows: Vec<FlowView> = v4.chain(v6).collect();
    flows.sort();
    Ok(flows)
}

fn clock(pins: &Pins, kernel: &KernelMaps) -> Result<Clock> {
    let now = datapath::Clock::open(&pins.programs())?.now()?;
    Ok(Clock { now, hz: kernel.node()?.hz })
}

/// `shunt map`.
pub fn map(pins: &Pins, command: &MapCommand) -> Result<()> {
    something_is_pinned(pins)?;
    match command {
        MapCommand::List { output } => output::print(&dump::maps(pins)?, *output),
        MapCommand::Dump { name, output } => dump::dump(pins, name, *output),
    }
}

/// `shunt prog`.
pub fn prog(pins: &Pins, command: &ProgCommand) -> Result<()> {
    something_is_pinned(pins)?;
    let ProgCommand::List { output } = command;
    output::print(&attachments::programs(pins)?, *output)
}

/// `shunt cleanup`: takes away all that is ours in this network namespace and below the folder of the pins. That nothing is there
/// is no failure; that a daemon uses it is one, and then all of it stays.
pub fn cleanup(pins: &Pins) -> Result<()> {
    let _claim = datapath::claim_at_once(pins)?;
    let freed = datapath::remove_all(pins).with_context(|| format!("cleaning up {}", pins.root().display()))?;
    tracing::info!(bpffs = %pins.root().display(), hooks = freed, "removed programs and maps");
    Ok(())
}

/// `shunt version`, and the version of the pinned types it reads.
pub fn version() -> String {
    format!("shunt {} (layout {})", env!("CARGO_PKG_VERSION"), maps::LAYOUT_VERSION)
}

/// `shunt version --features`.
pub fn features(format: Format) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("not running as root: only root may find out what the kernel has");
    }
    output::print(&KernelView::of_this_kernel()?, format)
}

/// Says once and clearly why there is nothing to show.
fn something_is_pinned(pins: &Pins) -> Result<()> {
    let root = pins.root().display();
    match fs::metadata(pins.maps().join(maps::NODE)) {
        Ok(_) if Uid::effective().is_root() => return Ok(()),
        Ok(_) => bail!("not running as root: only root may read what is pinned under {root}"),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(|| format!("reading {root}")),
        Err(_) => {}
    }
    let ours = format!("v{}", maps::LAYOUT_VERSION);
    let versions = pins.versions().unwrap_or_default();
    let versions = versions.iter().filter_map(|dir| dir.file_name()?.to_str()).filter(|name| *name != ours).collect::<Vec<_>>();
    if versions.is_empty() {
        bail!("nothing is pinned under {root}: is shunt running on this node? (--bpffs names another folder)");
    }
    bail!("what is pinned under {root} ({}) is of another version of shunt, this one reads {ours}", versions.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn that_nothing_is_pinned_is_said_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("shunt"));
        let expected = format!("nothing is pinned under {}: is shunt running on this node?", pins.root().display());
        let output = Format::Table;
        for result in [
            show(&pins, &ShowArgs { what: Shown::Status, output }),
            show(&pins, &ShowArgs { what: Shown::Devices, output }),
            map(&pins, &MapCommand::List { output }),
            map(&pins, &MapCommand::Dump { name: maps::NODE.to_owned(), output }),
            prog(&pins, &ProgCommand::List { output }),
        ] {
            assert!(result.unwrap_err().to_string().starts_with(&expected));
        }
    }

    #[test]
    fn the_state_of_another_version_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("v0")).unwrap();
        let error = map(&Pins::new(dir.path().to_owned()), &MapCommand::List { output: Format::Json }).unwrap_err();
        assert!(error.to_string().contains("(v0) is of another version"), "{error}");
    }

    #[test]
    fn cleaning_up_nothing_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        cleanup(&Pins::new(dir.path().join("shunt"))).unwrap();
    }
}
