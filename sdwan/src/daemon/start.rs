//! Start and end of the daemon. Everything that can be wrong is found before anything is changed; what an earlier
//! daemon left in the kernel goes on working all the while.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::capacity;
use super::core::{Core, Exit, Inbox, Outbox, Parts};
use super::desired::Identity;
use super::mtu::Mtu;
use super::plane::Plane;
use super::policies::{self, Policies};
use super::reload::Reloader;
use super::routes::RouteTask;
use super::settings::{backend_choice, dataplane_settings, discovery_config, uplink_specs, with_indices};
use super::supervisor;
use super::teardown::teardown;
use crate::api::dashboard;
use crate::api::request::{Changed, Refusal, Reply, Request};
use crate::api::scrape;
use crate::api::server::{Api, ServeError, Server};
use crate::api::tls::{Tls, TlsError};
use crate::api::views::DoneView;
use crate::config::Config;
use crate::confine::{self, precedence};
use crate::dataplane::{self, Dataplane, EventStream, Layout, Reader};
use crate::discovery::{self, DiscoveryError, DiscoveryHandle};
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::{Engine, Local};
use crate::measure::stamp::listen::{ListenError, Listener, run_and_warn};
use crate::measure::{Prober, clock};
use crate::net::monitor::Monitor;
use crate::net::{self, NetSnapshot, Network, UplinkSpec};
use crate::recording::{self, Header, PolicySet, Record, RecordError, RecordFile, RecordedEngine, Recorder, Recording};
use crate::store::{StateLock, Store, StoreError};
use crate::trust::state::{SiteFiles, SiteState, StateError};
use crate::tunnel::{self, BackendKind, TunnelReconciler, TunnelTask, choose_backend, open_backend};

/// Answers to probes that may wait for the core.
const REPLIES: usize = 8_192;
/// Notices of peers that wait.
const NOTICES: usize = 256;
/// Capacities found that may wait for the core.
const CAPACITIES: usize = 1_024;
/// Questions of the API that may wait.
const REQUESTS: usize = 64;
/// Events of the programs that may wait.
const PLANE_EVENTS: usize = 4_096;
/// Records of a trace that may wait for the core.
const TRACED: usize = 4_096;
/// How long the last answer of the API gets to reach the asker.
pub(super) const ANSWER: Duration = Duration::from_millis(100);

/// Why the daemon doesn't start; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Missing privileges.
    #[error(
        "missing the capabilities {missing}: run as root, or give the service these with AmbientCapabilities= and \
         CapabilityBoundingSet="
    )]
    Privileges {
        /// Which.
        missing: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The site's keys and certificate.
    #[error(transparent)]
    State(#[from] StateError),
    /// No certificate yet.
    #[error(
        "{directory} holds no certificate yet: have {request} signed with `sdwan mesh admit`, then run \
         `sdwan site install CERT`"
    )]
    NoCertificate {
        /// The state directory.
        directory: PathBuf,
        /// The request.
        request: PathBuf,
    },
    /// Another site than the operator thinks.
    #[error("{directory} holds the site {found}, and {asked} was asked for: check --site-id and --state-dir")]
    OtherSite {
        /// The state directory.
        directory: PathBuf,
        /// What is there.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// A prefix that may not be announced.
    #[error("site.prefixes: {prefix} is not in this site's certificate, which allows {allowed}")]
    Prefix {
        /// The prefix.
        prefix: ipnet::IpNet,
        /// Those that are allowed.
        allowed: String,
    },
    /// The policies.
    #[error(transparent)]
    Policies(#[from] policies::Error),
    /// The network.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The data path.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// WireGuard.
    #[error(transparent)]
    Tunnel(#[from] tunnel::Error),
    /// Discovery.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The STAMP reflector.
    #[error(transparent)]
    Stamp(#[from] ListenError),
    /// The API's socket.
    #[error(transparent)]
    Api(#[from] ServeError),
    /// The API over TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The recording.
    #[error(transparent)]
    Record(RecordError),
    /// A resource of the system.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal, or by `sdwan down`.
    Stopped,
    /// To be executed anew.
    Reload,
}

/// Runs until SIGTERM, SIGINT, `sdwan down` or a reload; the lock keeps a second daemon off meanwhile. After a signal,
/// tunnels, programs and maps stay and carry packets. The caller has checked the privileges
/// ([`super::check_privileges`]).
///
/// What the engine is told goes into `recording`, if there is one.
pub async fn run(
    config: Config,
    recording: Option<Recording>,
    reloader: Reloader,
    _lock: StateLock,
) -> Result<Ended, StartError> {
    let monitor = Monitor::start().await?;
    Server::check_free(&config.site.socket).await?;
    let network = monitor.snapshots().borrow().clone();
    let stamp = Listener::open(&config.stamp.addresses(), &config.stamp.settings().map_err(ListenError::from)?)?;
    let mut grounds = Grounds::find(&config, &network, || Store::open(&config.site.database, &config.store))?;
    let tls = grounds.tls.take();
    let store = grounds.store.clone();
    let file = recording.map(|recording| Ok((RecordFile::create(&recording.file)?, recording.limit)));
    grounds.recording = file.transpose().map_err(StartError::Record)?;
    grounds.specs = with_indices(grounds.specs, &config, &store)?;
    let server = Server::bind(&config.site.socket).await?;
    // … and from here on the kernel, by steps that can be repeated.
    let first = !dataplane::anything_pinned(&config.dataplane.bpffs)?;
    let mut running = match Running::open(&config, grounds, stamp, &monitor).await {
        Err(error) if first => {
            // Nothing carried packets before: what was made on the way is of no use to anybody.
            if let Err(left) = teardown(&config).await {
                warn!("not everything that the failed start made could be removed, try `sdwan down`: {left}");
            }
            return Err(error);
        }
        opened => opened?,
    };
    let addresses = dashboard::addresses(&config.dashboard.listen, &config.api.listen, tls.as_ref());
    let answers = Api::new(running.requests.clone(), store.clone())?.with_addresses(addresses);
    let shown = tokio::spawn(dashboard::run(config.dashboard.listen.clone(), answers.clone()));
    let scraped = tokio::spawn(scrape::run(config.metrics.listen.clone(), answers.clone()));
    let secured = tls.map(|tls| tokio::spawn(answers.clone().run_tls(tls)));
    let api = tokio::spawn(server.run(answers));
    info!(socket = %config.site.socket.display(), confined = confine::outcome(), "ready");
    supervisor::ready();

    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut ended = Ended::Stopped;
    let (core, exit) = loop {
        let reply = tokio::select! {
            ended = &mut running.core => break joined(ended)?,
            _ = terminate.recv() => break running.stop().await?,
            _ = interrupt.recv() => break running.stop().await?,
            _ = hang_up.recv() => None,
            Some(reply) = running.reloads.recv() => Some(reply),
        };
        let network = monitor.snapshots().borrow().clone();
        if reloader.prepare(&config, &store, network, reply).await {
            ended = Ended::Reload;
            break running.stop().await?;
        }
    };
    if ended == Ended::Stopped {
        supervisor::stopping();
    }
    finish(config, core, exit, store, running).await?;
    api.abort();
    // Their sockets are closed then, and a start that follows can have their addresses.
    for listening in [Some(scraped), Some(shown), secured].into_iter().flatten() {
        listening.abort();
        let _ = listening.await;
    }
    Ok(ended)
}

/// What a start rests on, found before the kernel is touched.
pub(super) struct Grounds {
    state: SiteState,
    identity: Identity,
    backend: BackendKind,
    specs: Vec<UplinkSpec>,
    store: Store,
    policies: Policies,
    /// The API over TLS, if it is to be served.
    tls: Option<Tls>,
    /// Where what the engine is told is to be written, and how much of it.
    recording: Option<(RecordFile, u64)>,
}

impl Grounds {
    /// Finds out whether the daemon can start with what is on disk and on the machine, and changes neither. `open`
    /// gives the store; nothing is wrong with the rest when it is called.
    pub(super) fn find(
        config: &Config,
        network: &NetSnapshot,
        open: impl FnOnce() -> Result<Store, StoreError>,
    ) -> Result<Self, StartError> {
        let files = SiteFiles::new(&config.site.state_dir);
        let state = files.load()?;
        let identity = site_identity(config, &files, &state)?;
        Layout::new(&config.dataplane.bpffs).check()?;
        let backend = choose_backend(backend_choice(config.tunnel.backend))?;
        let specs = uplink_specs(config, network)?;
        config.stamp.settings().map_err(ListenError::from)?;
        let tls = Tls::load(&config.api)?;
        let store = open()?;
        let policies = Policies::load(config, &store)?;
        Ok(Self { state, identity, backend, specs, store, policies, tls, recording: None })
    }
}

/// The tasks.
struct Running {
    core: oneshot::Receiver<(Core, Exit)>,
    stop: Option<oneshot::Sender<()>>,
    requests: mpsc::Sender<Request>,
    reloads: mpsc::Receiver<Reply<Changed>>,
    discovery: DiscoveryHandle,
    routes: RouteTask,
    tunnels: TunnelTask,
    _events: [EventStream; 2],
    _stamp: StampTask,
}

/// The STAMP reflector outside the tunnels; ends when this is dropped.
struct StampTask(JoinHandle<()>);

impl Drop for StampTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    async fn open(config: &Config, grounds: Grounds, stamp: Listener, monitor: &Monitor) -> Result<Self, StartError> {
        let mut dataplane = Dataplane::open(&dataplane_settings(config))?;
        dataplane.set_xdp_mode(config.xdp.mode);
        let reconciler = TunnelReconciler::new(open_backend(grounds.backend, None)?);
        let network = Network::connect()?;
        let overlay = grounds.identity.overlay;
        network.set_overlay_address(Some(overlay), &[overlay]).await?;
        Self::start(config.clone(), grounds, stamp, dataplane, reconciler, network, monitor).await
    }

    async fn start(
        config: Config,
        grounds: Grounds,
        stamp: Listener,
        dataplane: Dataplane,
        reconciler: TunnelReconciler,
        network: Network,
        monitor: &Monitor,
    ) -> Result<Self, StartError> {
        let Grounds { state, identity, store, policies, specs, recording, .. } = grounds;
        let mesh = state.mesh.id;
        let SiteState { mesh: mesh_description, identity: key, wireguard, certificate, revocations, .. } = state;
        let certificate = certificate.ok_or_else(|| no_certificate(&config))?;
        let expires = certificate.content.not_after;
        let layout = dataplane.layout().clone();
        let (reader, scanner) = (Reader::open(&layout)?, Reader::open(&layout)?);
        let (events_sender, plane_events) = mpsc::channel(PLANE_EVENTS);
        let events = EventStream::start(&layout, events_sender)?;
        let (traced_sender, traced) = mpsc::channel(TRACED);
        let traces = EventStream::traces(&layout, traced_sender)?;
        let (discovery, discovered) = discovery::start(
            discovery::Identity { mesh: mesh_description, key, certificate, revocations },
            discovery_config(&config),
            Box::new(store.sequences()),
        )
        .await?;
        let port = config.discovery.port;
        let seeds = config.discovery.seeds.iter();
        discovery.set_seeds(seeds.map(|seed| discovery::Seed::new(&seed.host, seed.port.unwrap_or(port))).collect());
        let (replies_sender, replies) = mpsc::channel(REPLIES);
        let (notices_sender, notices) = mpsc::channel(NOTICES);
        let prober = Prober::new(identity.overlay, replies_sender, notices_sender, stamp.counters());
        let local = Local { id: identity.site, prefixes: identity.prefixes.clone(), mtu: config.tunnel.mtu };
        let engine = recorded_engine(&config, &identity, local, &policies, recording)?;
        let plane = Plane::start(dataplane)
            .map_err(|source| StartError::System { action: "start the data plane's thread", source })?;
        let plane_status = plane.status();
        let (tunnels_sender, desired_tunnels) = watch::channel(None);
        let (routes_sender, desired_routes) = watch::channel(None);
        let tunnels = TunnelTask::start(reconciler, desired_tunnels, monitor.snapshots());
        let routes =
            RouteTask::start(network, identity.clone(), &config.site.state_dir, desired_routes, monitor.snapshots());
        let (mtu, mtus) = Mtu::start(identity.site, &config);
        let (requests_sender, requests) = mpsc::channel(REQUESTS);
        let (stop_sender, stop) = oneshot::channel();
        let (capacities_sender, capacities) = mpsc::channel(CAPACITIES);
        let measured =
            capacity::start(config.capacity.clone(), identity.overlay, Reader::open(&layout)?, capacities_sender);
        let inbox = Inbox {
            replies,
            notices,
            capacities,
            requests,
            discovery: discovered,
            mtus,
            plane_events,
            traced,
            snapshots: monitor.snapshots(),
            tunnels: tunnels.reports(),
            plane: plane_status,
            stop,
        };
        let (reloads_sender, reloads) = mpsc::channel(1);
        let outbox = Outbox {
            tunnels: tunnels_sender,
            routes: routes_sender,
            plane,
            discovery: discovery.clone(),
            mtu,
            capacity: measured,
            reloads: reloads_sender,
        };
        let tunnel_backend = tunnels.kind();
        let message = format!(
            "sdwan {} started as site {} ({}), {tunnel_backend} WireGuard",
            env!("CARGO_PKG_VERSION"),
            identity.name,
            identity.site
        );
        let core = Core::new(Parts {
            config,
            identity,
            mesh,
            certificate_expires_unix: expires,
            engine,
            policies,
            store,
            prober,
            reader,
            scanner,
            specs,
            wireguard,
            tunnel_backend,
            outbox,
        });
        core.event(EngineEvent::new(EventKind::DaemonStarted, message));
        // Answers are taken on a thread of their own, which no other task's work holds up.
        let runtime = Builder::new_current_thread()
            // What the core has others do for it, such as scans of the flow table, goes before nobody.
            .on_thread_start(precedence::give_up)
            .enable_all()
            .build()
            .map_err(|source| StartError::System { action: "start the core's thread", source })?;
        let (ended, core_ended) = oneshot::channel();
        let work = move || {
            // Whoever waits for it may have ended.
            let _ = ended.send(runtime.block_on(core.run(inbox)));
        };
        let named = std::thread::Builder::new().name("core".into());
        named.spawn(work).map_err(|source| StartError::System { action: "start the core's thread", source })?;
        Ok(Self {
            core: core_ended,
            stop: Some(stop_sender),
            requests: requests_sender,
            reloads,
            discovery,
            routes,
            tunnels,
            _events: [events, traces],
            _stamp: StampTask(tokio::spawn(run_and_warn(stamp))),
        })
    }

    async fn stop(&mut self) -> Result<(Core, Exit), StartError> {
        if let Some(stop) = self.stop.take() {
            // A core that has ended meanwhile doesn't listen; joining it below is all that is left.
            let _ = stop.send(());
        }
        joined((&mut self.core).await)
    }
}

fn joined(ended: Result<(Core, Exit), oneshot::error::RecvError>) -> Result<(Core, Exit), StartError> {
    // A panic has been told by its hook.
    let failed = |_| StartError::System { action: "go on", source: io::Error::other("the core failed") };
    ended.map_err(failed)
}

async fn finish(config: Config, core: Core, exit: Exit, store: Store, mut running: Running) -> Result<(), StartError> {
    let reply = match exit {
        Exit::Stop => {
            core.event(EngineEvent::new(EventKind::DaemonStopped, "the daemon stops; tunnels and programs stay"));
            None
        }
        Exit::Down(reply) => {
            core.event(EngineEvent::new(
                EventKind::DaemonStopped,
                "the daemon stops and removes everything of its own",
            ));
            Some(reply)
        }
    };
    if let Some(reply) = reply {
        if running.discovery.leave().await.is_err() {
            warn!("discovery had stopped before it could say goodbye");
        }
        // The core owns the maps' thread and the sockets on the tunnels: gone before what they stand on.
        drop(core);
        // With the core their inputs end. One that is at work now would make again what is about to go.
        running.routes.ended().await;
        running.tunnels.ended().await;
        let outcome = teardown(&config).await;
        let answer = match &outcome {
            Ok(removed) => Ok(DoneView::new(removed.to_string())),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        };
        drop(reply.send(answer));
        tokio::time::sleep(ANSWER).await;
        outcome?;
    }
    store.close()?;
    Ok(())
}

/// The engine, and the recording of what it is told from the very beginning.
fn recorded_engine(
    config: &Config,
    identity: &Identity,
    local: Local,
    policies: &Policies,
    recording: Option<(RecordFile, u64)>,
) -> Result<RecordedEngine, StartError> {
    let settings = config.engine_settings();
    let compilation = policies.compilation().clone();
    let record = |(file, limit): (RecordFile, u64)| {
        let header = Header {
            sdwan_recording: recording::VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            site: identity.site,
            name: identity.name.clone(),
            started: clock::now(),
            started_unix_ns: clock::unix_ns(),
            settings: settings.clone(),
            local: local.clone(),
            policies: PolicySet::of(&compilation),
        };
        Recorder::start(file, limit, &header)
            .map_err(|source| StartError::System { action: "begin the recording", source })
    };
    let recorder = recording.map(record).transpose()?;
    let engine = Engine::new(settings.clone(), local.clone(), compilation.clone());
    Ok(RecordedEngine::new(engine, recorder.map(|recorder| Box::new(recorder) as Box<dyn Record>)))
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, StartError> {
    signal(kind).map_err(|source| StartError::System { action: "listen to signals", source })
}

fn no_certificate(config: &Config) -> StartError {
    let files = SiteFiles::new(&config.site.state_dir);
    StartError::NoCertificate { directory: config.site.state_dir.clone(), request: files.request() }
}

/// Who this site is, by its certificate and what the configuration says of it.
fn site_identity(config: &Config, files: &SiteFiles, state: &SiteState) -> Result<Identity, StartError> {
    let certificate = state.certificate.as_ref().ok_or_else(|| no_certificate(config))?;
    let site = state.identity.site();
    if let Some(asked) = config.site.id.filter(|asked| *asked != site) {
        return Err(StartError::OtherSite {
            directory: files.directory().into(),
            found: site.to_string(),
            asked: asked.to_string(),
        });
    }
    if let Some(asked) = config.site.name.as_ref().filter(|asked| **asked != certificate.content.name) {
        return Err(StartError::OtherSite {
            directory: files.directory().into(),
            found: certificate.content.name.clone(),
            asked: asked.clone(),
        });
    }
    let prefixes = match config.site.prefixes.is_empty() {
        true => certificate.content.prefixes.clone(),
        false => config.site.prefixes.clone(),
    };
    if let Some(prefix) = prefixes.iter().find(|prefix| !certificate.allows(prefix)) {
        let allowed = certificate.content.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(StartError::Prefix { prefix: *prefix, allowed });
    }
    let overlay = state.mesh.overlay_address(site);
    Ok(Identity { site, name: certificate.content.name.clone(), overlay, prefixes })
}
