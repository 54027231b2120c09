//! The sender's packets: a base packet, the TLVs that ask for more, padding, and a hash (RFC 8762 section 4.2, RFC 8972
//! section 4).

use rand::RngCore;
use sdwan_common::stamp::direct::DirectMeasurement;
use sdwan_common::stamp::tlv::{ClassOfService, FollowUp, HMAC_LENGTH, TimestampInformation, kind};
use sdwan_common::stamp::{SenderPacket, TLV_HEADER_LENGTH, Timestamp, direct, tlv_flag};

use crate::measure::stamp::MAXIMUM_PAYLOAD;
use crate::measure::stamp::answer::{ClockQuality, Mode};
use crate::measure::stamp::key::Key;

/// What the packets of a session are like.
#[derive(Clone, Debug)]
pub struct Form {
    /// The mode.
    pub mode: Mode,
    /// The key; the authenticated mode needs one. In the other it protects the TLVs alone.
    pub key: Option<Key>,
    /// Session identifier, not 0.
    pub session: u16,
    /// Timestamps in PTPv2 format; NTP otherwise.
    pub ptp: bool,
    /// Whether TLVs ask for class of service, timestamp information, follow-up telemetry and direct measurement.
    pub ask: bool,
    /// The DSCP that answers shall have, 0..=63.
    pub wanted_dscp: u8,
    /// UDP payload, bytes; `None`: no padding.
    pub size: Option<usize>,
}

/// A size that packets can't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packets of {size} bytes are not possible here: use {least} bytes for no padding, or {padded} to {most}")]
pub struct SizeError {
    size: usize,
    least: usize,
    padded: usize,
    most: usize,
}

/// A form that was checked, and its padding.
#[derive(Clone, Debug)]
pub struct Questions {
    form: Form,
    padding: Option<Vec<u8>>,
}

impl Questions {
    /// Checks the size. Padding is pseudo-random (RFC 8972 section 4.1).
    ///
    /// # Errors
    /// A size that is too small for the rest, too large, or can't be reached with a TLV.
    pub fn new(form: Form) -> Result<Self, SizeError> {
        let least = least_length(&form);
        let padding = match form.size {
            None => None,
            Some(size) if size == least => None,
            Some(size) => {
                let padded = least + TLV_HEADER_LENGTH;
                if !(padded..=MAXIMUM_PAYLOAD).contains(&size) {
                    return Err(SizeError { size, least, padded, most: MAXIMUM_PAYLOAD });
                }
                let mut padding = vec![0; size - padded];
                rand::rng().fill_bytes(&mut padding);
                Some(padding)
            }
        };
        Ok(Self { form, padding })
    }

    /// The form.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Bytes of a UDP payload.
    pub fn length(&self) -> usize {
        least_length(&self.form) + self.padding.as_ref().map_or(0, |padding| TLV_HEADER_LENGTH + padding.len())
    }

    /// Writes a packet, which is the `transmitted`th, to `out`. Returns its timestamp.
    pub fn write(
        &self,
        sequence: u32,
        transmitted: u32,
        clock: ClockQuality,
        now_unix_ns: u64,
        out: &mut Vec<u8>,
    ) -> Timestamp {
        let form = &self.form;
        let timestamp = Timestamp::in_format(now_unix_ns, form.ptp);
        let packet =
            SenderPacket { sequence, timestamp, error_estimate: clock.estimate(form.ptp), session: form.session };
        out.clear();
        match (form.mode, &form.key) {
            (Mode::Authenticated, Some(key)) => {
                let mut base = packet.encode_authenticated();
                key.sign_base(&mut base);
                out.extend_from_slice(&base);
            }
            _ => out.extend_from_slice(&packet.encode()),
        }
        let tlvs = out.len();
        if form.ask {
            let class = ClassOfService { wanted: form.wanted_dscp, ..ClassOfService::default() };
            put(out, kind::CLASS_OF_SERVICE, &class.encode());
            put(out, kind::TIMESTAMP_INFORMATION, &TimestampInformation::default().encode());
            put(out, kind::FOLLOW_UP, &FollowUp::default().encode());
            let counters = DirectMeasurement { sender_transmitted: transmitted, ..DirectMeasurement::default() };
            out.extend_from_slice(&counters.encode());
        }
        if let Some(padding) = &self.padding {
            put(out, kind::EXTRA_PADDING, padding);
        }
        if let Some(key) = form.key.as_ref().filter(|_| has_hash(form)) {
            let hash = key.sign_tlvs(sequence, &out[tlvs..]);
            put(out, kind::HMAC, &hash);
        }
        timestamp
    }
}

/// Bytes of a packet without padding.
fn least_length(form: &Form) -> usize {
    let asks = TLV_HEADER_LENGTH * 3
        + ClassOfService::LENGTH
        + TimestampInformation::LENGTH
        + FollowUp::LENGTH
        + direct::LENGTH;
    let hash = if has_hash(form) { TLV_HEADER_LENGTH + HMAC_LENGTH } else { 0 };
    form.mode.base_length() + if form.ask { asks } else { 0 } + hash
}

/// RFC 8972 section 4.8: TLVs of an authenticated packet are authenticated too, unless there is nothing but padding.
fn has_hash(form: &Form) -> bool {
    form.key.is_some() && form.ask
}

/// A sender sets U and clears the other flags (RFC 8972 section 4).
fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // A packet, and so a value in it, has at most [`MAXIMUM_PAYLOAD`] bytes.
    let [high, low] = (value.len() as u16).to_be_bytes();
    out.extend_from_slice(&[tlv_flag::UNRECOGNIZED, kind, high, low]);
    out.extend_from_slice(value);
}
