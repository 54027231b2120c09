//! The dashboard, in a real browser, with a real mesh behind it.

mod http;
mod load;
mod login;
mod page;

use std::path::Path;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Impairment, Provider};
use sdwan_tests::browser::Browser;
use sdwan_tests::failover::QUICK_RETURN;
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions, UplinkRate};
use sdwan_tests::pace::patience;

/// Where the gateways serve it.
const ADDRESS: &str = "127.0.0.1:51880";
const SITES: [&str; 3] = ["berlin", "lyon", "porto"];
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh of three sites that is up, with a good line and a slow one each, and the dashboard at each gateway.
fn mesh() -> Mesh {
    let providers = ["fibre", "lte"].map(|name| (name, Provider::Bridge));
    let mut builder = Bed::builder().sites(SITES).providers(providers);
    for site in SITES {
        builder = builder.impair(site, "fibre", Impairment::delay(Duration::from_millis(4))).impair(
            site,
            "lte",
            Impairment::delay(Duration::from_millis(22)),
        );
    }
    let rates = vec![UplinkRate::mbps("fibre", 200.0, 200.0), UplinkRate::mbps("lte", 40.0, 40.0)];
    let extra = format!("{QUICK_RETURN}\n[dashboard]\nlisten = [\"{ADDRESS}\", \"[::1]:51880\"]\n");
    let bed = builder.build().expect("the bed is built");
    let mesh =
        Mesh::prepare(bed, &MeshOptions { rates, extra, ..MeshOptions::default() }).expect("the mesh is prepared");
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    mesh
}

/// A browser at a gateway.
fn browser(gateway: &Gateway) -> Browser {
    Browser::start(|program: &Path| gateway.namespace().command(program))
}

/// The link that `sdwan dashboard --login` prints for the first address.
fn login_link(gateway: &Gateway, arguments: &[&str]) -> String {
    let text = gateway.text(&[&["dashboard", "--login"], arguments].concat()).expect("a login");
    text.lines().next().expect("an address").to_owned()
}
