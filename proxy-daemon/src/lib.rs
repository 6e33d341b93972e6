//! Shunt's daemon: from API objects to rows of BPF maps, one module a step, in the order in which a change passes them.

pub mod args;
pub mod config;
pub mod logging;
pub mod source;

pub mod model;
pub mod net;
pub mod plan;
pub mod tables;

pub mod maps;

pub mod conntrack;
pub mod datapath;
pub mod expiry;
pub mod filter;
pub mod fullness;
pub mod orphans;
pub mod reconcile;
pub mod senders;
pub mod taken;
pub mod walk;

pub mod admin;
pub mod control;
pub mod health;
pub mod http;
pub mod metrics;
pub mod report;
pub mod run;
pub mod telemetry;

pub mod cli;
