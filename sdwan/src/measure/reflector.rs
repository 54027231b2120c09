//! The session reflector in the tunnels, for gateways whose programs are detached. With `tunnel_ingress` attached the
//! kernel answers, and nothing comes here.

use std::sync::Arc;

use tracing::warn;

use super::sender::ProbeCounters;
use super::socket::TestSocket;
use super::stamp::answer::{AllowedDscp, Manner, Mode};
use super::stamp::counters::ReflectorCounters;
use super::stamp::limits::{Limits, Rates};
use super::stamp::listen;
use super::stamp::reflector::{Reflector, SESSIONS, Settings};

/// Answers probes on one tunnel until its socket fails. Only sites of the mesh are heard there, each from its overlay
/// address, and the data of the path isn't counted here: the Direct Measurement TLV isn't answered.
pub async fn run(interface: String, socket: TestSocket, counters: Arc<ProbeCounters>) {
    let manner = Manner { mode: Mode::Unauthenticated, key: None, dscp: AllowedDscp::ANY };
    let settings = Settings {
        manner,
        allowed: Vec::new(),
        rates: Rates::default(),
        stateless: false,
        refuse_reflectors: true,
        direct_measurement: false,
    };
    let mut reflector = Reflector::new(settings, SESSIONS, Arc::new(ReflectorCounters::default()));
    let mut limits = Limits::new(Rates::default());
    let mut clock = listen::Clock::default();
    let error = socket
        .receive(|datagram| {
            match listen::answer(&mut reflector, &mut limits, &socket, sdwan_common::stamp::PORT, &mut clock, &datagram)
            {
                Ok(true) => ProbeCounters::count(&counters.reflected),
                Ok(false) => ProbeCounters::count(&counters.send_failed),
                Err(_) => ProbeCounters::count(&counters.malformed),
            }
        })
        .await;
    warn!(interface, "the reflector's socket failed and will be opened again: {error}");
}
