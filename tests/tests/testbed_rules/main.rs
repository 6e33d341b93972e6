//! What a Service's fields say of who is served by whom, with real sockets, and for whom the node stands in.

#[cfg(test)]
mod scene;

#[cfg(test)]
mod fields;
#[cfg(test)]
mod one_port;
#[cfg(test)]
mod stand_in;
