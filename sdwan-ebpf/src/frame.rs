//! The frame of an XDP program: bounded reads, the link layer, IPv6's chain of headers.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use core::mem::{MaybeUninit, size_of};
use sdwan_common::abi::Address;

use crate::parse::{AUTHENTICATION, ETHERNET, FRAGMENT, Link, MAX_EXTENSIONS, is_extension, is_vlan};

/// A frame.
#[derive(Clone, Copy)]
pub struct Frame(*mut xdp_md);

/// What an IPv6 header and those behind it say.
#[derive(Default)]
pub struct Chain {
    /// Protocol behind the headers that were walked over.
    pub protocol: u8,
    /// Where that begins.
    pub transport: u32,
    /// The fragment header's offset and M bit, 0 for a whole datagram.
    pub fragment: u16,
    /// Where the fragment header ends, 0 without one.
    pub fragment_end: u32,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self(ctx.ctx)
    }

    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the context is valid while the program runs; the verifier wants reads as they are written.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).ingress_ifindex) }
    }

    /// Bytes of the whole frame, which may lie in several pieces.
    #[inline(always)]
    pub fn length(self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_xdp_get_buff_len(self.0) as u32 }
    }

    /// Reads `size_of::<T>()` bytes, wherever they lie. `T` is made of integers only.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; any bytes are a valid `T`.
        unsafe {
            let result = bpf_xdp_load_bytes(self.0, offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            if result == 0 { Some(value.assume_init()) } else { None }
        }
    }

    /// Reads the first bytes, from the first piece, where drivers put all headers. `None` where they don't.
    #[inline(always)]
    fn head<T: Copy>(self) -> Option<T> {
        // SAFETY: the context is valid while the program runs, and bytes before `data_end` may be read.
        unsafe {
            let data = core::ptr::read_volatile(&raw const (*self.0).data) as usize;
            let end = core::ptr::read_volatile(&raw const (*self.0).data_end) as usize;
            if data + size_of::<T>() > end {
                return None;
            }
            Some(core::ptr::read_unaligned(data as *const T))
        }
    }

    /// Ethernet and up to two VLAN tags. A tag that the interface took off is not seen.
    #[inline(always)]
    pub fn link(self) -> Option<Link> {
        let header: [u8; ETHERNET as usize] = self.head()?;
        let ether_type = u16::from_be_bytes([header[12], header[13]]);
        let mut link = Link { length: ETHERNET, ether_type, vlan: 0, tags: 0 };
        if is_vlan(link.ether_type) {
            link.pass_tag(self.load(ETHERNET)?);
            if is_vlan(link.ether_type) {
                link.pass_tag(self.load(ETHERNET + 4)?);
            }
        }
        Some(link)
    }

    /// Walks over the headers behind an IPv6 header that begins at `ip`. `false`: too many, or cut off.
    #[inline(always)]
    pub fn walk(self, ip: u32, next: u8, chain: &mut Chain) -> bool {
        *chain = Chain { protocol: next, transport: ip + 40, fragment: 0, fragment_end: 0 };
        let mut walked = 0;
        while walked < MAX_EXTENSIONS {
            let kind = chain.protocol;
            // A later fragment's bytes are data, not headers.
            if !is_extension(kind) || chain.fragment & 0xfff8 != 0 {
                return true;
            }
            let Some(bytes) = self.load::<[u8; 8]>(chain.transport) else { return false };
            chain.protocol = bytes[0];
            match kind {
                FRAGMENT => {
                    chain.transport += 8;
                    // Without the reserved bits; an atomic fragment (RFC 6946) is a whole datagram.
                    chain.fragment = u16::from_be_bytes([bytes[2], bytes[3]]) & 0xfff9;
                    chain.fragment_end = chain.transport;
                }
                AUTHENTICATION => chain.transport += (u32::from(bytes[1]) + 2) * 4,
                _ => chain.transport += (u32::from(bytes[1]) + 1) * 8,
            }
            walked += 1;
        }
        false
    }
}

/// An IPv4 address as the maps hold it.
#[inline(always)]
pub fn mapped(address: [u8; 4]) -> Address {
    let mut bytes = [0; 16];
    bytes[10] = 0xff;
    bytes[11] = 0xff;
    bytes[12] = address[0];
    bytes[13] = address[1];
    bytes[14] = address[2];
    bytes[15] = address[3];
    bytes
}
