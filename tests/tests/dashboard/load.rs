//! What 10,000 flows and 400 paths cost the browser.

use std::process::Command;

use sdwan_tests::browser::{Browser, View, ready};
use serde_json::Value;

const SITES: u32 = 100;
const FLOWS: u32 = 10_000;
const FRAMES_PER_SECOND: f64 = 10.0;
const MEMORY: f64 = 150e6;

/// The answers are generated (`web/e2e/generated.mjs`), in the daemon's shape, and others with each poll; what is measured is
/// the page.
#[test]
fn ten_thousand_flows_and_four_hundred_paths_are_shown_at_ten_frames_a_second() {
    if !ready("ten_thousand_flows_and_four_hundred_paths_are_shown_at_ten_frames_a_second") {
        return;
    }
    let mut browser = Browser::start(|program| Command::new(program));
    let address = browser.serve(SITES, FLOWS);
    browser.open(View::DESKTOP, false);
    let mut figures = Vec::new();
    for (view, shown) in [
        ("overview", "document.querySelectorAll('.topology .lines a').length === 400"),
        ("paths", "document.querySelector('.vt').getAttribute('aria-rowcount') === '401'"),
        ("flows", "document.querySelector('.vt').getAttribute('aria-rowcount') === '10001'"),
    ] {
        browser.goto(&format!("{address}#/{view}"));
        match view {
            "overview" => {
                browser.wait_for(".topology-box button:not([hidden])");
                browser.click(".topology-box button");
            }
            "flows" => {
                browser.wait_for("select[aria-label='Flows asked for']");
                browser.evaluate(
                    "const limit = document.querySelector(\"select[aria-label='Flows asked for']\"); limit.value = 10000; \
                     limit.dispatchEvent(new Event('change'))",
                );
            }
            _ => {}
        }
        browser.wait(shown);
        // Long enough for several polls, and with somebody who scrolls.
        browser.evaluate(
            "window.scroller = setInterval(() => { const body = document.querySelector('.vt-body'); if (body) body.scrollTop = \
             (body.scrollTop + 900) % Math.max(1, body.scrollHeight - 800); }, 50)",
        );
        let frames = browser.frames(10.0);
        browser.evaluate("clearInterval(window.scroller)");
        let memory = browser.memory();
        let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or(f64::NAN);
        let rate = number(&frames, "per_second");
        let (heap, page) = (number(&memory, "heap_total_bytes"), number(&memory, "page_bytes"));
        figures.push(format!(
            "{view:<9} {rate:5.1} frames/s, 99 of 100 within {:.0} ms, the longest {:.0} ms; JavaScript's heap {:.1} MB used, \
             {:.1} MB in all; the page's memory {:.1} MB; {} nodes",
            number(&frames, "p99_ms"),
            number(&frames, "longest_ms"),
            number(&memory, "heap_used_bytes") / 1e6,
            heap / 1e6,
            page / 1e6,
            memory["nodes"]
        ));
        println!("{}", figures.last().expect("a figure"));
        assert!(rate >= FRAMES_PER_SECOND, "{figures:?}");
        assert!(heap < MEMORY && (page.is_nan() || page < MEMORY), "{figures:?}");
        browser.open(View::DESKTOP, true);
    }
    assert_eq!(browser.errors(), [""; 0]);
}
