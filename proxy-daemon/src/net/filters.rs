//! The BPF filters of tc on a device and the qdisc they are in, for kernels without tcx: who asks the kernel about those has to use netlink.
//!
//! In: devices of this network namespace. Out: the ids of the programs in their clsact qdiscs, ours and others', and of which kind the qdisc
//! at a device's ingress is. One question after another, on a runtime of its own.

#![expect(clippy::wildcard_enum_match_arm, reason = "a filter has many attributes, and newer kernels more")]

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, new_connection,
    packet_core::{NLM_F_ECHO, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};
use tokio::runtime;

use super::Error;

/// A program in a clsact qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfFilter {
    pub ifindex: u32,
    /// At the device's ingress, else at its egress.
    pub ingress: bool,
    pub priority: u16,
    pub handle: u32,
    pub program_id: u32,
}

/// The filters of some devices. One that has gone has none.
pub fn bpf_filters(devices: &[u32]) -> Result<Vec<BpfFilter>, Error> {
    ask(async |handle| {
        let mut filters = Vec::new();
        for &ifindex in devices {
            filters.extend(of_device(&handle, ifindex).await?);
        }
        Ok(filters)
    })
}

/// The kind of the qdisc that packets meet first on their way into a device, `ingress` or `clsact`; nothing where there is none. A device
/// has one of them at most.
pub fn ingress_qdisc(ifindex: u32) -> Result<Option<String>, Error> {
    ask(async |mut handle| {
        let mut wanted = TcMessage::default();
        wanted.header.index = ifindex.cast_signed();
        // Clsact's parent has the same number.
        wanted.header.parent = TcHandle::INGRESS;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetQueueDiscipline(wanted));
        // Without the second older kernels tell everybody but who asks.
        request.header.flags = NLM_F_REQUEST | NLM_F_ECHO;
        let failed = |source| Error::Request { request: "RTM_GETQDISC", source };
        match handle.request(request).map_err(failed)?.next().await.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(qdisc))) => Ok(kind(&qdisc)),
            Some(NetlinkPayload::Error(error)) if matches!(-error.raw_code(), libc::ENOENT | libc::ENODEV) => Ok(None),
            Some(NetlinkPayload::Error(error)) => Err(failed(rtnetlink::Error::NetlinkError(error))),
            _ => Err(Error::Broken),
        }
    })
}

/// Runs questions to the kernel to their end.
fn ask<T>(questions: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(Error::Thread)?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().map_err(Error::Socket)?;
        let connection = tokio::spawn(connection);
        let answers = questions(handle).await;
        connection.abort();
        answers
    })
}

fn kind(qdisc: &TcMessage) -> Option<String> {
    qdisc.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

async fn of_device(handle: &Handle, ifindex: u32) -> Result<Vec<BpfFilter>, Error> {
    let mut filters = Vec::new();
    for ingress in [true, false] {
        let request = handle.traffic_filter(ifindex.cast_signed()).get();
        let request = if ingress { request.ingress() } else { request.egress() };
        let messages: Result<Vec<TcMessage>, _> = request.execute().try_collect().await;
        let messages = messages.map_err(|source| Error::Request { request: "RTM_GETTFILTER", source })?;
        for message in &messages {
            let (handle, priority) = (message.header.handle.into(), priority(message.header.info));
            filters.extend(program_ids(message).map(|program_id| BpfFilter { ifindex, ingress, priority, handle, program_id }));
        }
    }
    Ok(filters)
}

/// The upper half; the lower one is the protocol.
fn priority(info: u32) -> u16 {
    let [a, b, _, _] = info.to_be_bytes();
    u16::from_be_bytes([a, b])
}

fn program_ids(filter: &TcMessage) -> impl Iterator<Item = u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().filter_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}
