//! Packs the dashboard's pages, if they were built, and makes the table of them: `$OUT_DIR/dashboard.rs`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Directory of the pages, relative to the workspace. It is always there, for it has a `.gitignore`.
pub const PAGES: &str = "web/dist";

/// Packs all files below `pages` into `out`.
pub fn pack(pages: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    find(pages, &mut files)?;
    files.sort();
    // Without the page itself the rest is of no use: the build was broken off.
    if !pages.join("index.html").is_file() {
        files.clear();
    }
    let mut table = String::from("static FILES: &[File] = &[\n");
    for (number, file) in files.iter().enumerate() {
        let name = file.strip_prefix(pages)?.to_str().ok_or("a file of the dashboard has a name that is no UTF-8")?;
        let path = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        let packed = out.join(format!("page-{number}.gz"));
        let mut encoder = GzEncoder::new(fs::File::create(&packed)?, Compression::best());
        encoder.write_all(&fs::read(file)?)?;
        encoder.finish()?;
        let content_type = content_type(name)?;
        writeln!(
            table,
            "    File {{ path: {path:?}, content_type: {content_type:?}, gzip: include_bytes!({packed:?}) }},"
        )?;
    }
    table.push_str("];\n");
    fs::write(out.join("dashboard.rs"), table)?;
    Ok(())
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            files.push(path);
        }
    }
    Ok(())
}

fn content_type(name: &str) -> Result<&'static str, String> {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => Ok("text/html; charset=utf-8"),
        "js" => Ok("text/javascript; charset=utf-8"),
        "css" => Ok("text/css; charset=utf-8"),
        "svg" => Ok("image/svg+xml"),
        "txt" => Ok("text/plain; charset=utf-8"),
        _ => Err(format!("{name} in {PAGES} is of a kind that build/pages.rs doesn't know: add it there")),
    }
}
