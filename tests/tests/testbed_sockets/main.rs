//! Sockets that get their backend when a process calls: the node's own processes reach every kind of frontend, and pods pay nothing for a packet.

#[cfg(test)]
mod scene;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod rules;
