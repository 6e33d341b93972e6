//! Forgets where sockets have sent datagrams that have been silent for too long.
//!
//! In: the sockets that were given a backend, and the kernel's clock. A socket that is connected keeps its entry until it is closed: a program
//! removes it then. One that sends datagrams to whom it likes may do so for years, and loses the entries of each peer after the time that connection
//! tracking has for a stream of datagrams: the next one chooses anew.

use std::time::Duration;

use bytemuck::Pod;
use proxy_common::{Family, SocketKey, SocketPeer};

use crate::maps::{Error, SocketTable};

/// As of flows.
const SILENCE: Duration = Duration::from_mins(2);

/// Removes the entries that nobody has sent by for too long, and shows all of them before. Yields how many there are, and how many of them were
/// removed.
pub fn forget<F: Family>(
    sockets: &mut SocketTable<F>,
    now: u32,
    hz: u32,
    mut see: impl FnMut(&SocketPeer<F>) -> Result<(), Error>,
) -> Result<(u64, u64), Error>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    let (mut entries, mut silent) = (0, Vec::new());
    sockets.walk(|key, peer| {
        entries += 1;
        if is_silent(peer, now, hz) {
            silent.push(*key);
        }
        see(peer)
    })?;
    let mut removed = 0;
    for key in silent {
        // One that has been used since stays.
        if sockets.get(&key).is_some_and(|peer| is_silent(&peer, now, hz)) {
            sockets.remove(&key)?;
            removed += 1;
        }
    }
    Ok((entries, removed))
}

fn is_silent<F: Family>(peer: &SocketPeer<F>, now: u32, hz: u32) -> bool {
    // An entry that was made since the clock was read seems to be from the future.
    let age = i64::from(now.wrapping_sub(peer.last_used).cast_signed());
    peer.connected == 0 && age >= i64::from(hz) * i64::try_from(SILENCE.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use proxy_common::V4;

    use super::*;

    #[test]
    fn who_is_connected_is_not_forgotten() {
        let (hz, silence) = (250, 120 * 250);
        let peer = |connected, last_used| SocketPeer::<V4> { connected, last_used, ..SocketPeer::zeroed() };
        for (connected, age, expected) in [(0, silence, true), (0, silence - 1, false), (0, -5, false), (1, silence, false)] {
            let now = 10_u32;
            let last_used = now.wrapping_sub_signed(age);
            assert_eq!(is_silent(&peer(connected, last_used), now, hz), expected, "{connected} {age}");
        }
    }
}
