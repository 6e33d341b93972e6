//! The testbed: a cluster's network on one machine, and what tests need around it.
//!
//! [`Testbed`] makes nodes, pods and a client outside as network namespaces, [`Daemon`] runs the real `shunt` on a
//! node, [`traffic`] sends real packets between them, [`objects`] and [`Manifests`] say which Services there are, and
//! [`ControlPlane`] says so as a real API server. [`demo`] shows all of it to people.
//! All of it is named after the process that made it, removed when dropped, and swept by the next process after a
//! crash ([`leftovers`]).
//!
//! [`packet`] builds single frames, [`rows`] is a table of them with what must become of each, [`tracer`] says so from a plan,
//! and [`test_run`] runs the real programs on them. [`bench`] measures what they cost, [`verifier`] what it takes to verify them.
//!
//! [`cluster`] is a real cluster, with kubelets and containers, and outlives the command that starts it.
//!
//! What depends on the machine gives an error; what only a wrong test can cause panics.

pub mod addr;
pub mod bench;
mod cache;
mod cases;
pub mod cluster;
mod cni;
pub mod control_plane;
pub mod cpus;
pub mod daemon;
pub mod demo;
pub mod gate;
mod host;
pub mod leftovers;
mod manifests;
mod name;
mod netns;
mod node;
pub mod objects;
pub mod packet;
mod pod;
mod process;
mod project;
pub mod rows;
mod scratch;
pub mod tcx;
pub mod test_run;
mod testbed;
pub mod tracer;
pub mod traffic;
mod underlay;
pub mod verifier;
pub mod wait;

pub use self::{
    addr::{Addrs, Family},
    cases::Cases,
    cni::Cni,
    control_plane::ControlPlane,
    daemon::Daemon,
    host::Host,
    manifests::Manifests,
    netns::Netns,
    node::{HostNetworkPod, Node},
    pod::Pod,
    process::Process,
    testbed::{Builder, Client, Testbed},
};
