//! A core task that answers without a data path, and the binary to ask it with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use sdwan::api::answer;
use sdwan::api::dashboard;
use sdwan::api::flow::FlowSpec;
use sdwan::api::request::{Changed, Refusal, Request};
use sdwan::api::server::{Api, Server};
use sdwan::api::tls::Tls;
use sdwan::api::views::{
    DoneView, DryRunView, FlowPathView, Health, StatusView, TraceView, TracedView, VERSION, VerdictView,
};
use sdwan::config::{Config, Inadmissible, admit_policies, compile_with};
use sdwan::engine::types::{MeshId, SiteId};
use sdwan::store::Store;
use tokio::sync::mpsc;

/// The binary, built by the cargo that runs the tests.
pub fn sdwan() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        // Build scripts watch what cargo tells a test about its package, and would all run again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&*name);
            }
        }
        let built = cargo
            .args(["build", "--quiet", "--package", "sdwan", "--bin", "sdwan"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .expect("cargo can be run");
        assert!(built.success(), "the binary can't be built");
        let me = std::env::current_exe().expect("the test knows its own path");
        me.ancestors().nth(2).expect("tests are in target/debug/deps").join("sdwan")
    })
}

/// Runs the binary in a clean environment.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(sdwan())
        .args(arguments)
        .env_remove("SDWAN_CONFIG")
        .env_remove("SDWAN_SOCKET")
        .output()
        .expect("sdwan runs")
}

/// Runs the binary and expects an exit code; returns standard output and standard error.
pub fn expect(code: i32, arguments: &[&str]) -> (String, String) {
    let output = run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "sdwan {arguments:?}\nstdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// A state directory with a configuration that points into it.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new(more: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        let root = place.path("").display().to_string();
        let root = root.trim_end_matches('/');
        let text = format!("{more}\n[site]\nstate_dir = \"{root}/state\"\nsocket = \"{root}/run/sdwan.sock\"\n");
        std::fs::write(place.path("sdwan.toml"), text).expect("the configuration is written");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config_file(&self) -> String {
        self.path("sdwan.toml").display().to_string()
    }

    pub fn config(&self) -> Config {
        let options = sdwan::config::Options { config: Some(self.path("sdwan.toml")), ..Default::default() };
        sdwan::config::load(&options).expect("the configuration is valid")
    }

    /// Runs the binary with this configuration and `-o json`, whatever its exit code.
    pub fn run_json(&self, arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
        let output = run(&[&["--config", &self.config_file(), "-o", "json"], arguments].concat());
        let value = serde_json::from_slice(&output.stdout);
        (value.expect("standard output is JSON"), output.status.code())
    }

    /// Runs the binary with this configuration.
    pub fn expect(&self, code: i32, arguments: &[&str]) -> (String, String) {
        expect(code, &[&["--config", &self.config_file()], arguments].concat())
    }
}

/// A server on the place's socket, with a core task behind it that knows policies and nothing else.
pub struct FakeDaemon {
    pub store: Store,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl FakeDaemon {
    pub async fn start(place: &Place, health: Health) -> Self {
        let config = place.config();
        let store = Store::open(&config.site.database, &config.store).expect("the store opens");
        let server = Server::bind(&config.site.socket).await.expect("the socket binds");
        let (sender, receiver) = mpsc::channel(16);
        let tls = Tls::load(&config.api).expect("the certificates are good");
        let addresses = dashboard::addresses(&[], &config.api.listen, tls.as_ref());
        let api = Api::new(sender, store.clone()).expect("the tokens can be read").with_addresses(addresses);
        let mut tasks = vec![tokio::spawn(server.run(api.clone()))];
        if let Some(tls) = tls {
            tasks.push(tokio::spawn(api.run_tls(tls)));
            let listening = async {
                for address in &config.api.listen {
                    while tokio::net::TcpStream::connect(address).await.is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(10), listening).await.expect("it listens");
        }
        tasks.push(tokio::spawn(core_task(config, store.clone(), receiver, health)));
        Self { store, tasks }
    }
}

async fn core_task(config: Config, store: Store, mut requests: mpsc::Receiver<Request>, health: Health) {
    while let Some(request) = requests.recv().await {
        answer_request(&config, &store, request, health);
    }
}

fn inadmissible(error: Inadmissible) -> Refusal {
    match error {
        Inadmissible::Invalid(text) => Refusal::Invalid(text),
        Inadmissible::Conflict(text) => Refusal::Conflict(text),
    }
}

fn answer_request(config: &Config, store: &Store, request: Request, health: Health) {
    let stored = || store.policies().map_err(|error| Refusal::Failed(error.to_string()));
    // An asker who gave up is no concern of the core task.
    match request {
        Request::Status(reply) => drop(reply.send(Ok(Box::new(status(health, store))))),
        Request::Sites(reply) => drop(reply.send(Ok(Vec::new()))),
        Request::Paths(reply) => drop(reply.send(Ok(Vec::new()))),
        Request::Flows(_, reply) => drop(reply.send(Ok(Vec::new()))),
        Request::Policies(reply) => drop(reply.send(stored().map(|stored| answer::policy_views(config, &stored)))),
        Request::AddPolicies { policies, replace, reply } => {
            let outcome = stored().and_then(|stored| {
                admit_policies(config, &stored, &policies, replace).map_err(inadmissible)?;
                store.save_policies(&policies, replace).map_err(|error| Refusal::Failed(error.to_string()))?;
                let done = DoneView::new(format!("{} added", answer::these(&policies)));
                Ok(Changed { done, before: serde_json::Value::Null, after: serde_json::json!(policies) })
            });
            drop(reply.send(outcome));
        }
        Request::RemovePolicy(name, reply) => drop(reply.send(match store.remove_policy(&name) {
            Ok(true) => Ok(Changed::new(DoneView::new(format!("policy {name:?} is removed")))),
            Ok(false) => Err(Refusal::NotFound(format!("there is no stored policy {name:?}"))),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        })),
        Request::TestPolicy(flow, reply) => {
            let outcome = stored().and_then(|stored| {
                let compilation = compile_with(config, &stored).map_err(|error| Refusal::Failed(error.to_string()))?;
                answer::test_policy(&compilation, &flow)
            });
            drop(reply.send(outcome));
        }
        Request::DryRun { policies, query, reply } => {
            let outcome = stored().and_then(|stored| {
                admit_policies(config, &stored, &policies, query.replace).map_err(inadmissible)?;
                Ok(Box::new(DryRunView::of_nothing()))
            });
            drop(reply.send(outcome));
        }
        // Never answered: the asker must not wait for good.
        Request::Explain(_, reply) => std::mem::forget(reply),
        Request::MeasureCapacity(order, reply) => {
            drop(reply.send(Err(Refusal::NotFound(format!("there is no path {:?}", order.path)))));
        }
        Request::CapacityRun(id, reply) => {
            drop(reply.send(Err(Refusal::NotFound(format!("there is no measurement {id}")))));
        }
        Request::MeasureMtu(path, reply) => {
            drop(reply.send(Err(Refusal::NotFound(format!("there is no path {path:?}")))));
        }
        Request::Trace(order, reply) => drop(reply.send(Ok(trace_view(order.flow, Vec::new())))),
        Request::Traced(id, after, reply) => drop(reply.send(match (id, after) {
            (TRACE, 0) => Ok(trace_view(traced_flow(), (1..=4).map(traced).collect())),
            (TRACE, _) => Ok(trace_view(traced_flow(), Vec::new())),
            _ => Err(Refusal::NotFound(format!("there is no trace {id}, or it has ended"))),
        })),
        Request::EndTrace(_, reply) => drop(reply.send(Ok(DoneView::new("the trace is ended")))),
        Request::Reload(reply) => drop(reply.send(Err(Refusal::Invalid("the files are wrong".into())))),
        Request::Down(reply) => drop(reply.send(Ok(DoneView::new("everything is removed")))),
    }
}

/// The only trace that there is.
const TRACE: u32 = 7;

fn traced_flow() -> FlowSpec {
    let end = |text: &str| text.parse().expect("an endpoint");
    let udp = "udp".parse().expect("a protocol");
    FlowSpec::new(end("10.1.0.5:40000"), end("10.2.0.9:5060"), udp).expect("a flow")
}

fn trace_view(flow: FlowSpec, items: Vec<TracedView>) -> TraceView {
    TraceView { version: VERSION, id: TRACE, flow, items, withheld: 3, lost: 0 }
}

/// The third one changes its path.
fn traced(number: u64) -> TracedView {
    let path =
        |number: u32| FlowPathView { number, site_name: "berlin".into(), tunnel: None, uplinks: "a → b".into() };
    TracedView {
        number,
        time_unix_ns: 1_763_889_558_250_000_000 + number as i64,
        program: "lan_ingress".into(),
        interface: "lan0".into(),
        reverse: false,
        bytes: 200,
        segments: 1,
        ttl: 64,
        syn: false,
        verdict: VerdictView::Forwarded,
        reason: None,
        decision: Some(if number == 3 { "path-unusable" } else { "known" }.into()),
        path: Some(path(u32::from(number >= 3))),
        from_path: (number == 3).then(|| path(0)),
        second: None,
        class: Some("voip-video".into()),
        policy: Some("voip-video".into()),
        message: format!("packet {number}"),
    }
}

fn status(health: Health, store: &Store) -> StatusView {
    StatusView {
        version: VERSION,
        health,
        problems: Vec::new(),
        daemon_version: "test".into(),
        pid: std::process::id(),
        uptime_s: 1,
        started_unix_ms: 1,
        mesh: MeshId([1; 16]),
        site: SiteId([2; 16]),
        site_name: "here".into(),
        overlay: None,
        prefixes: Vec::new(),
        certificate_expires_unix: None,
        tunnel_backend: "kernel".into(),
        fast_path: "both".into(),
        attach_mode: "detached".into(),
        attached: Vec::new(),
        uplinks: Vec::new(),
        sites: Default::default(),
        paths: Default::default(),
        policies: 4,
        drops: Default::default(),
        drop_rules: Default::default(),
        xdp: Default::default(),
        passes: Default::default(),
        refused_announcements: Default::default(),
        stalls: 0,
        decisions: BTreeMap::new(),
        api_refused: Default::default(),
        internal_drops: Default::default(),
        stamp_reflector: Default::default(),
        mtu_probes: Default::default(),
        store: store.health(),
    }
}
