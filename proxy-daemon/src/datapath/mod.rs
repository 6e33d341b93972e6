//! The programs: loading them with their maps, and attaching them to devices. The only user of programs and links.
//!
//! In: the embedded object, sizes and seeds, and which devices there are. Out: programs on devices, pinned so that they go on without the
//! daemon.

mod attach;
mod btf;
mod cgroup;
mod cgroup_link;
mod checksum;
mod claim;
mod clock;
mod exchange;
mod hook;
mod load;
mod namespace;
#[cfg(test)]
mod namespace_tests;
mod prepare;
mod probe;
mod remove;
mod serve;
mod sockets;
mod xdp;

pub use self::{
    attach::Attacher,
    cgroup::root_cgroup,
    checksum::Checksums,
    claim::{Claim, claim, claim_at_once},
    clock::{Clock, jiffies_per_second},
    exchange::Exchanger,
    load::{Datapath, Options, Programs, load},
    namespace::netns_cookie,
    prepare::{PrepareError, leaves_outer_headers, make_folders, mount_all, prepare},
    probe::{Feature, features},
    remove::{remove_all, remove_other_versions},
    serve::{Serving, serve},
    sockets::Hooks,
};
