//! Functions by themselves (the kernel calls them global): the verifier looks at each once, whatever its arguments, instead of once for each way
//! that leads there. Nothing but numbers and the context may be handed to one, and only a number comes back.

use aya_ebpf::bindings::__sk_buff;
use proxy_common::{Addr4, Addr6, Family, Port, RangeWord, V4, V6};

use crate::{
    affinity::{self, Question},
    ctx::TcCtx,
    snat,
};

/// The functions of a family.
pub trait Globals: Family {
    /// [`answer`](crate::affinity::answer).
    fn affinity_slot(question: Question) -> u32;

    /// [`try_port`](crate::snat::try_port).
    fn try_port(port: Port) -> bool;

    /// [`try_node_port`](crate::snat::try_node_port).
    fn try_node_port(skb: *mut __sk_buff, if_over: bool) -> bool;

    /// [`take_node_port`](crate::snat::take_node_port).
    fn take_node_port(skb: *mut __sk_buff, first: u32, count: u32, if_over: bool) -> bool;
}

macro_rules! globals {
    ($family:ty, $addr:ident: $affinity_slot:ident, $try_port:ident, $try_node_port:ident, $take_node_port:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $affinity_slot(client: u64, rest: u64, service_secs: u64, range: u64, chosen: u32) -> u32 {
            // An argument that is of no use would not be set by callers, and the verifier wants all of them set.
            let rest = core::hint::black_box(rest);
            let question = Question { client: [client, rest], service_secs, range: RangeWord(range), chosen };
            affinity::answer::<$family>($addr(question.client), &question)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $try_port(port: u32) -> u32 {
            u32::from(snat::try_port::<$family>(Port::from_host(port as u16)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $try_node_port(skb: *mut __sk_buff, if_over: u32) -> u32 {
            // SAFETY: the context that the kernel gave to the program.
            u32::from(snat::try_node_port::<$family, _>(&unsafe { TcCtx::<true>::pulled(skb) }, if_over != 0))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $take_node_port(skb: *mut __sk_buff, first: u32, count: u32, if_over: u32) -> u32 {
            // SAFETY: as above.
            u32::from(snat::take_node_port::<$family, _>(&unsafe { TcCtx::<true>::pulled(skb) }, first, count, if_over != 0))
        }

        impl Globals for $family {
            #[inline(always)]
            fn affinity_slot(question: Question) -> u32 {
                let Question { client: [client, rest], service_secs, range, chosen } = question;
                $affinity_slot(client, rest, service_secs, range.0, chosen)
            }

            #[inline(always)]
            fn try_port(port: Port) -> bool {
                $try_port(u32::from(port.to_host())) != 0
            }

            #[inline(always)]
            fn try_node_port(skb: *mut __sk_buff, if_over: bool) -> bool {
                $try_node_port(skb, u32::from(if_over)) != 0
            }

            #[inline(always)]
            fn take_node_port(skb: *mut __sk_buff, first: u32, count: u32, if_over: bool) -> bool {
                $take_node_port(skb, first, count, u32::from(if_over)) != 0
            }
        }
    };
}

globals!(V4, addr4: affinity_slot_v4, try_port_v4, try_node_port_v4, take_node_port_v4);
globals!(V6, addr6: affinity_slot_v6, try_port_v6, try_node_port_v6, take_node_port_v6);

#[inline(always)]
fn addr4([client, _]: [u64; 2]) -> Addr4 {
    bytemuck::cast(client as u32)
}

#[inline(always)]
fn addr6(client: [u64; 2]) -> Addr6 {
    bytemuck::cast(client)
}
