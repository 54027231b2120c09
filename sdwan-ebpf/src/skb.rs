//! The socket buffer: fields of the context, and reads and writes of the packet.

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_set_hash, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
    bpf_skb_store_bytes, bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;

/// `PACKET_*` of linux/if_packet.h.
pub const PACKET_HOST: u32 = 0;
pub const PACKET_OTHERHOST: u32 = 3;

/// No network header begins further behind the start of a packet: Ethernet and two VLAN tags, and half an IPv6 header.
const FURTHEST: u32 = 62;

/// Reads a word that need not be aligned. The compiler takes the target for one that reads such words byte by byte.
///
/// # Safety
///
/// `from` is valid for reads of eight bytes.
#[inline(always)]
unsafe fn load_u64(from: *const u8) -> u64 {
    let word;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({from} + 0)",
            from = in(reg) from,
            word = lateout(reg) word,
            options(pure, readonly, nostack),
        );
    }
    word
}

/// The same of four bytes.
///
/// # Safety
///
/// `from` is valid for reads of four bytes.
#[inline(always)]
unsafe fn load_u32(from: *const u8) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "{word} = *(u32 *)({from} + 0)",
            from = in(reg) from,
            word = lateout(reg) word,
            options(pure, readonly, nostack),
        );
    }
    word as u32
}

/// Writes such a word.
///
/// # Safety
///
/// `to` is valid for writes of four bytes.
#[inline(always)]
unsafe fn store_u32(to: *mut u8, word: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({to} + 0) = {word}",
            to = in(reg) to,
            word = in(reg) u64::from(word),
            options(nostack),
        );
    }
}

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

    fields!(
        data,
        data_end,
        len,
        pkt_type,
        protocol,
        vlan_present,
        vlan_tci,
        ifindex,
        tc_index,
        hash,
        gso_segs,
        gso_size
    );

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

    /// Where `BYTES` bytes of the packet lie in memory, if they do in one piece and `offset` is that of a network header: most
    /// packets can be read and written there, without a helper.
    #[inline(always)]
    fn linear<const BYTES: usize>(self, offset: u32) -> Option<*mut u8> {
        if offset > FURTHEST {
            return None;
        }
        let start = self.data() as usize + offset as usize;
        if start + BYTES > self.data_end() as usize { None } else { Some(start as *mut u8) }
    }

    /// Reads `BYTES` bytes from a network header on. `BYTES` is a multiple of four, and `bytes` aligned to eight.
    #[inline(always)]
    pub fn read_into<const BYTES: usize>(self, offset: u32, bytes: &mut [u8; BYTES]) -> bool {
        let Some(start) = self.linear::<BYTES>(offset) else { return self.load_into(offset, bytes) };
        let to = bytes.as_mut_ptr();
        let mut at = 0;
        while at + 8 <= BYTES {
            // SAFETY: both are that long, and the caller's buffer is aligned.
            unsafe { to.add(at).cast::<u64>().write(load_u64(start.add(at))) };
            at += 8;
        }
        if at < BYTES {
            // SAFETY: as above.
            unsafe { to.add(at).cast::<u32>().write(load_u32(start.add(at))) };
        }
        true
    }

    /// Writes the first twelve bytes of a network header, which leave the sum over the packet as it is.
    #[inline(always)]
    pub fn write(self, offset: u32, words: [u32; 3]) -> bool {
        let Some(start) = self.linear::<12>(offset) else { return self.store(offset, &words, 0) };
        // SAFETY: the packet is that long.
        unsafe {
            store_u32(start, words[0]);
            store_u32(start.add(4), words[1]);
            store_u32(start.add(8), words[2]);
        }
        true
    }

    /// Puts `new` in the place of `old`, four bytes of a network header at an even offset, and corrects the sum over the
    /// packet.
    #[inline(always)]
    pub fn replace(self, offset: u32, old: u32, new: u32) -> bool {
        let Some(start) = self.linear::<4>(offset) else {
            return self.store(offset, &new, u64::from(BPF_F_RECOMPUTE_CSUM));
        };
        let (sum, carry) = new.overflowing_add(!old);
        // SAFETY: the packet is that long, and the context is valid while the program runs. Where there is no sum to correct,
        // the helper says so and does nothing.
        unsafe {
            store_u32(start, new);
            bpf_csum_update(self.0, sum + u32::from(carry));
        }
        true
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
