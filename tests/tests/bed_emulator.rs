//! The emulated line tells the truth: what it says it did is what packets saw.

mod quiet;

use std::time::Duration;

use quiet::QuietPair;
use sdwan_tests::bed::{Direction, Distribution, Impairment, Loss, Rate};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec};

/// Whether `found` of `of` is within 4.5 standard deviations of a binomial with `share`.
fn binomial(found: u64, of: u64, share: f64) -> bool {
    let (found, of) = (found as f64, of as f64);
    (found - of * share).abs() <= 4.5 * (of * share * (1.0 - share)).sqrt()
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1_000.0
}

/// Time runs alone: other tests on the same processors would be measured too.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn the_delay_is_the_one_told_at_low_and_high_rates() {
    needs_bed!();
    let _alone = alone();
    let delay = Duration::from_millis(10);
    let plain = QuietPair::new(None);
    let emulated = QuietPair::new(Some(Impairment::delay(delay)));
    for (rate, packets) in [(1_000.0, 2_000), (50_000.0, 100_000)] {
        let spec =
            |pair: &QuietPair| UdpSpec { size: 200, ..UdpSpec::new(pair.address("b", 0), rate).packets(packets) };
        let floor = plain.run(spec(&plain), "a");
        let report = emulated.run(spec(&emulated), "a");
        let statistics = emulated.line().statistics().expect("statistics");
        let over = |quantile: Duration| micros(quantile) - micros(delay);
        println!(
            "{rate} packets/s: over the delay p50 {:.1} µs, p99 {:.1} µs (a plain veth takes {:.1} and {:.1} µs); \
             sent later than planned p50 {:.1} µs, p99 {:.1} µs; lost {}; real-time: {}",
            over(report.latency.p50),
            over(report.latency.p99),
            micros(floor.latency.p50),
            micros(floor.latency.p99),
            micros(statistics.up.lateness.p50),
            micros(statistics.up.lateness.p99),
            report.lost,
            statistics.realtime,
        );
        assert_eq!((report.lost, statistics.up.failed, floor.lost), (0, 0, 0));
        assert!(report.latency.least >= delay, "{report:?}");
        assert!(over(report.latency.p50) - micros(floor.latency.p50) <= 100.0);
    }
}

#[test]
fn jitter_has_the_spread_told() {
    needs_bed!();
    let _alone = alone();
    let jitter = Duration::from_millis(4);
    let uniform = Impairment { jitter_reorders: true, ..Impairment::delay_ms(20).jitter(jitter) };
    let pair = QuietPair::new(Some(uniform.clone()));
    let spec = || UdpSpec::new(pair.address("b", 0), 2_000.0).packets(4_000);
    let report = pair.run(spec(), "a");
    let near = |found: Duration, ms: f64| (micros(found) / 1_000.0 - ms).abs() <= 0.5;
    assert!(near(report.latency.least, 16.0) && near(report.latency.p50, 20.0), "{:?}", report.latency);
    assert!(near(report.latency.p90, 23.2), "{:?}", report.latency);
    assert!(report.reordered > 0);

    let normal = Impairment { distribution: Distribution::Normal, ..uniform };
    pair.line().impair_direction(Direction::Up, normal).expect("impair");
    let report = pair.run(spec(), "a");
    // Quantiles of the standard normal distribution: 1.2816 at 90 %, 2.3263 at 99 %.
    assert!(near(report.latency.p50, 20.0) && near(report.latency.p90, 25.13), "{:?}", report.latency);
    assert!((micros(report.latency.p99) / 1_000.0 - 29.3).abs() < 1.2, "{:?}", report.latency);
}

#[test]
fn loss_is_binomial_by_direction_and_the_receiver_finds_each_packet() {
    needs_bed!();
    let _alone = alone();
    let pair = QuietPair::new(Some(Impairment::default()));
    pair.line().impair_direction(Direction::Up, Impairment::default().loss(0.02)).expect("impair");
    let before = pair.line().statistics().expect("statistics");
    let spec = |site: &str| UdpSpec { size: 100, ..UdpSpec::new(pair.address(site, 0), 20_000.0).packets(40_000) };
    let up = pair.run(spec("b"), "a");
    let after = pair.line().statistics().expect("statistics");
    assert_eq!(up.lost, after.up.lost - before.up.lost);
    assert!(binomial(up.lost, 40_000, 0.02), "{}", up.lost);
    assert_eq!(up.gaps.iter().map(|gap| gap.lost_packets).sum::<u64>(), up.lost);
    assert_eq!(pair.run(spec("a"), "b").lost, 0);

    let bursts = Loss::GilbertElliott { to_bad: 0.005, to_good: 0.25, loss_good: 0.0, loss_bad: 1.0 };
    let impairment = Impairment { loss: bursts, ..Impairment::default() };
    pair.line().impair_direction(Direction::Up, impairment).expect("impair");
    let report = pair.run(spec("b"), "a");
    assert!((report.loss() - bursts.mean()).abs() < 0.008, "{} instead of {}", report.loss(), bursts.mean());
    let length = report.lost as f64 / report.gaps.len() as f64;
    assert!((length - 4.0).abs() < 0.8, "mean burst length {length} instead of 4");
}

#[test]
fn the_receiver_finds_each_duplicate_and_each_reordered_packet() {
    needs_bed!();
    let _alone = alone();
    let pair = QuietPair::new(Some(Impairment::default()));
    let impairment =
        Impairment { duplicate: 0.03, reorder: 0.02, reorder_by: Duration::from_millis(8), ..Impairment::delay_ms(2) };
    let before = pair.line().statistics().expect("statistics").up;
    let receiver = UdpReceiver::start(pair.bed.site("b"), pair.address("b", 0)).expect("receiver");
    let sender = UdpSender::start(pair.bed.site("a"), UdpSpec::new(receiver.local(), 2_000.0)).expect("sender");
    pair.line().impair_direction(Direction::Up, impairment).expect("impair");
    std::thread::sleep(Duration::from_secs(3));
    // Packets follow each one that was held back: only then is it reordered.
    pair.line().impair_direction(Direction::Up, Impairment::delay_ms(2)).expect("impair");
    std::thread::sleep(Duration::from_millis(50));
    let sent = sender.stop().expect("sent");
    let report = receiver.finish(&sent, Duration::from_millis(300)).expect("report");
    let after = pair.line().statistics().expect("statistics").up;
    assert!(after.duplicated > before.duplicated + 50 && after.held_back > before.held_back + 50, "{after:?}");
    assert_eq!(report.lost, 0);
    assert_eq!(report.duplicated, after.duplicated - before.duplicated);
    assert_eq!(report.reordered, after.held_back - before.held_back);
}

#[test]
fn the_rate_is_the_one_told_for_udp_and_tcp() {
    needs_bed!();
    let _alone = alone();
    let rate = Rate { bits_per_second: 20_000_000, burst_bytes: 3_000, queue_bytes: 60_000 };
    let pair = QuietPair::new(Some(Impairment { rate: Some(rate), ..Impairment::delay_ms(5) }));
    // 30 Mbit/s of frames of 1,014 bytes.
    let spec = UdpSpec { size: 1_000, ..UdpSpec::new(pair.address("b", 0), 3_698.0) }.during(Duration::from_secs(2));
    let receiver = UdpReceiver::start(pair.bed.site("b"), pair.address("b", 0)).expect("receiver");
    let sender =
        UdpSender::start(pair.bed.site("a"), UdpSpec { destination: receiver.local(), ..spec }).expect("sender");
    std::thread::sleep(Duration::from_millis(300));
    let (first, start) = (receiver.received(), std::time::Instant::now());
    std::thread::sleep(Duration::from_millis(1_500));
    let bits = (receiver.received() - first) as f64 * 1_014.0 * 8.0;
    let measured = bits / start.elapsed().as_secs_f64();
    drop(sender);
    assert!((measured / 20e6 - 1.0).abs() < 0.02, "{measured} bit/s");

    let sink = TcpSink::start(pair.bed.site("b"), pair.address("b", 0)).expect("sink");
    let spec = TcpSpec::new(sink.local(), Duration::from_secs(3));
    let report = TcpSource::start(pair.bed.site("a"), spec).expect("source").finish().expect("report");
    // Of 1,514 bytes of a frame 1,448 are payload.
    let share = report.bits_per_second / (20e6 * 1_448.0 / 1_514.0);
    assert!((0.85..=1.01).contains(&share), "{share}: {report:?}");
    assert_eq!(report.segment, 1_448);
}

#[test]
fn an_emulated_line_carries_100_000_small_packets_and_500_megabits_a_second() {
    needs_bed!();
    let _alone = alone();
    let pair = QuietPair::new(Some(Impairment::delay_ms(2)));
    let spec = UdpSpec { size: 100, ..UdpSpec::new(pair.address("b", 0), 120_000.0).packets(240_000) };
    let report = pair.run(spec, "a");
    let seconds = 240_000.0 / 120_000.0;
    let rate = report.received as f64 / seconds;
    let sink = TcpSink::start(pair.bed.site("b"), pair.address("b", 0)).expect("sink");
    let spec = TcpSpec::new(sink.local(), Duration::from_secs(2));
    let tcp = TcpSource::start(pair.bed.site("a"), spec).expect("source").finish().expect("report");
    let statistics = pair.line().statistics().expect("statistics");
    println!("{rate:.0} packets/s, {:.0} Mbit/s of TCP; {statistics:?}", tcp.bits_per_second / 1e6);
    assert!(rate >= 100_000.0, "{rate} packets/s");
    assert!(tcp.bits_per_second >= 500e6, "{tcp:?}");
    assert_eq!(statistics.up.failed, 0);
}

#[test]
fn a_plain_line_becomes_an_emulated_one_without_losing_its_addresses() {
    needs_bed!();
    let pair = QuietPair::new(None);
    let spec = || UdpSpec::new(pair.address("b", 0), 1_000.0).packets(100);
    assert!(pair.run(spec(), "a").latency.p50 < Duration::from_millis(5));
    pair.line().statistics().expect_err("a plain line has no statistics");
    pair.line().impair(&Impairment::delay_ms(30)).expect("impair");
    let report = pair.run(spec(), "a");
    assert_eq!(report.lost, 0);
    assert!(report.latency.p50 >= Duration::from_millis(30));
}
