use super::super::announcement;
use super::super::fixtures::{self, LIFE, Site, at};
use super::limits::{Bucket, Rate};
use super::*;
use crate::trust::keys::AuthorityKey;
use crate::trust::keys::Secret;

struct Bench {
    verifier: Verifier,
    me: Site,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(VerifierLimits::default())
    }

    fn with_limits(limits: VerifierLimits) -> Self {
        let me = Site::new(200);
        let mut verifier = Verifier::new(fixtures::mesh(), me.id(), RevocationList::default(), limits);
        verifier.set_own_keys([me.local.wireguard_key]);
        Self { verifier, me }
    }

    fn judge(&mut self, ms: u64, datagram: &[u8]) -> Result<Verdict, Refusal> {
        self.judge_from(ms, "198.51.100.1".parse().unwrap(), datagram)
    }

    fn judge_from(&mut self, ms: u64, source: IpAddr, datagram: &[u8]) -> Result<Verdict, Refusal> {
        self.verifier.judge(at(ms), source, false, datagram).map_err(|refused| refused.reason)
    }

    #[track_caller]
    fn accept(&mut self, ms: u64, datagram: &[u8]) -> Verified {
        match self.judge(ms, datagram) {
            Ok(Verdict::Announcement(verified)) => *verified,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refuse(&mut self, ms: u64, datagram: &[u8], reason: Refusal) {
        match self.judge(ms, datagram) {
            Err(refusal) => assert_eq!(refusal, reason),
            other => panic!("{other:?} instead of {reason}"),
        }
    }
}

#[test]
fn a_good_announcement_becomes_a_site() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    let datagram = site.announce(7, at(0));
    let verified = bench.accept(0, &datagram);
    assert!(verified.changed);
    assert_eq!((verified.sequence, &*verified.bytes), (7, &datagram[..]));
    assert_eq!(verified.site.id, site.id());
    assert_eq!(verified.site.name, "site-1");
    assert_eq!(verified.site.wireguard_key, site.local.wireguard_key);
    assert_eq!(verified.site.uplinks, site.local.uplinks);
    assert_eq!(verified.site.overlay, fixtures::mesh().overlay_address(site.id()));
}

#[test]
fn the_same_bytes_again_are_known_and_cost_no_verification() {
    let mut bench = Bench::new();
    let datagram = Site::new(1).announce(7, at(0));
    bench.accept(0, &datagram);
    let verifications = bench.verifier.counters().verifications;
    for _ in 0..10_000 {
        assert!(matches!(bench.judge(1, &datagram), Ok(Verdict::Known(_))));
    }
    assert_eq!(bench.verifier.counters().verifications, verifications);
}

#[test]
fn a_certificate_is_verified_once() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    for sequence in 1..=50 {
        let verified = bench.accept(sequence * 1_000, &site.announce(sequence, at(0)));
        assert_eq!(verified.changed, sequence == 1);
    }
    let counters = bench.verifier.counters();
    assert_eq!((counters.verifications, counters.certificate_hits), (51, 49));
}

#[test]
fn each_defect_has_its_refusal() {
    let mut bench = Bench::new();
    let mut site = Site::new(1);
    let good = site.announce(7, at(0));
    let with = |place: usize, change: u8| {
        let mut datagram = good.clone();
        datagram[place] ^= change;
        datagram
    };
    bench.refuse(0, &[0; DATAGRAM_MAX + 1], Refusal::Oversized);
    bench.refuse(0, &good[..good.len() - 1], Refusal::Truncated);
    bench.refuse(0, &[], Refusal::Truncated);
    bench.refuse(0, &[&good[..], &[0]].concat(), Refusal::Malformed);
    bench.refuse(0, &with(0, 1), Refusal::Malformed);
    bench.refuse(0, &with(4, 2), Refusal::Version);
    bench.refuse(0, &with(6, 1), Refusal::WrongMesh);
    bench.refuse(0, &with(good.len() - 1, 1), Refusal::BadSignature);
    // The first byte of the identity, after header, length, tag, version and mesh id.
    bench.refuse(0, &with(22 + 2 + 5 + 16, 1), Refusal::BadCertificateSignature);
    let unsigned = [&good[..good.len() - 64], &[0; 64]].concat();
    bench.refuse(0, &unsigned, Refusal::BadSignature);

    let stranger = AuthorityKey::from_secret(&Secret::new([0xbb; 32]));
    let mut forged = Site::new(1);
    forged.certificate = Certificate::sign(forged.certificate.content.clone(), &stranger).unwrap();
    bench.refuse(0, &forged.announce(7, at(0)), Refusal::BadCertificateSignature);

    let prefixes = site.certificate.content.prefixes.clone();
    site.certificate = Site::certify(&site.key, 1, prefixes.clone(), fixtures::T0 + 10, fixtures::T0 + 20);
    bench.refuse(9_999, &site.announce(7, at(0)), Refusal::NotYetValid);
    bench.accept(10_000, &site.announce(7, at(0)));
    bench.refuse(20_000, &site.announce(8, at(0)), Refusal::Expired);
    assert!(bench.verifier.site(site.id()).is_some(), "a refusal changes nothing");
}

#[test]
fn a_prefix_outside_the_certificate_is_refused() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    // Signed under a wide certificate, then the narrow one put in its place: only the site itself could do this.
    let wide = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    for (number, prefix) in ["10.2.0.0/16", "10.0.0.0/8", "fd00:1::/47", "10.1.0.0/15"].into_iter().enumerate() {
        let mut local = site.local.clone();
        local.prefixes = vec![prefix.parse::<ipnet::IpNet>().unwrap().trunc()];
        let datagram = sign_unchecked(&site, &local, 7 + number as u64);
        bench.refuse(0, &datagram, Refusal::PrefixOutsideCertificate);
    }
    let mut greedy = Site::new(2);
    greedy.certificate = Site::certify(&greedy.key, 2, wide, fixtures::T0 - 1, fixtures::T0 + LIFE);
    greedy.local.prefixes = vec![fixtures::mesh().overlay];
    bench.refuse(0, &greedy.announce(1, at(0)), Refusal::PrefixOutsideCertificate);
    assert!(bench.verifier.site(site.id()).is_none());
}

/// Signs an announcement that an honest site would not make.
fn sign_unchecked(site: &Site, local: &announcement::LocalAnnouncement, sequence: u64) -> Vec<u8> {
    let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let wide = Site::certify(&site.key, site.number, everything, 1, u64::MAX);
    let datagram = announcement::sign_announcement(&wide, sequence, at(0).unix_ms, local, &site.key).unwrap();
    let after = 22 + 2 + wide.bytes().len();
    let narrow = site.certificate.bytes();
    let body = &datagram[after..datagram.len() - 64];
    let length = (narrow.len() as u16).to_be_bytes();
    let signed = [&datagram[..22], &length, narrow, body].concat();
    let signature = site.key.sign(announcement::ANNOUNCEMENT_DOMAIN, &signed);
    [&signed[..], &signature].concat()
}

#[test]
fn old_numbers_are_refused_before_anything_is_verified() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    bench.accept(0, &site.announce(7, at(0)));
    let verifications = bench.verifier.counters().verifications;
    bench.refuse(0, &site.announce(6, at(0)), Refusal::Replayed);
    assert_eq!(bench.verifier.counters().verifications, verifications);
    bench.refuse(0, &site.announce(7, at(1)), Refusal::Replayed);
    bench.refuse(0, &site.leave(7, at(1)), Refusal::Replayed);
    let mut forged = site.announce(7, at(0));
    *forged.last_mut().unwrap() ^= 1;
    bench.refuse(0, &forged, Refusal::BadSignature);
    assert!(bench.verifier.site(site.id()).is_some());
}

#[test]
fn an_announcement_that_its_successor_overtook_is_known_for_a_while() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    let (first, second) = (site.announce(7, at(0)), site.announce(8, at(1)));
    bench.accept(0, &first);
    bench.accept(1, &second);
    assert!(matches!(bench.judge(1, &first), Ok(Verdict::Known(_))), "gossip may be quicker than the direct way");
    bench.refuse(30_000, &first, Refusal::Replayed);
    bench.accept(30_000, &site.announce(9, at(30_000)));
    bench.refuse(30_000, &first, Refusal::Replayed);
}

#[test]
fn a_number_stays_used_after_leave_silence_and_restart() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    let first = site.announce(7, at(0));
    bench.accept(0, &first);
    bench.verifier.deactivate(site.id());
    assert!(matches!(bench.judge(0, &first), Ok(Verdict::Known(_))), "known, and not active again");
    assert!(bench.verifier.site(site.id()).is_none());

    let leave = site.leave(8, at(0));
    assert!(matches!(bench.judge(0, &leave), Ok(Verdict::Leave { was_active: false, .. })));
    bench.refuse(0, &first, Refusal::Replayed);
    assert!(matches!(bench.judge(0, &leave), Ok(Verdict::Known(_))));

    let stored = |bytes: &[u8], sequence| StoredAnnouncement {
        site: site.id(),
        sequence,
        accepted_unix: fixtures::T0,
        bytes: bytes.into(),
    };
    let mut restarted = Bench::new();
    assert!(restarted.verifier.load(at(0), vec![stored(&leave, 8)]).active.is_empty());
    restarted.refuse(0, &first, Refusal::Replayed);
    let mut forgotten = Bench::new();
    assert!(forgotten.verifier.load(at(0), vec![stored(&[], 8)]).active.is_empty());
    forgotten.refuse(0, &first, Refusal::Replayed);
    forgotten.accept(0, &site.announce(9, at(0)));
}

#[test]
fn stored_sites_are_active_at_once_unless_they_may_not_be() {
    let site = Site::new(1);
    let stored = vec![StoredAnnouncement {
        site: site.id(),
        sequence: 7,
        accepted_unix: fixtures::T0,
        bytes: site.announce(7, at(0)).into(),
    }];
    let mut bench = Bench::new();
    assert_eq!(bench.verifier.load(at(0), stored.clone()).active.len(), 1);
    assert!(bench.verifier.site(site.id()).is_some());

    let mut late = Bench::new();
    assert!(late.verifier.load(at(LIFE * 1_000), stored.clone()).active.is_empty());
    assert_eq!(late.judge(0, &site.announce(6, at(0))).unwrap_err(), Refusal::Replayed, "the number is kept");

    let mut tampered = stored.clone();
    tampered[0].bytes = {
        let mut bytes = stored[0].bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        bytes.into()
    };
    assert!(Bench::new().verifier.load(at(0), tampered).active.is_empty());
}

#[test]
fn revocation_removes_and_refuses() {
    let (one, two) = (Site::new(1), Site::new(2));
    let key = fixtures::authority();
    let mut bench = Bench::new();
    bench.accept(0, &one.announce(1, at(0)));
    bench.accept(0, &two.announce(1, at(0)));
    let mut list = RevocationList::default();
    list.revoke(Revoked::Site(one.id()), fixtures::T0, &key).unwrap();
    let page = list.page(0).unwrap().bytes().clone();
    match bench.judge(0, &page) {
        Ok(Verdict::Revocations { removed, .. }) => assert_eq!(removed, [one.id()]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(bench.judge(0, &page), Ok(Verdict::KnownRevocations)));
    bench.refuse(0, &one.announce(2, at(0)), Refusal::Revoked);
    bench.accept(0, &two.announce(2, at(0)));

    list.revoke(Revoked::Certificate(two.certificate.fingerprint()), fixtures::T0, &key).unwrap();
    let newer = list.page(0).unwrap().bytes().clone();
    assert!(matches!(bench.judge(0, &newer), Ok(Verdict::Revocations { .. })));
    bench.refuse(0, &page, Refusal::Replayed);
    bench.refuse(0, &two.announce(3, at(0)), Refusal::Revoked);
    let mut renewed = Site::new(2);
    let prefixes = two.certificate.content.prefixes.clone();
    renewed.certificate = Site::certify(&two.key, 2, prefixes, fixtures::T0 - 60, fixtures::T0 + LIFE);
    bench.accept(0, &renewed.announce(3, at(0)));

    let mut forged = newer.to_vec();
    forged[30] ^= 1;
    *forged.last_mut().unwrap() ^= 1;
    assert!(bench.judge(0, &forged).is_err());
}

#[test]
fn certificates_end_while_their_sites_are_active() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    bench.accept(0, &site.announce(1, at(0)));
    assert!(bench.verifier.expire(at((LIFE - 1) * 1_000)).is_empty());
    assert_eq!(bench.verifier.expire(at(LIFE * 1_000)), [site.id()]);
    assert!(bench.verifier.expire(at(LIFE * 1_000)).is_empty());
    assert!(bench.verifier.site(site.id()).is_none());
}

#[test]
fn time_counts_on_first_contact_only() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    let two_days = 2 * 86_400_000;
    bench.refuse(two_days, &site.announce(1, at(0)), Refusal::ClockSkew);
    bench.accept(two_days, &site.announce(2, at(two_days)));
    bench.accept(2 * two_days, &site.announce(3, at(0)));
}

#[test]
fn own_messages_come_back_in_silence_unless_they_are_ahead() {
    let mut bench = Bench::new();
    bench.verifier.set_own_sequence(10);
    let own = bench.me.announce(10, at(0));
    assert!(matches!(bench.judge(0, &own), Ok(Verdict::Own { ahead: None })));
    let ahead = bench.me.announce(11, at(0));
    assert!(matches!(bench.judge(0, &ahead), Ok(Verdict::Own { ahead: Some(11) })));
    let mut forged = bench.me.announce(12, at(0));
    *forged.last_mut().unwrap() ^= 1;
    bench.refuse(0, &forged, Refusal::BadSignature);
}

#[test]
fn a_wireguard_key_belongs_to_whom_announced_it_first() {
    let mut bench = Bench::new();
    let one = Site::new(1);
    bench.accept(0, &one.announce(1, at(0)));
    let mut thief = Site::new(2);
    thief.local.wireguard_key = one.local.wireguard_key;
    bench.refuse(0, &thief.announce(1, at(0)), Refusal::KeyInUse);
    thief.local.wireguard_key = [9; 32];
    thief.local.next_wireguard_key = Some(bench.me.local.wireguard_key);
    bench.refuse(0, &thief.announce(2, at(0)), Refusal::KeyInUse);
    bench.verifier.deactivate(one.id());
    thief.local.next_wireguard_key = Some(one.local.wireguard_key);
    bench.accept(0, &thief.announce(3, at(0)));
}

/// Two sites whose overlay addresses are equal in a small prefix.
fn colliding(mesh: &Mesh, except: SiteId) -> (Site, Site) {
    let mut seen: HashMap<IpAddr, u8> = HashMap::from([(mesh.overlay_address(except), 0)]);
    for number in 1..200 {
        let address = mesh.overlay_address(Site::new(number).id());
        match seen.insert(address, number) {
            Some(other) if other != 0 => return (Site::new(other), Site::new(number)),
            _ => {}
        }
    }
    panic!("no collision in a /24");
}

#[test]
fn of_two_sites_with_one_overlay_address_the_earlier_certificate_wins_in_any_order() {
    let mesh = Mesh::new("small", Some("100.64.0.0/24".parse().unwrap()), &fixtures::authority()).unwrap();
    let me = Site::new(200);
    let (a, mut b) = colliding(&mesh, me.id());
    b.certificate = Site::certify(
        &b.key,
        b.number,
        b.certificate.content.prefixes.clone(),
        a.certificate.content.not_before + 1,
        fixtures::T0 + LIFE,
    );
    let verifier = || Verifier::new(mesh.clone(), me.id(), RevocationList::default(), VerifierLimits::default());
    let source = "198.51.100.1".parse().unwrap();
    let (from_a, from_b) = (a.announce(1, at(0)), b.announce(1, at(0)));

    let mut first = verifier();
    assert!(first.judge(at(0), source, false, &from_a).is_ok());
    assert_eq!(first.judge(at(0), source, false, &from_b).unwrap_err().reason, Refusal::OverlayCollision);

    let mut second = verifier();
    assert!(second.judge(at(0), source, false, &from_b).is_ok());
    match second.judge(at(0), source, false, &from_a) {
        Ok(Verdict::Announcement(verified)) => assert_eq!(verified.displaced, Some(b.id())),
        other => panic!("{other:?}"),
    }
    for verifier in [&first, &second] {
        assert!(verifier.site(a.id()).is_some() && verifier.site(b.id()).is_none());
    }
}

#[test]
fn forgeries_are_limited_per_source_and_leave_others_alone() {
    let mut bench = Bench::new();
    let site = Site::new(1);
    let mut limited = 0;
    for sequence in 0..1_000 {
        let mut forged = site.announce(1 + sequence, at(0));
        *forged.last_mut().unwrap() ^= 1;
        match bench.judge(0, &forged) {
            Err(Refusal::BadSignature) => {}
            Err(Refusal::RateLimited) => limited += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(limited, 900, "a burst of 100 per source");
    assert!(bench.judge_from(0, "198.51.100.2".parse().unwrap(), &site.announce(1, at(0))).is_ok());
}

#[test]
fn a_flood_from_forged_sources_meets_a_bound_and_spares_acquaintances() {
    let mut bench = Bench::new();
    let friend = Site::new(1);
    bench.accept(0, &friend.announce(1, at(0)));
    let mut forged = Site::new(2).announce(1, at(0));
    *forged.last_mut().unwrap() ^= 1;
    let before = bench.verifier.counters().verifications;
    for source in 0..20_000u32 {
        let source = IpAddr::V4((0x0a00_0000 + source).into());
        assert!(bench.judge_from(0, source, &forged).is_err());
    }
    assert!(bench.verifier.counters().verifications - before <= 2 * 1_000);
    assert!(bench.verifier.sources.len() <= 1_024);
    assert!(bench.verifier.counters().sources_evicted > 0);
    bench.accept(1, &friend.announce(2, at(1)));
}

#[test]
fn tables_are_bounded() {
    let limits = VerifierLimits { sites: 4, certificates: 3, ..VerifierLimits::default() };
    let mut bench = Bench::with_limits(limits);
    for number in 1..=4 {
        bench.accept(0, &Site::new(number).announce(1, at(0)));
    }
    bench.refuse(0, &Site::new(5).announce(1, at(0)), Refusal::TooManySites);
    assert_eq!(bench.verifier.certificates.len(), 3);
    bench.verifier.deactivate(Site::new(1).id());
    bench.accept(0, &Site::new(5).announce(2, at(0)));
    assert_eq!(bench.verifier.counters().sites_evicted, 1);
}

#[test]
fn a_bucket_fills_again() {
    let mut bucket = Bucket::new(Rate { per_second: 10.0, burst: 2.0 }, Duration::ZERO);
    assert!(bucket.take(Duration::ZERO) && bucket.take(Duration::ZERO) && !bucket.take(Duration::ZERO));
    let ready = bucket.ready_at();
    assert_eq!(ready, Duration::from_micros(100_001));
    assert!(bucket.take(ready) && !bucket.take(Duration::from_millis(150)));
    assert!(bucket.take(Duration::from_secs(100)) && bucket.take(Duration::from_secs(100)));
    assert!(!bucket.take(Duration::from_secs(100)));
}

#[test]
fn a_wall_clock_that_is_set_by_a_year_ends_no_site_and_refuses_none() {
    for by_ms in [365 * 86_400_000_i64, -365 * 86_400_000] {
        let mut bench = Bench::new();
        let site = Site::new(1);
        bench.verifier.look_at_clocks(at(0));
        bench.accept(0, &site.announce(7, at(0)));
        let set = |ms: u64| Now { unix_ms: at(ms).unix_ms.saturating_add_signed(by_ms), ..at(ms) };
        assert!(bench.verifier.expire(set(1_000)).is_empty(), "before the jump was looked at");
        assert_eq!(bench.verifier.look_at_clocks(set(1_000)), Some(ClockChange::Doubted(by_ms)));
        assert!(bench.verifier.expire(set(2_000)).is_empty());
        let source = "198.51.100.1".parse().unwrap();
        for (number, ms) in [(8, 3_000), (9, 60_000)] {
            let verdict = bench.verifier.judge(set(ms), source, false, &site.announce(number, at(ms)));
            assert!(matches!(verdict, Ok(Verdict::Announcement(_))), "{by_ms}: {verdict:?}");
        }
        // Somebody new, whose own clock is right.
        let verdict = bench.verifier.judge(set(61_000), source, false, &Site::new(2).announce(1, at(61_000)));
        assert!(matches!(verdict, Ok(Verdict::Announcement(_))), "{by_ms}: {verdict:?}");
        // By the reckoned time it ends when it should.
        assert_eq!(bench.verifier.expire(set(LIFE * 1_000)).len(), 2, "{by_ms}");
    }
}
