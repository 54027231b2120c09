//! Laws of the encodings.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::announcement::{self, LocalAnnouncement, SiteMessage};
use super::certificate::{Certificate, CertificateContent, RequestError, SiteRequest};
use super::fixtures::{self, Site, T0, at};
use super::keys::{IdentityKey, Secret, WireGuardKey};
use super::revocation::{ListError, PAGE_ENTRIES_MAX, RevocationList, RevocationPage, Revoked};
use super::wire::{self, DATAGRAM_MAX, DecodeError, EncodeError, Header, Reader};
use crate::engine::types::{RemoteUplink, SiteId, UplinkIndex};

fn decode(datagram: &[u8]) -> Result<SiteMessage, DecodeError> {
    let mut reader = Reader::new(datagram);
    let header = Header::decode(&mut reader)?;
    SiteMessage::decode(header, reader)
}

/// What a stranger's datagram meets first. Must end well whatever the bytes are.
fn decode_anything(bytes: &[u8]) {
    let _ = decode(bytes);
    let _ = RevocationPage::decode_datagram(bytes);
    let _ = Certificate::decode(bytes);
    let _ = SiteRequest::open(bytes);
    let _ = RevocationList::from_file(bytes, &fixtures::authority().public());
}

fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = (1u8..100, any::<[u8; 3]>(), 8u8..=32)
        .prop_map(|(a, [b, c, d], length)| IpNet::V4(Ipv4Net::new([a, b, c, d].into(), length).unwrap().trunc()));
    let v6 = (any::<[u16; 7]>(), 16u8..=128).prop_map(|(rest, length)| {
        let mut segments = [0x2001; 8];
        segments[1..].copy_from_slice(&rest);
        IpNet::V6(Ipv6Net::new(segments.into(), length).unwrap().trunc())
    });
    proptest::collection::vec(prop_oneof![v4, v6], 0..12)
}

fn local() -> impl Strategy<Value = LocalAnnouncement> {
    let address = prop_oneof![
        (1u8..120, any::<[u8; 3]>())
            .prop_filter("loopback", |(a, _)| *a != 127)
            .prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<[u16; 7]>().prop_map(|rest| {
            let mut segments = [0x2001; 8];
            segments[1..].copy_from_slice(&rest);
            IpAddr::from(segments)
        }),
    ];
    let uplink = ("[a-z][a-z0-9.-]{0,12}", any::<u16>(), proptest::collection::vec(address, 0..4));
    let uplinks = proptest::collection::btree_map(0u8..8, uplink, 0..4);
    (any::<[u8; 32]>(), proptest::option::of(any::<[u8; 32]>()), 1u16..=65_472, uplinks, prefixes())
        .prop_filter("keys", |(key, next, ..)| *key != [0; 32] && *next != Some([0; 32]) && *next != Some(*key))
        .prop_map(|(wireguard_key, next_wireguard_key, base_port, uplinks, prefixes)| LocalAnnouncement {
            wireguard_key,
            next_wireguard_key,
            base_port,
            uplinks: uplinks
                .into_iter()
                .map(|(index, (name, mtu, addresses))| RemoteUplink {
                    index: UplinkIndex::new(index).unwrap(),
                    name,
                    addresses,
                    mtu,
                    rate_down_kbps: Some(u32::from(mtu) * 7).filter(|rate| *rate != 0),
                })
                .collect(),
            prefixes,
        })
}

fn sorted(mut prefixes: Vec<IpNet>) -> Vec<IpNet> {
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

proptest! {
    #[test]
    fn an_announcement_reads_back_as_it_was_written(
        local in local(), sequence in 1..=super::persist::SEQUENCE_MAX, time: u64,
    ) {
        let key = IdentityKey::from_secret(&Secret::new([3; 32]));
        let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let certificate = Site::certify(&key, 3, everything, T0, T0 + 1);
        let datagram = announcement::sign_announcement(&certificate, sequence, time, &local, &key).unwrap();
        prop_assert_eq!(announcement::check(&certificate, &local), Ok(datagram.len()));
        prop_assert!(datagram.len() <= DATAGRAM_MAX);
        let message = decode(&datagram).unwrap();
        message.verify(&datagram, &key.public()).unwrap();
        prop_assert_eq!((message.sequence, message.made_unix_ms), (sequence, time));
        prop_assert_eq!(&message.certificate, &certificate);
        let content = message.content.unwrap();
        prop_assert_eq!(sorted(content.prefixes.clone()), sorted(local.prefixes.clone()));
        // One encoding per value: what was read is written the same again.
        let again = announcement::sign_announcement(&certificate, sequence, time, &content, &key).unwrap();
        prop_assert_eq!(again, datagram);
        prop_assert_eq!(LocalAnnouncement { prefixes: Vec::new(), ..content }, LocalAnnouncement {
            prefixes: Vec::new(), ..local
        });
    }

    #[test]
    fn a_certificate_reads_back_as_it_was_written(prefixes in prefixes(), from: u32, life in 1..u64::from(u32::MAX)) {
        let key = IdentityKey::from_secret(&Secret::new([3; 32]));
        let certificate = Site::certify(&key, 3, prefixes.clone(), from.into(), u64::from(from) + life);
        let read = Certificate::decode(certificate.bytes()).unwrap();
        prop_assert_eq!(&read, &certificate);
        prop_assert!(read.verify(&fixtures::authority().public()).is_ok());
        prop_assert_eq!(sorted(read.content.prefixes.clone()), sorted(prefixes));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        decode_anything(&bytes);
        decode_anything(&[&wire::MAGIC[..], &[wire::VERSION, 1], &bytes].concat());
        decode_anything(&[&wire::MAGIC[..], &[wire::VERSION, 3], &bytes].concat());
        decode_anything(&[b"SDWC\x01", &bytes[..]].concat());
    }

    #[test]
    fn changed_bytes_are_never_believed(
        place in any::<prop::sample::Index>(), change in 1u8..=255, cut in any::<prop::sample::Index>(),
    ) {
        let site = Site::new(1);
        for datagram in [site.announce(5, at(0)), site.leave(5, at(0))] {
            let mut changed = datagram.clone();
            changed[place.index(datagram.len())] ^= change;
            decode_anything(&changed);
            if let Ok(message) = decode(&changed) {
                let authentic = message.mesh == fixtures::mesh().id
                    && message.certificate.verify(&fixtures::authority().public()).is_ok()
                    && message.verify(&changed, &message.certificate.identity_key().unwrap()).is_ok();
                prop_assert!(!authentic);
            }
            let cut = &datagram[..cut.index(datagram.len())];
            decode_anything(cut);
            prop_assert!(decode(cut).is_err());
        }
    }

    #[test]
    fn long_lists_cannot_be_claimed(count: u8, rest in proptest::collection::vec(any::<u8>(), 0..40)) {
        let bytes = [&[count][..], &rest].concat();
        if let Ok(prefixes) = Reader::new(&bytes).prefixes("prefixes") {
            prop_assert!(prefixes.len() * 2 <= bytes.len() && prefixes.capacity() <= bytes.len());
        }
    }
}

#[test]
fn every_single_bit_of_an_announcement_is_protected() {
    let site = Site::new(1);
    let datagram = site.announce(5, at(0));
    for bit in 0..datagram.len() * 8 {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(message) = decode(&changed) else { continue };
        if message.mesh != fixtures::mesh().id {
            continue;
        }
        let admitted = message.certificate.verify(&fixtures::authority().public());
        let signed = message.verify(&changed, &site.key.public());
        assert!(admitted.is_err() || signed.is_err(), "bit {bit} of byte {}", bit / 8);
    }
}

#[test]
fn a_signature_over_one_kind_of_message_is_none_over_another() {
    let site = Site::new(1);
    let mut datagram = site.leave(5, at(0));
    datagram[5] = wire::Kind::Announcement.code();
    assert!(decode(&datagram).is_err(), "a leave message has no content");
    let message = b"the same bytes";
    let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let signature = wire::sign(&secret, announcement::ANNOUNCEMENT_DOMAIN, message);
    let public = secret.verifying_key();
    assert!(wire::verify(&public, announcement::ANNOUNCEMENT_DOMAIN, message, &signature).is_ok());
    for other in [
        announcement::LEAVE_DOMAIN,
        super::certificate::CERTIFICATE_DOMAIN,
        super::certificate::REQUEST_DOMAIN,
        super::revocation::REVOCATIONS_DOMAIN,
        super::mesh::MESH_DOMAIN,
    ] {
        assert!(wire::verify(&public, other, message, &signature).is_err());
    }
}

#[test]
fn a_request_proves_that_its_maker_holds_the_identity() {
    let key = IdentityKey::from_secret(&Secret::new([3; 32]));
    let request = SiteRequest::sign(fixtures::mesh().id, "berlin", T0, &key).unwrap();
    assert_eq!(SiteRequest::open(request.bytes()).unwrap(), request);
    let mut stolen = request.bytes().to_vec();
    let identity = IdentityKey::from_secret(&Secret::new([4; 32])).public();
    stolen[21..53].copy_from_slice(identity.as_bytes());
    assert!(matches!(SiteRequest::open(&stolen), Err(RequestError::Signature(_))));
}

#[test]
fn what_does_not_fit_a_datagram_is_an_error_that_says_so() {
    let mut site = Site::new(1);
    site.local.uplinks = (0..8)
        .map(|index| RemoteUplink {
            index: UplinkIndex::new(index).unwrap(),
            name: format!("a-rather-long-name-of-an-uplink-{index}").chars().take(32).collect(),
            addresses: vec!["2001:db8::1".parse().unwrap(); 8],
            mtu: 1_500,
            rate_down_kbps: None,
        })
        .collect();
    let error = announcement::check(&site.certificate, &site.local).unwrap_err();
    assert!(matches!(error, EncodeError::TooLarge { .. }), "{error}");
    let content = CertificateContent {
        prefixes: (0..200u8).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect(),
        ..site.certificate.content.clone()
    };
    assert!(matches!(Certificate::sign(content, &fixtures::authority()), Err(EncodeError::TooLarge { .. })));
}

#[test]
fn values_that_no_decoder_takes_are_not_written() {
    let site = Site::new(1);
    type Change = fn(&mut LocalAnnouncement);
    let changes: [Change; 8] = [
        |local| local.wireguard_key = [0; 32],
        |local| local.next_wireguard_key = Some(local.wireguard_key),
        |local| local.base_port = 0,
        |local| local.base_port = 65_473,
        |local| local.uplinks[0].name = "a name".into(),
        |local| local.uplinks[0].addresses = vec!["127.0.0.1".parse().unwrap()],
        |local| local.uplinks.push(local.uplinks[0].clone()),
        |local| local.prefixes = vec!["10.77.0.0/16".parse().unwrap()],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut local = site.local.clone();
        change(&mut local);
        assert!(matches!(announcement::check(&site.certificate, &local), Err(EncodeError::Invalid { .. })), "{number}");
    }
}

#[test]
fn revocations_fill_pages_and_survive_their_file() {
    let key = fixtures::authority();
    let mut list = RevocationList::default();
    for number in 0..200u8 {
        let entry =
            if number % 2 == 0 { Revoked::Site(SiteId([number; 16])) } else { Revoked::Certificate([number; 16]) };
        assert!(list.revoke(entry, T0, &key).unwrap().is_some());
        assert_eq!(list.revoke(entry, T0, &key), Ok(None), "once is enough");
    }
    assert_eq!(list.entries().count(), 200);
    assert_eq!(list.pages().count(), 200usize.div_ceil(PAGE_ENTRIES_MAX));
    assert!(list.pages().all(|page| page.bytes().len() <= DATAGRAM_MAX));
    let mut file = list.to_file();
    let read = RevocationList::from_file(&file, &key.public()).unwrap();
    assert!(read.pages().eq(list.pages()));
    let last = file.len() - 1;
    file[last] ^= 1;
    assert!(matches!(RevocationList::from_file(&file, &key.public()), Err(ListError::Signature(_))));
    assert!(matches!(RevocationList::from_file(&file[..last], &key.public()), Err(ListError::Decode(_))));
}

#[test]
fn an_older_page_never_replaces_a_newer_one() {
    let key = fixtures::authority();
    let mut list = RevocationList::default();
    list.revoke(Revoked::Certificate([1; 16]), T0, &key).unwrap();
    let old = list.page(0).unwrap().clone();
    list.revoke(Revoked::Certificate([2; 16]), T0, &key).unwrap();
    assert!(!list.insert(old));
    assert_eq!(list.entries().count(), 2);
}

#[test]
fn wireguard_keys_are_those_of_the_wireguard_tools() {
    // Made with `wg genkey | wg pubkey`.
    use base64::Engine;
    let decode = |text: &str| -> [u8; 32] {
        base64::engine::general_purpose::STANDARD.decode(text).unwrap().try_into().unwrap()
    };
    let key = WireGuardKey::from_secret(&Secret::new(decode("6MS7rU68yBh33rhz5gOU7Sjk+vHRV4sF9SwohLAaFlg=")));
    assert_eq!(key.public(), decode("272NhBpbl4k3Xt4KBOfBiEQ9qg840vYsEabctI0SiiY="));
    let control = wireguard_control::Key(*key.secret());
    assert_eq!(control.get_public().0, key.public());
    let fresh = WireGuardKey::generate().secret();
    assert_eq!((fresh[0] & 7, fresh[31] & 0xc0), (0, 0x40), "clamped");
}

#[test]
fn secrets_are_not_printed() {
    let key = IdentityKey::from_secret(&Secret::new([0x5a; 32]));
    assert!(!format!("{key:?}").contains("5a5a5a"));
}
