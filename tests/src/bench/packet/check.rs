//! Whether a packet is what must have become of it: a figure for anything else would be the figure of another path.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::driver::{PORT_BITS, PORT_SHIFT};
use crate::packet::{Packet, verify_checksums};

const ETHERNET: usize = 14;

/// Compares a frame with what a packet of the flow 0 must have become, apart from which flow it is of, and verifies its checksums.
///
/// The driver writes the number of the flow into the client's address and port and leaves the checksums alone: taken away again, everything
/// has to hold.
pub(super) fn check(frame: &[u8], flow: u32, expected: &Packet, is_to_client: bool) -> Result<()> {
    let expected_frame = expected.build();
    ensure!(frame.len() >= expected_frame.len(), "the frame has {} bytes and not {}", frame.len(), expected_frame.len());
    // XDP may have left a note for tc before the frame, which comes along.
    let mut frame = frame[frame.len() - expected_frame.len()..].to_vec();
    let found = Packet::decode(&frame).context("the frame cannot be read")?;
    let client = |packet: &Packet| if is_to_client { packet.dst } else { packet.src };
    let wanted = of_flow(client(expected), flow);
    ensure!(client(&found) == wanted, "the client is {} and not {wanted}: {found:?}", client(&found));
    set_client(&mut frame, client(expected), is_to_client);
    verify_checksums(&frame)?;
    let found = Packet::decode(&frame)?;
    ensure!(found == *expected, "the packet is {found:?}\nand not {expected:?}");
    Ok(())
}

/// The client of a flow, from that of the flow 0.
fn of_flow(client: SocketAddr, flow: u32) -> SocketAddr {
    let high = flow >> PORT_SHIFT;
    let ip = match client.ip() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() | high).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() | u128::from(high)).into()),
    };
    let low = u16::try_from(flow & PORT_BITS).unwrap_or_default();
    SocketAddr::new(ip, client.port() | low)
}

/// Writes an address and a port into the headers, and nothing else.
fn set_client(frame: &mut [u8], client: SocketAddr, is_to_client: bool) {
    let (octets, addrs, ports) = match client.ip() {
        IpAddr::V4(ip) => (ip.octets().to_vec(), ETHERNET + 12, ETHERNET + 20),
        IpAddr::V6(ip) => (ip.octets().to_vec(), ETHERNET + 8, ETHERNET + 40),
    };
    let second = usize::from(is_to_client);
    let addr = addrs + second * octets.len();
    frame[addr..addr + octets.len()].copy_from_slice(&octets);
    let port = ports + second * 2;
    frame[port..port + 2].copy_from_slice(&client.port().to_be_bytes());
}
