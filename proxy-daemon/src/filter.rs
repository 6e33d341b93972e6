//! Takes marks of the service filter back when nothing is known there any more.
//!
//! In: the flow tables and the frontends. A mark is set before what it stands for is inserted, so whoever finds no entry must wait before he
//! takes the mark away: each round makes the marks of the one before old, sets those of all that is there anew, and takes back what was old
//! and stayed so. Between two rounds far more time passes than between a mark and its entry. Until then a mark costs a look-up in vain.

use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey, FrontendKey};

use crate::maps::{Error, Filter, FlowTable, FrontendTable, KernelMaps};

/// One round. Where a table changes so fast that its walk does not come to an end, every mark stays.
pub fn round(maps: &KernelMaps) -> Result<(), Error> {
    let is_complete = mark(&maps.filter, &maps.flows4, &maps.frontends4)? && mark(&maps.filter, &maps.flows6, &maps.frontends6)?;
    if is_complete {
        let marks = maps.filter.age()?;
        tracing::debug!(marks, "service filter");
    }
    Ok(())
}

/// Marks all that is known of a family, and says whether that is certain to be all.
fn mark<F: Family>(filter: &Filter, flows: &FlowTable<F>, frontends: &FrontendTable<F>) -> Result<bool, Error>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
    FrontendKey<F>: Pod,
{
    for key in frontends.keys() {
        filter.mark(key?.place())?;
    }
    // A walk begins anew where an entry goes that it stands at; entries go seldom enough for it to end within a few rounds.
    let patience = u64::from(flows.capacity()) * 4;
    for (seen, key) in (0..).zip(flows.keys()) {
        if seen == patience {
            return Ok(false);
        }
        filter.mark(key?.place())?;
    }
    Ok(true)
}
