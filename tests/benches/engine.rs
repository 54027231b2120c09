//! What deciding costs, piece by piece: `cargo bench -p sdwan-tests --bench engine`. The same pieces, and the whole daemon,
//! make the figures of `cargo xtask bench engine`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sdwan_tests::engine::announcements::Announcements;
use sdwan_tests::engine::pieces::{Maps, SIZES, Silences, settled};
use sdwan_tests::engine::place::Place;
use sdwan_tests::engine::world::PATHS;

/// Sizes at which whole states are written: with all sites' sets they take long.
const WHOLE: [u32; 3] = [10, 100, 1_000];

fn deciding(criterion: &mut Criterion) {
    for sites in SIZES {
        let mut world = settled(sites).expect("the mesh can be made");
        let name = |what: &str| BenchmarkId::new(what, sites);
        let mut group = criterion.benchmark_group("engine");
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        group.throughput(Throughput::Elements(1));
        group.bench_function(name("probe and answer"), |bench| bench.iter(|| world.one_probe()));
        let mut silences = Silences::new(sites);
        group.bench_function(name("path falls silent"), |bench| {
            bench.iter_custom(|count| silences.time(&mut world, count));
        });
        group.throughput(Throughput::Elements(u64::from(sites) * PATHS as u64));
        group.bench_function(name("rating of all paths"), |bench| bench.iter(|| world.rate()));
        group.finish();
    }
}

fn writing(criterion: &mut Criterion) {
    let place = match Place::new() {
        Ok(place) => place,
        Err(error) => return eprintln!("skipped: writing into real maps: {error:#}"),
    };
    for sites in WHOLE {
        let mut maps = Maps::new(&place, sites).expect("the maps can be made");
        let name = |what: &str| BenchmarkId::new(what, sites);
        let mut group = criterion.benchmark_group("maps");
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        group.bench_function(name("whole state, nothing to do"), |bench| bench.iter(|| maps.apply().expect("written")));
        group.bench_function(name("one path down or up"), |bench| bench.iter(|| maps.flip_one().expect("written")));
        group.throughput(Throughput::Elements(u64::from(sites) * PATHS as u64));
        group.bench_function(name("all paths down or up, batched"), |bench| {
            bench.iter(|| maps.flip_all().expect("written"));
        });
        group.bench_function(name("all paths down or up, one by one"), |bench| {
            bench.iter(|| maps.flip_each().expect("written"));
        });
        group.bench_function(name("counters, batched"), |bench| bench.iter(|| maps.read_all().expect("read")));
        group.bench_function(name("counters, one by one"), |bench| bench.iter(|| maps.read_each().expect("read")));
        group.finish();
    }
}

fn believing(criterion: &mut Criterion) {
    const SITES: u32 = 200;
    let mut announcements = Announcements::new(SITES).expect("the sites can be made");
    let mut group = criterion.benchmark_group("announcements");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(SITES.into()));
    group.bench_function("of strangers", |bench| {
        bench.iter_custom(|count| {
            let round = |_| {
                announcements.forget().expect("the mesh can be made");
                announcements.round().expect("all are believed")
            };
            (0..count).map(round).sum()
        });
    });
    group.bench_function("of known sites", |bench| {
        bench.iter_custom(|count| (0..count).map(|_| announcements.round().expect("all are believed")).sum());
    });
    group.finish();
}

criterion_group!(benches, deciding, writing, believing);
criterion_main!(benches);
