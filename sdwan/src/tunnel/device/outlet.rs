//! The way out of a tunnel into the kernel's stack.
//!
//! gotatun hands packets over one by one and doesn't say where a batch ends. So a segment of TCP's waits in a [`Bundle`] for
//! those behind it until a task of ours gets to run: the first segment wakes it, and a worker of the runtime runs what its
//! task woke when that has nothing more to do for now, which is when gotatun has no packet left.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use gotatun::packet::{Ip, Packet};
use gotatun::tun::IpSend;
use tokio::io::Interest;
use tokio::sync::{Mutex, Notify};

use super::bundle::Bundle;
use super::offload::NOTHING;
use super::tun::{AsyncTun, is_transient};

/// What waits for more, shared by whoever adds and whoever writes it out.
#[derive(Debug, Default)]
pub struct Outlet {
    waiting: Mutex<Waiting>,
    /// Something waits.
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bundle: Bundle,
    /// The task was woken and hasn't run since.
    woken: bool,
}

impl AsyncTun {
    /// Writes out what waited long enough, until the interface is gone.
    pub(super) async fn write_out(self, outlet: Arc<Outlet>) {
        loop {
            outlet.more.notified().await;
            let mut waiting = outlet.waiting.lock().await;
            waiting.woken = false;
            if self.write_bundle(&mut waiting.bundle).await.is_err() {
                self.tell_gone();
                return;
            }
        }
    }

    async fn write_bundle(&self, bundle: &mut Bundle) -> io::Result<()> {
        if bundle.is_empty() {
            return Ok(());
        }
        let written = self.write(&[IoSlice::new(bundle.finish())]).await;
        bundle.clear();
        written
    }

    /// Writes one packet and the header before it.
    async fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self.file().async_io(Interest::WRITABLE, |mut file| file.write_vectored(parts)).await {
            // The kernel doesn't want this one (interface down, no memory, malformed inside): it counts the drop.
            Err(error) if is_transient(&error) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl IpSend for AsyncTun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let packet = packet.into_bytes();
        if let Some(outlet) = self.outlet() {
            let mut waiting = outlet.waiting.lock().await;
            let mut taken = waiting.bundle.add(&packet);
            if !taken && !waiting.bundle.is_empty() {
                // In the order in which they came.
                self.write_bundle(&mut waiting.bundle).await?;
                taken = waiting.bundle.add(&packet);
            }
            if taken {
                if !std::mem::replace(&mut waiting.woken, true) {
                    outlet.more.notify_one();
                }
                return Ok(());
            }
        }
        self.write(&[IoSlice::new(&NOTHING), IoSlice::new(&packet)]).await
    }
}
