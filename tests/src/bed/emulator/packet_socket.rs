//! AF_PACKET sockets that read and write frames in batches.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Frames per system call.
pub(crate) const BATCH: usize = 64;

/// Bytes of the largest frame: 9,000 bytes of payload, Ethernet header, two VLAN tags.
const FRAME: usize = 9_216;

const CONTROL: usize = 128;

/// A raw packet socket on one interface of the calling thread's network namespace.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
}

/// Where a batch of frames is read to.
pub(crate) struct Batch {
    frames: Vec<u8>,
    controls: Vec<u64>,
    vectors: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_ll>,
    headers: Vec<libc::mmsghdr>,
}

/// A frame that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    /// The frame from its Ethernet header on, or the IP packet for a socket without link header.
    pub frame: &'a [u8],
    /// When the kernel got it, ns of `CLOCK_REALTIME`; `None` without a stamp.
    pub stamp_ns: Option<u64>,
    /// It was sent by this machine, not received.
    pub outgoing: bool,
}

impl PacketSocket {
    /// Opens a socket on an interface, with the Ethernet header (`SOCK_RAW`) or without (`SOCK_DGRAM`).
    ///
    /// With `outgoing` it also sees what this machine sends there.
    pub fn open(ifindex: u32, link_header: bool, outgoing: bool) -> io::Result<Self> {
        let kind = if link_header { libc::SOCK_RAW } else { libc::SOCK_DGRAM };
        // Protocol 0: nothing comes in before the socket is bound to its interface.
        // SAFETY: socket takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        let this = Self { socket: unsafe { OwnedFd::from_raw_fd(socket) } };
        this.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;
        this.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 32 << 20)?;
        this.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        this.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        if !outgoing {
            this.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        }
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives through the call and `length` is its size.
        if unsafe { libc::bind(this.fd(), ptr::from_ref(&address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(this)
    }

    /// The descriptor, for poll.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what is there, at most a batch; hands each frame to `take`. Returns how many.
    pub fn receive(&self, batch: &mut Batch, mut take: impl FnMut(Received<'_>)) -> io::Result<usize> {
        batch.prepare();
        // SAFETY: the headers point into the batch's own buffers, which outlive the call.
        let count = unsafe {
            libc::recvmmsg(self.fd(), batch.headers.as_mut_ptr(), BATCH as u32, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            let nothing = [libc::EAGAIN, libc::EINTR, libc::ENETDOWN];
            let none_there = error.raw_os_error().is_some_and(|errno| nothing.contains(&errno));
            return if none_there { Ok(0) } else { Err(error) };
        }
        for index in 0..count as usize {
            batch.hand_over(index, &mut take);
        }
        Ok(count as usize)
    }

    /// Sends frames; returns how many of them the kernel refused.
    pub fn send(&self, frames: &[Box<[u8]>]) -> usize {
        let mut refused = 0;
        for chunk in frames.chunks(BATCH) {
            let mut vectors: [libc::iovec; BATCH] = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
            // SAFETY: all zeros is a valid mmsghdr.
            let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
            for (index, frame) in chunk.iter().enumerate() {
                vectors[index] = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
                headers[index].msg_hdr.msg_iov = &mut vectors[index];
                headers[index].msg_hdr.msg_iovlen = 1;
            }
            let mut done = 0;
            while done < chunk.len() {
                // SAFETY: headers and vectors are initialised up to the chunk's length and outlive the call.
                let sent = unsafe { libc::sendmmsg(self.fd(), &mut headers[done], (chunk.len() - done) as u32, 0) };
                if sent <= 0 {
                    // The first frame of the rest can't be sent (interface down, too big): go on behind it.
                    refused += 1;
                    done += 1;
                } else {
                    done += sent as usize;
                }
            }
        }
        refused
    }

    /// Frames that the socket had no room for since the last call.
    pub fn take_drops(&self) -> u64 {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the structure and its length live through the call.
        let status = unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &mut length,
            )
        };
        if status == 0 { u64::from(statistics.tp_drops) } else { 0 }
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value lives through the call and `length` is its size.
        let status = unsafe { libc::setsockopt(self.fd(), level, option, ptr::from_ref(&value).cast(), length) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self {
            frames: vec![0; BATCH * FRAME],
            controls: vec![0; BATCH * CONTROL / 8],
            vectors: Vec::with_capacity(BATCH),
            // SAFETY: all zeros is a valid sockaddr_ll.
            addresses: vec![unsafe { zeroed() }; BATCH],
            headers: Vec::with_capacity(BATCH),
        };
        for index in 0..BATCH {
            // 4 bytes are left in front, for a VLAN tag that the kernel took out.
            let start = batch.frames[index * FRAME + 4..].as_mut_ptr();
            batch.vectors.push(libc::iovec { iov_base: start.cast(), iov_len: FRAME - 4 });
        }
        batch
    }
}

impl Batch {
    fn prepare(&mut self) {
        self.headers.clear();
        for index in 0..BATCH {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut header: libc::mmsghdr = unsafe { zeroed() };
            header.msg_hdr.msg_name = ptr::from_mut(&mut self.addresses[index]).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &mut self.vectors[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(&mut self.controls[index * CONTROL / 8]).cast();
            header.msg_hdr.msg_controllen = CONTROL;
            self.headers.push(header);
        }
    }

    fn hand_over(&mut self, index: usize, take: &mut impl FnMut(Received<'_>)) {
        let header = &self.headers[index];
        let mut length = (header.msg_len as usize).min(FRAME - 4);
        let (stamp_ns, vlan) = read_controls(&header.msg_hdr);
        let mut start = index * FRAME + 4;
        if let Some((tpid, tci)) = vlan {
            // The tag goes back between the addresses and the EtherType.
            self.frames.copy_within(start..start + 12, start - 4);
            start -= 4;
            length += 4;
            self.frames[start + 12..start + 14].copy_from_slice(&tpid.to_be_bytes());
            self.frames[start + 14..start + 16].copy_from_slice(&tci.to_be_bytes());
        }
        let address = &self.addresses[index];
        take(Received {
            frame: &self.frames[start..start + length],
            stamp_ns,
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        });
    }
}

/// Time stamp, and the VLAN tag (TPID, TCI) that the kernel took out of the frame.
fn read_controls(header: &libc::msghdr) -> (Option<u64>, Option<(u16, u16)>) {
    let (mut stamp, mut vlan) = (None, None);
    // SAFETY: the kernel wrote well-formed control messages of the length that the header says.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: not null, inside the control buffer; the data is read unaligned and has the length of its kind.
        unsafe {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    stamp = Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let auxiliary = data.cast::<libc::tpacket_auxdata>().read_unaligned();
                    if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                        vlan = Some((auxiliary.tp_vlan_tpid, auxiliary.tp_vlan_tci));
                    }
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    (stamp, vlan)
}
