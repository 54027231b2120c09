//! The UDP sockets of a userspace WireGuard.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpTransportFactory, UdpTransportFactoryParams};
use tracing::warn;

/// Socket buffers, bytes: some 30 ms at 1 Gbit/s. The kernel caps them at its own limit.
const BUFFER: usize = 4 << 20;
/// Pause after an error, so that one that stays doesn't spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes sockets that outlive errors: gotatun stops the device at the first one of its socket.
pub struct PatientSockets(UdpSocketFactory);

/// The receiving half.
pub struct PatientReceiver(UdpSocket);

impl Default for PatientSockets {
    fn default() -> Self {
        Self(UdpSocketFactory { recv_buffer_size: Some(BUFFER), send_buffer_size: Some(BUFFER) })
    }
}

impl UdpTransportFactory for PatientSockets {
    type Send = UdpSocket;
    type Recv = PatientReceiver;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Self::Send, Self::Recv)> {
        let (sender, receiver) = self.0.bind(params).await?;
        may_be_fragmented(&sender)?;
        Ok((sender, PatientReceiver(receiver)))
    }
}

impl UdpRecv for PatientReceiver {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        loop {
            match self.0.recv_from(pool).await {
                Err(error) => pause(&error).await,
                received => return received,
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffers: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        loop {
            match self.0.recv_many_from(buffers, pool, packets).await {
                Err(error) => pause(&error).await,
                received => return received,
            }
        }
    }
}

/// Tunnel packets go as the kernel's WireGuard sends them: without Don't Fragment, whatever ICMP (which anybody can forge)
/// made the kernel believe of the path. By default they would vanish on a path that narrows until ICMP tells, and for good
/// where none comes. What fits the path is found out by the daemon's own probes.
fn may_be_fragmented(socket: &UdpSocket) -> io::Result<()> {
    let fd = socket.socket().as_raw_fd();
    let set = |level, option, value: libc::c_int| {
        let length = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value lives through the call and `length` is its size.
        let status = unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(&value).cast(), length) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // A socket of IPv6 carries IPv4 as well.
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)?;
    match socket.local_addr()?.is_ipv6() {
        true => set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
        false => Ok(()),
    }
}

async fn pause(error: &io::Error) {
    warn!(%error, "cannot receive");
    tokio::time::sleep(PAUSE).await;
}
