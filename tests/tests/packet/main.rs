//! Single frames through the real programs: verdicts, bytes, flow entries and counters. Needs root; nothing is attached to any device.

#[cfg(test)]
mod expect;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod noise;

#[cfg(test)]
mod affinity;
#[cfg(test)]
mod closing;
#[cfg(test)]
mod collisions;
#[cfg(test)]
mod early;
#[cfg(test)]
mod expiring;
#[cfg(test)]
mod filter;
#[cfg(test)]
mod fragments;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod hammer;
#[cfg(test)]
mod healing;
#[cfg(test)]
mod icmp;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod masquerade;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod no_ethernet;
#[cfg(test)]
mod own;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod sctp;
#[cfg(test)]
mod source_ranges;
#[cfg(test)]
mod spread;
#[cfg(test)]
mod table;
#[cfg(test)]
mod undefined;
