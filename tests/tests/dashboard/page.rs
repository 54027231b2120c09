//! What an operator sees and does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sdwan::api::views::PathView;
use sdwan_tests::bed::Cut;
use sdwan_tests::browser::{Browser, View, ready};
use sdwan_tests::mesh::{Gateway, Mesh};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{ADDRESS, browser, login_link, mesh};

/// Set to a directory, it gets the pictures of docs/DASHBOARD.md.
const PICTURES: &str = "SDWAN_PICTURES";
/// Ports of the flows of a shop.
const SHOP: std::ops::RangeInclusive<u16> = 9_990..=9_999;
const VIEWS: [&str; 5] = ["overview", "paths", "flows", "events", "policies"];

fn picture(browser: &mut Browser, name: &str) {
    if let Some(directory) = std::env::var_os(PICTURES) {
        browser.screenshot(&Path::new(&directory).join(format!("dashboard-{name}.png")));
    }
}

fn url(view: &str) -> String {
    format!("http://{ADDRESS}/#/{view}")
}

/// Calls, a backup and a web shop between the sites, for as long as this lives.
struct Traffic {
    _streams: Vec<(UdpSender, UdpReceiver)>,
}

impl Traffic {
    fn start(mesh: &Mesh) -> Self {
        let flow = |from: &str, to: &str, port: u16, rate: f64, size: usize| {
            let (from, to) = (mesh.bed().site(from).host(0), mesh.bed().site(to).host(0));
            let receiver = UdpReceiver::start(to, SocketAddr::new(to.v4(), port)).expect("the receiver starts");
            let spec = UdpSpec { size, ..UdpSpec::new(receiver.local(), rate).during(Duration::from_secs(3_600)) };
            (UdpSender::start(from, spec).expect("the sender starts"), receiver)
        };
        let shop = SHOP.map(|port| flow("berlin", "lyon", port, 12.0, 700));
        let streams = shop
            .chain([
                flow("berlin", "lyon", 5060, 50.0, 200),
                flow("lyon", "berlin", 5061, 50.0, 200),
                flow("berlin", "porto", 27_015, 30.0, 120),
                flow("porto", "berlin", 8_888, 80.0, 1_200),
            ])
            .collect();
        Self { _streams: streams }
    }
}

/// Paths that go red, and how long that took.
fn paths_are_red(browser: &mut Browser, uplink: &str, number: usize) -> Duration {
    let start = Instant::now();
    browser.wait(&format!(
        "document.querySelectorAll('.topology .lines a.bad[data-path*=\"/{uplink}/\"]').length === {number}"
    ));
    start.elapsed()
}

fn no_scroll_sideways(browser: &mut Browser, view: &str) {
    let over = browser.evaluate("document.documentElement.scrollWidth - window.innerWidth");
    assert!(over.as_i64().is_some_and(|over| over <= 0), "{view} is {over} px too wide");
}

/// Nobody but the gateway was asked for anything, and nothing went wrong.
fn nothing_else(browser: &mut Browser) {
    let requests = browser.requests();
    assert!(requests.len() > 20, "{requests:?}");
    let ours = |request: &&String| request.starts_with(&format!("http://{ADDRESS}/"));
    let others: Vec<_> = requests.iter().filter(|request| !ours(request)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_cut_line_is_seen_at_once_and_stale_answers_never_look_fresh() {
    needs_bed!();
    if !ready("a_cut_line_is_seen_at_once_and_stale_answers_never_look_fresh") {
        return;
    }
    let mesh = mesh();
    let _traffic = Traffic::start(&mesh);
    let mut browser = browser(mesh.gateway("berlin"));
    browser.open(View::DESKTOP, false);
    browser.goto(&url("overview"));
    browser.wait("document.querySelectorAll('.topology .lines a.good').length === 8");
    for site in ["lyon", "porto"] {
        browser.wait_for(&format!(".topology a.site[data-site={site}]"));
    }
    // Thickness follows traffic: what carries a call is thicker than what carries nothing.
    browser.wait(
        "[...document.querySelectorAll('.topology .line')].some((line) => line.getAttribute('stroke-width') > 2)",
    );
    // Long enough for records.
    std::thread::sleep(Duration::from_secs(35));
    picture(&mut browser, "overview-light");

    let line = mesh.bed().link("berlin", "fibre");
    line.cut(Cut::Silent).expect("the line is cut");
    let took = paths_are_red(&mut browser, "fibre", 4);
    println!("4 paths were red {:.1} s after the cut", took.as_secs_f64());
    assert!(took < Duration::from_secs(5), "{took:?}");
    browser.wait("document.querySelector('.latest').innerText.includes('path-down')");
    browser.wait("document.querySelector('.banner').innerText.includes('paths to site')");
    browser.wait("document.querySelector('.topology a.uplink.bad') !== null");
    assert!(browser.evaluate("document.title").as_str().is_some_and(|title| title.starts_with('▲')));
    let spoken = browser.evaluate("document.querySelector('[aria-live=polite]').textContent");
    assert!(spoken.as_str().is_some_and(|text| text.contains("4 paths down")), "{spoken}");
    std::thread::sleep(Duration::from_secs(1));
    browser.open(View::DESKTOP.dark(), true);
    browser.goto(&url("overview"));
    paths_are_red(&mut browser, "fibre", 4);
    browser.wait("!document.querySelector('.tile .value').innerText.includes('–')");
    std::thread::sleep(Duration::from_secs(2));
    picture(&mut browser, "cut-dark");
    browser.open(View::PHONE.dark(), true);
    browser.goto(&url("overview"));
    paths_are_red(&mut browser, "fibre", 4);
    std::thread::sleep(Duration::from_secs(2));
    picture(&mut browser, "cut-phone");
    line.restore().expect("the line is back");
    browser.wait("document.querySelectorAll('.topology .lines a.good').length === 8");

    history(&mut browser, mesh.gateway("berlin"));
    nothing_else(&mut browser);

    // A daemon that is hung answers nothing: what is shown is old, and says so.
    mesh.gateway("berlin").signal(nix::sys::signal::Signal::SIGSTOP).expect("the daemon is stopped");
    browser.wait("document.querySelector('.stale:not([hidden])')?.innerText.includes('No answer since')");
    browser.wait("document.querySelector('main.old') !== null");
    picture(&mut browser, "stale");
    mesh.gateway("berlin").signal(nix::sys::signal::Signal::SIGCONT).expect("the daemon goes on");
    browser.wait("document.querySelector('.stale').hidden && !document.querySelector('main.old')");
}

/// The path that was cut, over the last quarter of an hour.
fn history(browser: &mut Browser, gateway: &Gateway) {
    browser.open(View { width: 1440, height: 1000, dark: true }, true);
    browser.goto(&url("paths"));
    let paths = gateway.paths().expect("the paths are listed");
    let wanted = ("lyon", "fibre", "fibre");
    let names =
        |path: &&PathView| (path.site_name.as_str(), path.local_uplink.as_str(), path.remote_uplink.as_str()) == wanted;
    let path = paths.iter().find(names).expect("a path");
    browser.goto(&url(&format!("paths?path={}%2F{}", path.site, path.tunnel)));
    browser.click(".spans button:first-child");
    browser.wait("document.querySelectorAll('figure canvas').length === 5");
    browser.wait("Number(document.querySelector('figure').dataset.points) >= 4");
    for chart in ["RTT", "Jitter", "Loss", "Traffic and capacity", "MOS"] {
        let label = browser.evaluate(&format!("document.querySelector('figure[aria-label^=\"{chart}\"]')?.ariaLabel"));
        assert!(label.as_str().is_some_and(|label| !label.contains("nothing known")), "{chart}: {label}");
    }
    let traffic = browser.evaluate("document.querySelector('figure[aria-label^=Traffic]').ariaLabel");
    assert!(traffic.as_str().is_some_and(|text| text.contains("capacity out 200 Mbit/s")), "{traffic}");
    std::thread::sleep(Duration::from_secs(1));
    picture(browser, "paths-dark");
}

#[test]
fn a_dry_run_names_the_flow_that_moves_when_the_policy_is_applied() {
    needs_bed!();
    if !ready("a_dry_run_names_the_flow_that_moves_when_the_policy_is_applied") {
        return;
    }
    let mesh = mesh();
    let gateway = mesh.gateway("berlin");
    let _traffic = Traffic::start(&mesh);
    let flow = |port: u16| {
        let flows = gateway.flows(None).expect("the flows are listed");
        flows.into_iter().find(|flow| flow.destination_port == port).expect("the flow is in the table")
    };
    std::thread::sleep(Duration::from_secs(2));

    let mut browser = browser(gateway);
    browser.open(View::DESKTOP, false);
    browser.goto(&url("policies?edit="));
    assert_eq!(browser.text(".who"), "read-only");
    browser.fill("[name=name]", "shop");
    browser.fill("[name=priority]", "many");
    browser.click("form [type=submit]");
    browser.wait("document.querySelector('[data-for=priority]').innerText.includes('65535')");
    browser.fill("[name=priority]", "50");
    browser.fill("[name='match[0].protocols']", "udp");
    browser.fill("[name='match[0].ports']", "9999-1");
    browser.click("form [type=submit]");
    browser.wait("document.querySelector('.outcome .bad')?.innerText.includes('9999-1')");
    browser.fill("[name='match[0].ports']", &SHOP.start().to_string());
    browser.click("form [type=submit]");
    browser.wait("document.querySelector('[data-moves]') !== null");
    let renamed = browser.evaluate("document.querySelector('.dry')?.innerText ?? ''");
    assert!(
        renamed.as_str().is_some_and(|text| text.contains(&format!(":{}", SHOP.start())) && text.contains("→ shop")),
        "{renamed}"
    );
    assert_eq!(browser.evaluate("document.querySelector('.actions .primary').disabled"), true, "nobody is logged in");

    // With a login, and a policy that spreads flows over all good paths: some move, and each to the path that was told.
    let link = login_link(gateway, &[]);
    browser.goto("about:blank");
    browser.goto(&link);
    browser.wait("document.querySelector('.who').innerText.startsWith('operator')");
    assert_eq!(browser.evaluate("location.hash"), "#/overview", "the code has left the address");
    browser.goto(&url("policies?edit="));
    browser.wait_for("[name=name]");
    browser.fill("[name=name]", "shop");
    browser.fill("[name=priority]", "50");
    browser.fill("[name='match[0].protocols']", "udp");
    browser.fill("[name='match[0].ports']", &format!("{}-{}", SHOP.start(), SHOP.end()));
    browser.evaluate("document.querySelector('[name=mode]').value = 'balance'");
    browser.click("form [type=submit]");
    browser.wait("document.querySelector('.dry .moves') !== null");
    let row = "document.querySelector('.dry .moves').closest('tr')";
    let moving = browser.evaluate(&format!("{row}.cells[0].innerText"));
    let told = browser.evaluate(&format!("{row}.cells[2].innerText.split('⇒')[1].trim()"));
    let (moving, told) = (moving.as_str().unwrap_or_default(), told.as_str().unwrap_or_default());
    let port: u16 =
        moving.trim_end_matches(" udp").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let now = flow(port);
    assert!(
        SHOP.contains(&port) && now.path.uplinks != told && now.class != "shop",
        "a dry run moves nothing: {now:?}"
    );
    browser.evaluate("document.querySelector('.outcome').scrollIntoView({ block: 'end' })");
    picture(&mut browser, "dry-run");
    browser.click(".actions .primary");
    browser.wait("document.querySelector('.outcome .good')?.innerText.includes('shop')");
    gateway
        .wait_for("the flow has moved", Duration::from_secs(10), |_| {
            let now = flow(port);
            let done = now.class == "shop" && now.path.uplinks == told;
            Ok(if done { Ok(()) } else { Err(format!("{now:?}, and {told} was told")) })
        })
        .expect("what was told comes true");
    browser.wait("document.querySelector('.policies').innerText.includes('shop')");

    // Removed the same way: tried, then applied.
    browser.goto(&url("policies?edit=shop"));
    browser.wait("document.querySelector('.danger') && !document.querySelector('.danger').hidden");
    browser.click(".danger");
    browser.wait("document.querySelector('.actions .primary').innerText.includes('remove shop')");
    browser.click(".actions .primary");
    browser.wait("![...document.querySelectorAll('.policies .name')].some((name) => name.innerText === 'shop')");
    let errors = browser.errors();
    // Chromium tells of each answer that is none of the good ones.
    assert!(errors.iter().all(|error| error.contains("status of 400")), "{errors:?}");
}

#[test]
fn every_view_works_on_a_phone_in_the_dark_and_by_keyboard() {
    needs_bed!();
    if !ready("every_view_works_on_a_phone_in_the_dark_and_by_keyboard") {
        return;
    }
    let mesh = mesh();
    let _traffic = Traffic::start(&mesh);
    std::thread::sleep(Duration::from_secs(2));
    let mut browser = browser(mesh.gateway("berlin"));
    let back = |browser: &mut Browser| browser.evaluate("getComputedStyle(document.documentElement).backgroundColor");
    let mut colours = Vec::new();
    for view in [View::PHONE, View::PHONE.dark(), View::DESKTOP, View::DESKTOP.dark()] {
        browser.open(view, !colours.is_empty());
        for name in VIEWS {
            browser.goto(&url(name));
            browser.wait(&format!(
                "document.querySelector('nav [aria-current=page]')?.getAttribute('href') === '#/{name}'"
            ));
            browser.wait("document.querySelector('main').innerText.length > 100");
            std::thread::sleep(Duration::from_millis(1_200));
            no_scroll_sideways(&mut browser, name);
            if name == "flows" && !view.dark && view.width > 500 {
                picture(&mut browser, "flows-light");
            }
        }
        colours.push(back(&mut browser));
    }
    assert!(colours[0] == colours[2] && colours[1] == colours[3] && colours[0] != colours[1], "{colours:?}");

    keyboard(&mut browser);
    nothing_else(&mut browser);
}

/// From the address bar to the history of a path and back, without a mouse.
fn keyboard(browser: &mut Browser) {
    browser.goto("about:blank");
    browser.goto(&url("overview"));
    browser.wait("document.querySelectorAll('.topology .lines a').length === 8");
    let focused = |browser: &mut Browser| {
        let js = "(() => { const e = document.activeElement; return e === document.body ? 'BODY' : (e.getAttribute('aria-label') || e.innerText || \
                  e.tagName) + '|' + (getComputedStyle(e).outlineStyle !== 'none' || e.closest('svg') !== null); })()";
        browser.evaluate(js).as_str().unwrap_or_default().to_owned()
    };
    browser.press("Tab");
    assert!(focused(browser).starts_with("Skip to the content"), "{}", focused(browser));
    let mut seen = Vec::new();
    for _ in 0..60 {
        browser.press("Tab");
        let now = focused(browser);
        if now.starts_with("BODY") {
            break;
        }
        assert!(now.ends_with("|true"), "the focus is not seen: {now}");
        seen.push(now);
    }
    for wanted in ["Overview", "Paths", "Policies", "Uplink fibre", "Site lyon", "lyon: fibre → lte", "All events"] {
        assert!(seen.iter().any(|label| label.starts_with(wanted) || label.contains(wanted)), "{wanted}: {seen:#?}");
    }
    // A path by Enter, its row by the arrows.
    browser.evaluate("document.querySelector('.topology a[data-path=\"porto/lte/lte\"]').focus()");
    browser.press("Enter");
    browser.wait("document.querySelector('.history h2')?.innerText === 'porto: lte → lte'");
    browser.wait("document.querySelectorAll('.vt-body .vt-row:not([hidden])').length === 8");
    browser.evaluate("document.querySelector('.vt-body .vt-row[tabindex=\"0\"]').focus()");
    for key in ["Home", "ArrowDown", "ArrowDown", "Enter"] {
        browser.press(key);
    }
    browser.wait("document.activeElement.getAttribute('aria-selected') === 'true' && document.activeElement.dataset.index === '2'");
    let row = browser.evaluate("document.activeElement.innerText.replace(/\\n/g, ' ')");
    let title = browser.text(".history h2");
    let site = title.split(':').next().unwrap_or_default();
    assert!(row.as_str().is_some_and(|row| row.contains(site)), "{row} {title}");
}
