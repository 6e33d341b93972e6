//! Where the demo's Services are kept: in a real API server, or in a directory of manifests.
//!
//! Both know the same Services and pods. What differs is who makes the slices: the real controller out of pods that are
//! ready, or this program.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    control_plane::{ControlPlane, SliceWatch},
    daemon,
    host::Host as _,
    objects::{Endpoint, Service},
    pod::Pod,
    testbed::Testbed,
};

/// Includes the API server and the controller.
const LIMIT: Duration = Duration::from_secs(10);

/// A Service and the pods that serve it.
#[derive(Debug)]
pub(super) struct Backed<'a> {
    pub(super) service: Service,
    pub(super) pods: Vec<&'a Pod>,
}

#[derive(Debug)]
pub(super) enum Cluster {
    Real(Box<ControlPlane>),
    Manifests,
}

impl Cluster {
    /// Starts the control plane if there is to be one.
    pub(super) fn start(bed: &Testbed, is_real: bool) -> Result<Self> {
        if is_real { Ok(Self::Real(Box::new(ControlPlane::start(bed)?))) } else { Ok(Self::Manifests) }
    }

    /// What the daemons are to read.
    pub(super) fn show_to(&self, daemon: daemon::Builder) -> daemon::Builder {
        match self {
            Self::Real(control_plane) => daemon.kubeconfig(control_plane.kubeconfig()),
            Self::Manifests => daemon,
        }
    }

    /// What the control plane is, if there is one, and where.
    pub(super) fn server(&self) -> Option<(&str, IpAddr)> {
        match self {
            Self::Real(control_plane) => Some((control_plane.version(), control_plane.addrs().v4.into())),
            Self::Manifests => None,
        }
    }

    /// Makes Services and their pods known.
    pub(super) fn publish(&self, bed: &Testbed, pods: &[Pod], services: &[Backed<'_>]) -> Result<()> {
        for Backed { service, pods } in services {
            match self {
                Self::Real(control_plane) => control_plane.publish(service)?,
                Self::Manifests => write(bed, service, pods)?,
            }
        }
        let Self::Real(control_plane) = self else { return Ok(()) };
        pods.iter().try_for_each(|pod| {
            let serves = services.iter().filter(|it| it.pods.iter().any(|backend| backend.name() == pod.name()));
            control_plane.run_pod(pod, &serves.map(|it| it.service.name()).collect::<Vec<_>>())
        })
    }

    /// Opens a view of a Service's endpoints.
    pub(super) fn endpoints<'a>(&'a self, bed: &'a Testbed, service: &'a Service) -> Endpoints<'a> {
        match self {
            Self::Real(control_plane) => Endpoints::Real { control_plane, watch: control_plane.watch_slices(service.name()) },
            Self::Manifests => Endpoints::Manifests { bed, service },
        }
    }
}

/// The endpoints of one Service, to be changed.
pub(super) enum Endpoints<'a> {
    Real { control_plane: &'a ControlPlane, watch: SliceWatch },
    Manifests { bed: &'a Testbed, service: &'a Service },
}

impl Endpoints<'_> {
    /// Makes these pods the ready ones and those not, and says when that was there for all to see: the slice came in a watch, or
    /// the file was replaced.
    pub(super) fn set(&mut self, ready: &[&Pod], unready: &[&Pod]) -> Result<Instant> {
        match self {
            Self::Real { control_plane, watch } => {
                ready.iter().try_for_each(|pod| control_plane.set_ready(pod, true))?;
                unready.iter().try_for_each(|pod| control_plane.set_ready(pod, false))?;
                let wanted =
                    |addrs: &[IpAddr]| addrs.len() == ready.len() && ready.iter().all(|pod| addrs.contains(&pod.addrs().v4.into()));
                watch.wait_for(LIMIT, wanted)
            }
            Self::Manifests { bed, service } => {
                write(bed, service, ready)?;
                Ok(Instant::now())
            }
        }
    }
}

fn write(bed: &Testbed, service: &Service, pods: &[&Pod]) -> Result<()> {
    let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::pod(pod)).collect();
    bed.manifests().write(service.name(), &service.with_endpoints(&endpoints))
}
