//! What a reflector's packet says: the base packet, and those of its TLVs that may be used (RFC 8972 section 4).

use sdwan_common::stamp::direct::{self, DirectMeasurement};
use sdwan_common::stamp::tlv::{ClassOfService, FollowUp, TimestampInformation, kind};
use sdwan_common::stamp::{ReflectorPacket, TLV_HEADER_LENGTH, Tlvs, tlv_flag};
use serde::Serialize;

use super::question::Form;
use crate::measure::stamp::answer::Mode;

/// Why a packet is no answer to this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is too short.
    Truncated,
    /// The hash of its base packet is wrong.
    BadHmac,
    /// It belongs to another session.
    OtherSession,
}

/// What became of the TLVs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlvState {
    /// There are none.
    #[default]
    Absent,
    /// They were read.
    Read,
    /// The reflector found them or one of them malformed; what came before was read.
    Malformed,
    /// The reflector could not authenticate them; none was used.
    RefusedByReflector,
    /// Their hash is wrong or missing; none was used.
    BadHmac,
}

/// The contents of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The base packet.
    pub packet: ReflectorPacket,
    /// What became of the TLVs.
    pub state: TlvState,
    /// Class of service, if the reflector understands that.
    pub class: Option<ClassOfService>,
    /// Timestamp information, if it does.
    pub timestamps: Option<TimestampInformation>,
    /// Follow-up telemetry, if it does.
    pub follow_up: Option<FollowUp>,
    /// Direct measurement, if it does.
    pub direct: Option<DirectMeasurement>,
}

/// Reads a packet from the reflector's address and port.
///
/// # Errors
/// When it is no answer to this session.
pub fn read(payload: &[u8], form: &Form) -> Result<Reading, Unreadable> {
    let packet = match form.mode {
        Mode::Unauthenticated => ReflectorPacket::decode(payload).map_err(|_| Unreadable::Truncated)?,
        Mode::Authenticated => {
            let packet = ReflectorPacket::decode_authenticated(payload).map_err(|_| Unreadable::Truncated)?;
            if !form.key.as_ref().is_some_and(|key| key.verifies_base(payload)) {
                return Err(Unreadable::BadHmac);
            }
            packet
        }
    };
    // A reflector of before RFC 8972 has zeros there (section 3).
    if packet.session != form.session && packet.session != 0 {
        return Err(Unreadable::OtherSession);
    }
    let mut reading =
        Reading { packet, state: TlvState::Absent, class: None, timestamps: None, follow_up: None, direct: None };
    let tlvs = &payload[form.mode.base_length()..];
    if Tlvs::in_bytes(tlvs).next().is_none() {
        return Ok(reading);
    }
    reading.state = if Tlvs::in_bytes(tlvs).any(|tlv| tlv.flags & tlv_flag::INTEGRITY != 0) {
        TlvState::RefusedByReflector
    } else if !authentic(tlvs, packet.sequence, form) {
        TlvState::BadHmac
    } else {
        TlvState::Read
    };
    if reading.state == TlvState::Read {
        use_tlvs(tlvs, &mut reading);
    }
    Ok(reading)
}

/// Whether the TLVs may be used as far as their hash goes.
fn authentic(tlvs: &[u8], sequence: u32, form: &Form) -> bool {
    let Some(key) = &form.key else { return true };
    let mut at = 0;
    let mut only_padding = true;
    for tlv in Tlvs::in_bytes(tlvs) {
        if tlv.kind == kind::HMAC {
            let behind = &tlvs[at + TLV_HEADER_LENGTH + tlv.value.len()..];
            return key.verifies_tlvs(sequence, &tlvs[..at], tlv.value)
                && Tlvs::in_bytes(behind).all(|tlv| tlv.kind == kind::EXTRA_PADDING);
        }
        only_padding &= tlv.kind == kind::EXTRA_PADDING;
        at += TLV_HEADER_LENGTH + tlv.value.len();
    }
    only_padding
}

fn use_tlvs(tlvs: &[u8], reading: &mut Reading) {
    let mut all = Tlvs::in_bytes(tlvs);
    for tlv in all.by_ref() {
        if tlv.flags & tlv_flag::MALFORMED != 0 {
            reading.state = TlvState::Malformed;
            return;
        }
        if tlv.flags & tlv_flag::UNRECOGNIZED != 0 {
            continue;
        }
        match tlv.kind {
            kind::CLASS_OF_SERVICE => reading.class = tlv.value.try_into().ok().map(ClassOfService::decode),
            kind::TIMESTAMP_INFORMATION => {
                reading.timestamps = tlv.value.first_chunk().map(TimestampInformation::decode);
            }
            kind::FOLLOW_UP => reading.follow_up = tlv.value.try_into().ok().map(FollowUp::decode),
            kind::DIRECT_MEASUREMENT => {
                let mut whole = [0; direct::LENGTH];
                if tlv.value.len() == direct::VALUE_LENGTH {
                    whole[..TLV_HEADER_LENGTH].copy_from_slice(&[0, direct::TYPE, 0, direct::VALUE_LENGTH as u8]);
                    whole[TLV_HEADER_LENGTH..].copy_from_slice(tlv.value);
                    reading.direct = DirectMeasurement::from_bytes(&whole);
                }
            }
            _ => {}
        }
    }
    if all.rest().len() >= TLV_HEADER_LENGTH {
        reading.state = TlvState::Malformed;
    }
}
