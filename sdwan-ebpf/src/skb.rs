//! The socket buffer: fields of the context, and reads and writes of the packet.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::{
    bpf_set_hash, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
    bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;

/// `PACKET_*` of linux/if_packet.h.
pub const PACKET_HOST: u32 = 0;
pub const PACKET_OTHERHOST: u32 = 3;

/// A socket buffer.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

/// The verifier accepts only accesses of the context at a constant offset; volatile ones stay as they are written.
macro_rules! fields {
    ($($name:ident),*) => {
        $(#[inline(always)]
        pub fn $name(self) -> u32 {
            // SAFETY: the context is valid while the program runs.
            unsafe { core::ptr::read_volatile(&raw const (*self.0).$name) }
        })*
    };
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    #[inline(always)]
    pub fn as_ptr(self) -> *mut __sk_buff {
        self.0
    }

    fields!(len, pkt_type, protocol, vlan_present, vlan_tci, ifindex, tc_index, hash, gso_segs, gso_size);

    /// EtherType of the packet, without tags that the kernel took off; host byte order.
    #[inline(always)]
    pub fn ether_type(self) -> u16 {
        u16::from_be(self.protocol() as u16)
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: the context is valid while the program runs, and its mark may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).mark, mark) }
    }

    /// Leaves a note for the program at the egress of the interface that the packet is redirected to.
    #[inline(always)]
    pub fn set_tc_index(self, index: u16) {
        // SAFETY: the context is valid while the program runs, and this field may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).tc_index, u32::from(index)) }
    }

    /// Gives the packet a hash as if of its transport header, so that the kernel keeps it.
    #[inline(always)]
    pub fn set_hash(self, hash: u32) {
        // SAFETY: the context is valid while the program runs. The helper can't fail.
        unsafe { bpf_set_hash(self.0, hash) };
    }

    /// Reads bytes from the IP header on. `T` is made of integers only.
    #[inline(always)]
    pub fn load_network<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; any bytes are a valid `T`.
        unsafe {
            let result = bpf_skb_load_bytes_relative(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                core::mem::size_of::<T>() as u32,
                BPF_HDR_START_NET,
            );
            if result == 0 { Some(value.assume_init()) } else { None }
        }
    }

    /// Reads `size_of::<T>()` bytes of the packet. `T` is made of integers only.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; any bytes are a valid `T`.
        unsafe {
            let result =
                bpf_skb_load_bytes(self.0.cast(), offset, value.as_mut_ptr().cast(), core::mem::size_of::<T>() as u32);
            if result == 0 { Some(value.assume_init()) } else { None }
        }
    }

    /// The same, into memory that exists already: a piece of a map spares the stack.
    #[inline(always)]
    pub fn load_into<T: Copy>(self, offset: u32, value: &mut T) -> bool {
        let length = core::mem::size_of::<T>() as u32;
        // SAFETY: the helper writes no more than `value`; any bytes are a valid `T`.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, core::ptr::from_mut(value).cast(), length) == 0 }
    }

    /// Writes `size_of::<T>()` bytes into the packet. `flags` as for `bpf_skb_store_bytes`.
    #[inline(always)]
    pub fn store<T: Copy>(self, offset: u32, value: &T, flags: u64) -> bool {
        // SAFETY: the helper reads `size_of::<T>()` bytes of `value`.
        let result = unsafe {
            bpf_skb_store_bytes(
                self.0,
                offset,
                core::ptr::from_ref(value).cast(),
                core::mem::size_of::<T>() as u32,
                flags,
            )
        };
        result == 0
    }

    /// Takes the outermost VLAN tag off.
    #[inline(always)]
    pub fn pop_vlan(self) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_skb_vlan_pop(self.0) == 0 }
    }

    /// Cuts the packet off after `length` bytes.
    #[inline(always)]
    pub fn trim(self, length: u32) -> bool {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_skb_change_tail(self.0, length, 0) == 0 }
    }
}
