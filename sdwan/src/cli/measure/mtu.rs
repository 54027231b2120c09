//! `sdwan measure mtu PATH`.

use super::super::output::Output;
use super::super::{Context, Exit};
use crate::api::views::MtuView;

/// Options of `sdwan measure mtu`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Probes go on the underlay from uplink to uplink, with Don't Fragment, by RFC 8899: a size counts only when a packet of
exactly that size was acknowledged. It takes a second or two, longer where packets are lost. Traffic uses the result
at once. The exit code is 1 when nobody answers.

Examples:
  sdwan measure mtu berlin 0-1
  sdwan measure mtu berlin 'fibre→lte' -o json")]
pub(in crate::cli) struct Args {
    /// The path: SITE and TUNNEL (0-1, or its uplinks), or its number in `sdwan paths -o json`
    #[arg(required = true, num_args = 1..=2, value_name = "PATH")]
    path: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let view = context.client()?.measure_mtu(&self.path.join(" ")).await?;
        context.output.print(&view, |_: &Output| render(&view))?;
        Ok(if view.contact { Exit::Ok } else { Exit::Failed })
    }
}

/// The whole screen.
pub(in crate::cli) fn render(view: &MtuView) -> String {
    let endpoint = view.endpoint.as_deref().unwrap_or("nowhere");
    let path = format!("{} {} ({}→{})", view.site_name, view.tunnel, view.local_uplink, view.remote_uplink);
    let probes = format!("{} probes, {} without an answer, {:.0} ms", view.probes, view.unanswered, view.took_ms);
    let result = match (view.contact, view.underlay_mtu, view.room) {
        (false, ..) => format!(
            "nobody answers probes at {endpoint}: the MTU stays as it was. Is that UDP port open, and is the peer's sdwan \
             recent enough?\n"
        ),
        (true, Some(mtu), Some(room)) if view.finished => {
            format!("path MTU:  {mtu} bytes on the underlay, {room} of them inside the tunnel\n")
        }
        (true, Some(mtu), _) => format!("path MTU:  {mtu} bytes at least; the search goes on\n"),
        (true, ..) => "the search goes on: `sdwan paths` will show its result\n".into(),
    };
    format!("path:      {path}\nprobed at: {endpoint}\nsearch:    {probes}\n{result}")
}
