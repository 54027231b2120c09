//! The E-model, ITU-T G.107 (06/2015): how a telephone call over a path would be rated.
//!
//! The symbols are the Recommendation's. Everything that a gateway can't know has the default value of its Table 2;
//! what it measures are the delay (Ta, and with it T and Tr) and the packet loss (Ppl, BurstR).

use std::time::Duration;

/// A codec and what G.113 says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// G.711 with packet loss concealment by its Appendix I, 20 ms a packet.
    G711,
    /// G.729 Annex A with voice activity detection, two frames of 10 ms a packet.
    G729,
    /// Opus (RFC 6716), 20 ms a packet. G.113 has no value for the narrowband scale, at whose top this codec is: it is
    /// taken for as good as G.711, and for as robust.
    Opus,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::G711, Self::G729, Self::Opus];

    /// In JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G711 => "g711",
            Self::G729 => "g729",
            Self::Opus => "opus",
        }
    }

    /// Equipment impairment Ie and packet loss robustness Bpl (G.113 Appendix I; random loss).
    const fn robustness(self) -> (f64, f64) {
        match self {
            Self::G711 | Self::Opus => (0.0, 25.1),
            Self::G729 => (11.0, 19.0),
        }
    }

    /// Packetisation and look-ahead.
    const fn delay(self) -> Duration {
        match self {
            Self::G711 => Duration::from_millis(20),
            Self::G729 => Duration::from_millis(25),
            Self::Opus => Duration::from_micros(26_500),
        }
    }
}

/// What a call meets on a path, in the worse direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Call {
    /// Delay of the network, one way, with what the jitter buffer adds.
    pub delay: Duration,
    /// Packets lost, 0.0..=1.0.
    pub loss: f64,
    /// BurstR: mean length of bursts of loss over the one of random loss; 1 is random loss.
    pub burst_ratio: f64,
}

// Defaults of G.107 Table 2: loudness in dB, noise in dBm0p, T_ELR in dB.
const SLR: f64 = 8.0;
const RLR: f64 = 2.0;
const STMR: f64 = 15.0;
const DS: f64 = 3.0;
const DR: f64 = 3.0;
const TELR: f64 = 65.0;
const WEPL: f64 = 110.0;
const QDU: f64 = 1.0;
const NC: f64 = -70.0;
const NFOR: f64 = -64.0;
const PS: f64 = 35.0;
const PR: f64 = 35.0;
const OLR: f64 = SLR + RLR;

/// Ten to the power of a tenth.
fn linear(decibel: f64) -> f64 {
    10f64.powf(decibel / 10.0)
}

/// `(1 + x^n)^(1/n)`.
fn knee(x: f64, n: f64) -> f64 {
    (1.0 + x.powf(n)).powf(1.0 / n)
}

/// No: the sum of all noise at the 0 dBr point, dBm0p (clause 7.2).
fn noise() -> f64 {
    let sending = PS - SLR - DS - 100.0 + 0.004 * (PS - OLR - DS - 14.0).powi(2);
    let effective = PR + 10.0 * (1.0 + linear(10.0 - (STMR + DR))).log10();
    let receiving = RLR - 121.0 + effective + 0.008 * (effective - 35.0).powi(2);
    let floor = NFOR + RLR;
    10.0 * (linear(NC) + linear(sending) + linear(receiving) + linear(floor)).log10()
}

/// Is: what happens together with the voice (clause 7.3).
fn simultaneous(ro: f64, no: f64, one_way_ms: f64) -> f64 {
    let loud = OLR + 0.2 * (64.0 + no - RLR);
    let too_loud = 20.0 * (knee(loud / 8.0, 8.0) - loud / 8.0);
    let sidetone = -10.0 * (linear(-STMR) + (-one_way_ms / 4.0).exp() * linear(-TELR)).log10();
    let own_voice = 12.0 * knee((sidetone - 13.0) / 6.0, 8.0)
        - 28.0 * knee((sidetone + 1.0) / 19.4, 35.0)
        - 13.0 * knee((sidetone - 3.0) / 33.0, 13.0)
        + 29.0;
    let q = 37.0 - 15.0 * QDU.log10();
    let g = 1.07 + 0.258 * q + 0.0602 * q * q;
    let y = (ro - 100.0) / 15.0 + 46.0 / 8.4 - g / 9.0;
    let z = 46.0 / 30.0 - g / 40.0;
    let quantisation = 15.0 * (1.0 + 10f64.powf(y) + 10f64.powf(z)).log10();
    too_loud + own_voice + quantisation
}

/// Id: talker echo, listener echo, and delay itself (clause 7.4).
fn delay(ro: f64, no: f64, one_way_ms: f64) -> f64 {
    let t = one_way_ms;
    let round_trip_ms = 2.0 * t;
    let terv = TELR - 40.0 * ((1.0 + t / 10.0) / (1.0 + t / 150.0)).log10() + 6.0 * (-0.3 * t * t).exp();
    let talker_bound = -1.5 * (no - RLR);
    let talker = 80.0 + 2.5 * (terv - 14.0);
    let half = (talker_bound - talker) / 2.0;
    let talker_echo = (half + (half * half + 100.0).sqrt() - 1.0) * (1.0 - (-t).exp());
    let listener = 10.5 * (WEPL + 7.0) * (round_trip_ms + 1.0).powf(-0.25);
    let half = (ro - listener) / 2.0;
    let listener_echo = half + (half * half + 169.0).sqrt();
    let pure = if t > 100.0 {
        let x = (t / 100.0).log2();
        25.0 * (knee(x, 6.0) - 3.0 * knee(x / 3.0, 6.0) + 2.0)
    } else {
        0.0
    };
    talker_echo + listener_echo + pure
}

/// Ie-eff: codec and loss (clause 7.5); `loss` 0..=1.
fn equipment(codec: Codec, loss: f64, burst_ratio: f64) -> f64 {
    let (ie, bpl) = codec.robustness();
    let ppl = 100.0 * loss.clamp(0.0, 1.0);
    if ppl == 0.0 { ie } else { ie + (95.0 - ie) * ppl / (ppl / burst_ratio.max(1.0) + bpl) }
}

/// R: the rating of a call, about 0..=93.2.
pub fn rating(codec: Codec, call: &Call) -> f64 {
    let one_way_ms = (call.delay + codec.delay()).as_secs_f64() * 1e3;
    let no = noise();
    let ro = 15.0 - 1.5 * (SLR + no);
    ro - simultaneous(ro, no, one_way_ms) - delay(ro, no, one_way_ms) - equipment(codec, call.loss, call.burst_ratio)
}

/// Estimated mean opinion score of a rating, 1.0..=4.5 (G.107 Annex B).
pub fn opinion(rating: f64) -> f64 {
    let r = rating.clamp(0.0, 100.0);
    (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5)
}

#[cfg(test)]
mod tests;
