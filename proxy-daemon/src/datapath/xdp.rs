//! The XDP program of an uplink: put there, exchanged, and taken off again. It is an addition: tc does all that it does.
//!
//! The link is pinned under a name with the mode, which the kernel cannot change for a link that is there.

use std::fs;

use anyhow::{Context as _, Result};
use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::hook::{errno, name};
use crate::{
    config,
    maps::{Pins, names_in},
};

/// The kernel's word for a mode; none for off.
const fn mode(wanted: config::Xdp) -> Option<XdpMode> {
    match wanted {
        config::Xdp::Off => None,
        config::Xdp::Generic => Some(XdpMode::Skb),
        config::Xdp::Native => Some(XdpMode::Driver),
    }
}

/// Attaches the program, or puts it in the place of the one of ours that is there. Says whether none was.
pub(super) fn put(program: &mut Xdp, pins: &Pins, ifindex: u32, wanted: config::Xdp) -> Result<bool> {
    let Some(mode) = mode(wanted) else { return Ok(false) };
    remove(pins, |of, its_mode| of == ifindex && its_mode != wanted.name())?;
    let pin = pins.xdp_link(ifindex, wanted.name());
    if let Ok(pinned) = PinnedLink::from_pin(&pin) {
        let link: XdpLink = FdLink::from(pinned).try_into().context("this is no XDP link")?;
        match program.attach_to_link(link).map_err(anyhow::Error::from) {
            Ok(id) => {
                // The pin keeps the link.
                drop(FdLink::try_from(program.take_link(id)?).context("taking an XDP link")?);
                return Ok(false);
            }
            // The kernel has severed it: its device has gone, or someone has detached it.
            Err(error) if errno(&error) == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error.context(format!("exchanging the program of {}", pin.display()))),
        }
        fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
    }
    let id = program.attach(&name(ifindex)?, mode)?;
    let link: FdLink = program.take_link(id)?.try_into().context("the kernel has no links for XDP")?;
    drop(link.pin(&pin).with_context(|| format!("pinning {}", pin.display()))?);
    Ok(true)
}

/// Whether an error says that the device has another program already.
pub(super) fn is_taken(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

/// Takes the program off the devices, and in the modes, that `which` picks.
pub(super) fn remove(pins: &Pins, which: impl Fn(u32, &str) -> bool) -> Result<()> {
    for name in names_in(&pins.links())? {
        if Pins::parse_xdp_link(&name).is_some_and(|(ifindex, mode)| which(ifindex, mode)) {
            let pin = pins.links().join(&name);
            fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
        }
    }
    Ok(())
}
