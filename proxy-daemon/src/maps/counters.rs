//! Counters, added up over the CPUs.

use aya::{
    maps::{MapError, PerCpuValues},
    util::nr_cpus,
};
use proxy_common::{ServiceCounters, ServiceId, maps, reason::Reason};

use super::{Error, KernelMaps, Row};

impl KernelMaps {
    /// How often each reason was counted, in the order of [`Reason::ALL`].
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, Error> {
        let read = |reason: &Reason| {
            let per_cpu = self.reasons.get(&reason.index(), 0).map_err(|source| Error::Read { map: maps::REASONS, source })?;
            Ok((*reason, per_cpu.iter().sum()))
        };
        Reason::ALL.iter().map(read).collect()
    }

    /// What was counted for a service. Zero for an id beyond the map, which is not counted.
    pub fn service_counters(&self, service: ServiceId) -> Result<ServiceCounters, Error> {
        if service.0 >= self.stats.len() {
            return Ok(ServiceCounters::default());
        }
        let per_cpu = self.stats.get(&service.0, 0).map_err(|source| Error::Read { map: maps::SERVICE_STATS, source })?;
        Ok(per_cpu.iter().fold(ServiceCounters::default(), |sum, row| ServiceCounters {
            flows: sum.flows + row.0.flows,
            packets: sum.packets + row.0.packets,
            bytes: sum.bytes + row.0.bytes,
        }))
    }

    /// Sets the counters of an id back to zero: it is a new service's from now on.
    pub(super) fn reset_service_counters(&mut self, service: ServiceId) -> Result<(), Error> {
        if service.0 >= self.stats.len() {
            return Ok(());
        }
        let failed = |source| Error::Write { map: maps::SERVICE_STATS, source };
        let cpus = nr_cpus().map_err(|(_, error)| failed(MapError::IoError(error)))?;
        let zeros =
            PerCpuValues::try_from(vec![Row(ServiceCounters::default()); cpus]).map_err(|error| failed(MapError::IoError(error)))?;
        self.stats.set(service.0, zeros, 0).map_err(failed)
    }
}
