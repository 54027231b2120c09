//! `sdwan api-schema`.

use super::Exit;
use super::output::Output;
use crate::api::openapi;

/// Options of `sdwan api-schema`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
A running daemon has the same document at /v1/openapi.json. Needs no daemon.

Example:
  sdwan api-schema > openapi.json")]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<Exit> {
        output.write(openapi::text())?;
        Ok(Exit::Ok)
    }
}
