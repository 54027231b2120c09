use super::*;

const MS: u64 = 1_000_000;

#[test]
fn a_mark_comes_back() {
    for mark in [Mark::new(0, false), Mark::new(0x7fff_ffff, true), Mark::new(0x0102_0304, false)] {
        assert_eq!(Mark::from_bytes(mark.to_bytes(17)), Some((mark, 17)));
    }
}

#[test]
fn other_options_are_no_marks() {
    // Padding (RFC 8200 section 4.2), a longer header, a shorter option.
    for bytes in [[17, 0, 1, 4, 0, 0, 0, 0], [17, 1, IPV6_OPTION, 4, 0, 0, 0, 0], [17, 0, IPV6_OPTION, 2, 0, 0, 0, 0]] {
        assert_eq!(Mark::from_bytes(bytes), None);
    }
}

#[test]
fn the_segments_of_a_bundle_have_numbers_of_their_own() {
    let mark = Mark::new(1_000, true);
    for size in [SEGMENT_STEP, 1_220, 1_372, 8_948] {
        for first in [0, 511, 0x1234_5678, u32::MAX - 30_000] {
            let count = LARGEST_BUNDLE / size;
            let mut seen = [false; SEGMENT_NUMBERS as usize];
            for segment in 0..count {
                let number = mark.number(first.wrapping_add(segment * size));
                let at = &mut seen[(number - 1_000) as usize];
                assert!(!*at, "segment {segment} of {count} with {size} bytes from {first}");
                *at = true;
            }
        }
    }
}

#[test]
fn a_single_packet_keeps_its_number_whatever_its_sequence() {
    let mark = Mark::new(7, false);
    assert_eq!((mark.number(0), mark.number(u32::MAX)), (7, 7));
}

#[test]
fn the_second_copy_is_known_within_the_window_only() {
    let at = 10_000 * MS;
    let first = entry(3, 0, 99, at);
    let again = |flow, part, number, at| is_second(first, entry(flow, part, number, at));
    assert!(again(3, 0, 99, at));
    assert!(again(3, 0, 99, at + 400 * MS));
    assert!(again(3, 0, 99, at - 20 * MS), "the other CPU's clock was read a moment before");
    assert!(!again(3, 0, 99, at + 600 * MS));
    assert!(!again(3, 0, 100, at), "another number");
    assert!(!again(3, 0, 99 + (1 << 16), at), "a number that differs in its upper half");
    assert!(!again(4, 0, 99, at), "another flow");
    assert!(!again(3, 1_372, 99, at), "another segment with the same identification");
    assert!(!is_second(0, entry(0, 0, 0, 0)), "an empty entry is nobody's");
}

#[test]
fn neighbouring_numbers_of_a_site_never_share_an_entry() {
    let first = slot(5, u32::MAX - 10);
    for distance in 1..capacity::COPIES_SEEN {
        assert_ne!(slot(5, (u32::MAX - 10).wrapping_add(distance)), first);
    }
    assert_eq!(slot(5, (u32::MAX - 10).wrapping_add(capacity::COPIES_SEEN)), first);
}
