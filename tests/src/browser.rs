//! A real browser in a network namespace: Chromium without a window, driven by `web/e2e/driver.mjs`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// Names of the browser, in the order in which they are looked for.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page; it ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// How a page looks at the world.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Width, px.
    pub width: u32,
    /// Height, px.
    pub height: u32,
    /// Dark colours are wanted.
    pub dark: bool,
}

impl View {
    /// A desktop's.
    pub const DESKTOP: Self = Self { width: 1280, height: 800, dark: false };
    /// A small phone's.
    pub const PHONE: Self = Self { width: 360, height: 740, dark: false };

    /// The same in the dark.
    pub const fn dark(self) -> Self {
        Self { dark: true, ..self }
    }
}

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web")
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn available() -> Result<PathBuf, String> {
    let browser =
        BROWSERS.iter().find_map(|name| in_path(name)).ok_or("no Chromium: `cargo xtask setup` installs it")?;
    in_path("node").ok_or("no Node.js: `cargo xtask setup` installs it")?;
    if !web().join("node_modules/playwright-core").is_dir() {
        return Err("web/node_modules has no playwright-core: run `cargo xtask web`".into());
    }
    if !sdwan::api::dashboard::is_built() {
        return Err(
            "this sdwan was built without the dashboard's pages: run `cargo xtask web`, then build it again".into()
        );
    }
    Ok(browser)
}

/// Whether a test that needs a browser can run; if not, says so as skipped.
pub fn ready(test: &str) -> bool {
    match available() {
        Ok(_) => true,
        Err(reason) => {
            eprintln!("skipped: {test}: {reason}");
            false
        }
    }
}

impl Browser {
    /// Starts one. `command` makes the command that starts a program where the browser is to be.
    ///
    /// # Panics
    /// When it doesn't start, here as in every other call when the browser can't do what it is told.
    pub fn start(command: impl FnOnce(&Path) -> Command) -> Self {
        let executable = available().expect("a browser");
        let node = in_path("node").expect("Node.js");
        let mut command = command(&node);
        command.arg(web().join("e2e/driver.mjs")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node starts");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut browser = Self { child, orders, answers };
        browser.order("launch", json!({ "executable": executable }));
        browser
    }

    fn order(&mut self, order: &str, with: Value) -> Value {
        self.attempt(order, with.clone()).unwrap_or_else(|error| panic!("{order} {with}: {error}"))
    }

    fn attempt(&mut self, order: &str, mut with: Value) -> Result<Value, String> {
        with["order"] = order.into();
        let orders = self.orders.as_mut().ok_or("it has ended")?;
        writeln!(orders, "{with}").map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}"))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// Opens a page in the place of the former one. `keep`: with its cookies, its list of requests and errors.
    pub fn open(&mut self, view: View, keep: bool) {
        let scheme = if view.dark { "dark" } else { "light" };
        let View { width, height, .. } = view;
        let order = json!({ "width": width, "height": height, "scheme": scheme, "touch": width < 500, "keep": keep });
        self.order("open", order);
    }

    /// Goes to an address.
    pub fn goto(&mut self, url: &str) {
        self.order("goto", json!({ "url": url }));
    }

    /// Waits, half a minute at most, until an expression in JavaScript is true.
    pub fn wait(&mut self, js: &str) {
        self.order("wait", json!({ "js": js }));
    }

    /// Waits until an element is there.
    pub fn wait_for(&mut self, selector: &str) {
        self.wait(&format!("!!document.querySelector({})", json!(selector)));
    }

    /// Value of an expression in JavaScript.
    pub fn evaluate(&mut self, js: &str) -> Value {
        self.order("evaluate", json!({ "js": js }))
    }

    /// Text of an element, as it is seen.
    pub fn text(&mut self, selector: &str) -> String {
        self.wait_for(selector);
        let text = self.evaluate(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks on an element.
    pub fn click(&mut self, selector: &str) {
        self.order("click", json!({ "selector": selector }));
    }

    /// Writes into a field.
    pub fn fill(&mut self, selector: &str, value: &str) {
        self.order("fill", json!({ "selector": selector, "value": value }));
    }

    /// Presses a key, such as `Tab` or `Shift+Tab`.
    pub fn press(&mut self, key: &str) {
        self.order("press", json!({ "key": key }));
    }

    /// Writes what is seen into a PNG.
    pub fn screenshot(&mut self, path: &Path) {
        self.order("screenshot", json!({ "path": path }));
    }

    /// Addresses that the pages asked for.
    pub fn requests(&mut self) -> Vec<String> {
        let requests = self.order("requests", json!({}));
        serde_json::from_value(requests).expect("a list of texts")
    }

    /// Errors in the console since the last call.
    pub fn errors(&mut self) -> Vec<String> {
        let errors = self.order("errors", json!({}));
        serde_json::from_value(errors).expect("a list of texts")
    }

    /// Frames that the page paints in so many seconds: `per_second`, `longest_ms`, `p99_ms`.
    pub fn frames(&mut self, seconds: f64) -> Value {
        self.order("frames", json!({ "seconds": seconds }))
    }

    /// The page's memory after its garbage was collected: `heap_used_bytes`, `heap_total_bytes`, `page_bytes`, `nodes`.
    pub fn memory(&mut self) -> Value {
        self.order("memory", json!({}))
    }

    /// Serves the pages with generated answers behind them; returns their address.
    pub fn serve(&mut self, sites: u32, flows: u32) -> String {
        let address = self.order("serve", json!({ "sites": sites, "flows": flows }));
        address.as_str().expect("an address").to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.attempt("quit", json!({}));
        // It ends, too, when it gets no further orders.
        self.orders = None;
        let _ = self.child.wait();
    }
}
