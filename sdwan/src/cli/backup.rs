//! `sdwan backup`: all that makes this machine its site, in one file that `tar` puts back.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{Context, Exit};
use crate::api::views::VERSION;
use crate::config::{self, Config, Options};
use crate::net::sysctl;
use crate::store::Reader;

/// Files of a state directory are small; what is larger there isn't the site's own, such as a recording.
const MOST: u64 = 4 << 20;

/// Options of `sdwan backup`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
It holds the keys, the certificate, the revocations, the configuration, the API's certificate and key, and the database
with policies, tokens and history. Whoever has it can be this site: keep it as you keep a private key. The daemon may
run meanwhile. To put it back, on the same machine or on another one that takes its place:

  systemctl stop sdwan; tar -xzf FILE -C /; systemctl start sdwan")]
pub(super) struct Args {
    /// The file to write, which must not exist
    file: PathBuf,
    /// Leave the database out: policies and tokens that were added by commands, and history
    #[arg(long)]
    without_database: bool,
    /// Directory of the keys and the certificate [default: state_dir of the configuration]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// What the command tells.
#[derive(Serialize)]
struct Written {
    version: u32,
    file: PathBuf,
    files: Vec<PathBuf>,
    left_out: Vec<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        // The configuration takes none that depend on where the daemon runs; this command runs here.
        let state_dir =
            self.state_dir.as_deref().map(std::path::absolute).transpose().context("cannot tell where it is")?;
        let config = context.load(Options { state_dir, ..Options::default() })?;
        let certificate = config.site.state_dir.join("site.cert");
        anyhow::ensure!(
            certificate.exists(),
            "there is no {}: this machine is no site of a mesh, or its state is elsewhere: see --state-dir",
            certificate.display()
        );
        // Keys are in it: for the owner alone, from the beginning.
        let sink = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file);
        let sink = sink.with_context(|| format!("cannot make {}: choose another file", self.file.display()))?;
        let written = self.write(context, &config, sink);
        if written.is_err() {
            // Half a backup is worse than none.
            let _ = fs::remove_file(&self.file);
        }
        let written = written?;
        context.output.print(&written, |_| {
            let mut text = format!("{} is written: {} files\n", written.file.display(), written.files.len());
            written.left_out.iter().for_each(|what| text.push_str(&format!("without {what}\n")));
            text
        })?;
        Ok(Exit::Ok)
    }

    fn write(&self, context: &Context, config: &Config, sink: File) -> anyhow::Result<Written> {
        let mut archive = tar::Builder::new(GzEncoder::new(sink, Compression::default()));
        let mut written =
            Written { version: VERSION, file: self.file.clone(), files: Vec::new(), left_out: Vec::new() };
        for path in files(context, config, &mut written.left_out)? {
            add(&mut archive, &path, &path)?;
            written.files.push(path);
        }
        let database = &config.site.database;
        if self.without_database {
            written.left_out.push("the database".into());
        } else if database.exists() {
            let copy = Copy::of(database, &self.file)?;
            add(&mut archive, &copy.0, database)?;
            written.files.push(database.clone());
        } else {
            written.left_out.push(format!("a database: there is no {} yet", database.display()));
        }
        let mut file = archive.into_inner().and_then(GzEncoder::finish).context("cannot write the file")?;
        file.flush().and_then(|()| file.sync_all()).context("cannot write the file")?;
        Ok(written)
    }
}

/// A copy of the database as it is at this moment; it goes with this value.
struct Copy(PathBuf);

impl Copy {
    fn of(database: &Path, beside: &Path) -> anyhow::Result<Self> {
        let mut name = beside.as_os_str().to_owned();
        name.push(".database");
        let copy = Self(name.into());
        // SQLite takes an empty file, and leaves its mode.
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&copy.0);
        made.with_context(|| format!("cannot make {}", copy.0.display()))?;
        Reader::open(database)?.copy_to(&copy.0)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Everything but the database.
fn files(context: &Context, config: &Config, left_out: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
    let site = &config.site;
    let mut files = Vec::new();
    let database = site.database.as_os_str().as_encoded_bytes();
    let directory = &site.state_dir;
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        let temporary = entry.file_name().as_encoded_bytes().starts_with(b".");
        // With its journals, and what was damaged and moved aside.
        let of_database = path.as_os_str().as_encoded_bytes().starts_with(database);
        // What to put back by `down` belongs to this machine, at this time.
        let of_machine = path == site.lock || entry.file_name() == sysctl::FILE;
        if !metadata.is_file() || temporary || of_database || of_machine {
            continue;
        }
        if metadata.len() > MOST {
            left_out.push(format!("{}: it is larger than what a site has there", path.display()));
            continue;
        }
        files.push(path);
    }
    let configuration = context.global.config.clone().unwrap_or_else(|| config::DEFAULT_FILE.into());
    let of_api = [&config.api.certificate, &config.api.key, &config.api.client_ca];
    let others = std::iter::once(configuration).chain(of_api.into_iter().flatten().cloned());
    files.extend(others.filter(|path| path.is_file()));
    files.sort();
    files.dedup();
    Ok(files)
}

/// Adds the content of a file under the name of another one, which is where it is put back below `/`.
fn add(archive: &mut tar::Builder<GzEncoder<File>>, from: &Path, name: &Path) -> anyhow::Result<()> {
    let name = std::path::absolute(name).with_context(|| format!("cannot tell where {} is", name.display()))?;
    let name = name.strip_prefix("/").unwrap_or(&name);
    archive.append_path_with_name(from, name).with_context(|| format!("cannot add {}", from.display()))
}
